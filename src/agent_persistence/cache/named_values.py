"""Small named values that expire and may be lost; all processes share them where Redis is configured."""

from __future__ import annotations

import re
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from agent_persistence.cache.circuit_breaker import CacheUnavailableError, CircuitBreaker
from agent_persistence.cache.keys import value_key
from agent_persistence.cache.line import Command, Line
from agent_persistence.cache.state_cache import FORGETTING, Hit, Miss, StateCache
from agent_persistence.concurrency.batching import Batch, Batcher
from agent_persistence.concurrency.process_lock import ProcessLock

_MOST_BYTES: Final = 32 * 1024 * 1024
_ENTRY_BYTES: Final = 400  # that an entry takes beside its texts, at most; measured with Python 3.11
_SWEEP_SECONDS: Final = 1.0
_KEYS_A_STEP: Final = 500

Name = tuple[str, str]
"""A namespace, and a name in it."""


class RedisValues:
    """Named values beside the cached states of a database.

    Every method raises ``CacheUnavailableError`` if Redis does not answer in time.

    Args:
        cache: the cache whose client and namespace are used.
        call_seconds: the longest time that one call may take.
    """

    def __init__(self, cache: StateCache, *, call_seconds: float) -> None:
        self._cache = cache
        # A second circuit breaker: a large value that takes long must not open that of the states.
        self._guard = CircuitBreaker(call_seconds=call_seconds, budget_seconds=call_seconds)
        self._calls: Batcher[Command, Any] = Batcher(self._call_together)
        self._callers = 0
        self._usual_size = 0

    async def put(self, name: Name, value: bytes, *, ttl_seconds: float) -> None:
        """Set a value that expires after so many seconds."""
        key = self._key(name)
        await self._call("SET", key, _sealed(key, value), "PX", max(1, int(ttl_seconds * 1000)), size=len(value))

    async def get(self, name: Name) -> bytes | None:
        """Return a value, or ``None`` if it is absent, has expired, or was not written under this name."""
        key = self._key(name)
        found = await self._call("GET", key, size=self._usual_size)
        # Large values are read a few at a time, as in the cache of states.
        self._usual_size = max(len(found or b""), int(self._usual_size * FORGETTING))
        return _opened(key, found)

    async def get_beside_state(self, name: Name, thread_id: Any, user_id: Any) -> tuple[Hit | Miss, bytes | None]:
        """Look up a thread's latest state, and return this value with it, in one round trip."""
        key = self._key(name)
        found, [held] = await self._cache.look_beside(thread_id, user_id, key)
        return found, _opened(key, held)

    async def delete(self, name: Name) -> bool:
        """Delete a value; return whether it existed."""
        return bool(await self._call("DEL", self._key(name)))

    async def names(self, namespace: str) -> list[str]:
        """Return the names in a namespace, in no particular order."""
        beginning = self._key((namespace, ""))
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", beginning) + b"*"
        # SCAN may return a key more than once.
        found: set[bytes] = set()
        cursor: int | bytes = 0
        while True:
            cursor, keys = await self._call("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_A_STEP)
            found.update(keys)
            if not int(cursor):
                names = (_name_in(key.removeprefix(beginning)) for key in found)
                return [name for name in names if name is not None and self._key((namespace, name)) in found]

    async def _call(self, *command: Any, size: int = 0) -> Any:
        """Run a command, together with those of other callers."""
        self._callers += 1
        try:
            # A lone caller pays for no batch: that is a task, and half as much time again.
            [reply] = await (self._send([command]) if self._callers == 1 else self._share(command, size))
        finally:
            self._callers -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _share(self, command: Command, size: int) -> list[Any]:
        return [await self._calls.submit(command, size=size)]

    async def _call_together(self, batch: Batch[Command]) -> list[Any]:
        return await self._send(batch.items)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        # Before the database is named, all databases would share their keys.
        if not self._cache.is_named:
            raise CacheUnavailableError
        send = partial(_replies, self._cache.line, commands)
        return await self._guard.call(send, self._guard.budget(), callers=len(commands))

    def _key(self, name: Name) -> bytes:
        return value_key(self._cache.namespace, *name)


def _name_in(quoted: bytes) -> str | None:
    """Return the name in the end of a key; ``None`` if another program has made the key."""
    try:
        return unquote(quoted.decode(), errors="surrogatepass")
    except UnicodeDecodeError:
        return None


async def _replies(line: Line, commands: Sequence[Command]) -> list[Any]:
    """Send commands, and return the reply to each, or the error that its caller raises."""
    replies = list(map(_understood, await line.send(commands)))
    if all(isinstance(reply, CacheUnavailableError) for reply in replies):
        raise replies[0]  # counts as a failure of Redis
    return replies


def _understood(reply: Any) -> Any:
    if not isinstance(reply, Exception):
        return reply
    if str(reply).startswith("WRONGTYPE"):  # another program's list or hash; Redis itself is well
        return None
    refused = CacheUnavailableError()
    refused.__cause__ = reply
    return refused


def _sealed(key: bytes, value: bytes) -> bytes:
    """Return a value with its checksum and key in front, as ``codec`` does it for states."""
    return b"%08x %b\n%b" % (zlib.crc32(value), key, value)


def _opened(key: bytes, found: Any) -> bytes | None:
    """Return the value; ``None`` if it is damaged, or was copied from another key."""
    head, _, value = (found if isinstance(found, bytes) else b"").partition(b"\n")
    return value if head == b"%08x %b" % (zlib.crc32(value), key) else None


class LocalValues:
    """Named values in the memory of this process, where no Redis is configured; the oldest are evicted first.

    They take 32 MB at most. Thread-safe.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._lock = ProcessLock()
        self._most_bytes = most_bytes
        self._bytes = 0
        self._swept_at = 0.0
        self._values: OrderedDict[Name, tuple[bytes, float]] = OrderedDict()

    async def put(self, name: Name, value: bytes, *, ttl_seconds: float) -> None:
        """Set a value that expires after so many seconds; one that takes more than the limit is not kept."""
        with self._lock:
            self._drop(name)
            self._sweep()
            if (size := _size(name, value)) > self._most_bytes:
                return
            # A copy: the bytes of an encoder may have kilobytes of room behind them.
            self._values[name] = (bytes(memoryview(value)), time.monotonic() + ttl_seconds)
            self._bytes += size
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._values)))

    async def get(self, name: Name) -> bytes | None:
        """Return a value, or ``None`` if it is absent or has expired."""
        with self._lock:
            return self._get(name)

    async def delete(self, name: Name) -> bool:
        """Delete a value; return whether it existed."""
        with self._lock:
            existed = self._get(name) is not None
            self._drop(name)
            return existed

    async def names(self, namespace: str) -> list[str]:
        """Return the names in a namespace, in no particular order."""
        with self._lock:
            return [name[1] for name in list(self._values) if name[0] == namespace and self._get(name) is not None]

    def _get(self, name: Name) -> bytes | None:
        value, until = self._values.get(name, (b"", 0.0))
        if time.monotonic() < until:
            return value
        self._drop(name)
        return None

    def _drop(self, name: Name) -> None:
        if (former := self._values.pop(name, None)) is not None:
            self._bytes -= _size(name, former[0])

    def _sweep(self) -> None:
        """Drop expired values, at most once a second: each sweep looks at all of them."""
        now = time.monotonic()
        if now - self._swept_at < _SWEEP_SECONDS:
            return
        self._swept_at = now
        for name in [name for name, (_, until) in self._values.items() if until <= now]:
            self._drop(name)


def _size(name: Name, value: bytes) -> int:
    return _ENTRY_BYTES + sys.getsizeof(name[0]) + sys.getsizeof(name[1]) + len(value)


NamedValues = RedisValues | LocalValues
