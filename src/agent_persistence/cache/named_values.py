"""Small named values that expire and may be lost; all processes share them where Redis is configured."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final
from urllib.parse import quote, unquote

from redis.asyncio import Redis

from agent_persistence.cache.circuit_breaker import CacheUnavailableError, CircuitBreaker
from agent_persistence.cache.state_cache import StateCache
from agent_persistence.concurrency.process_lock import ProcessLock

_MOST_KEPT: Final = 10_000
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

    async def put(self, name: Name, value: bytes, *, ttl_seconds: int) -> None:
        """Set a value that expires after so many seconds."""
        await self._call(lambda redis: redis.set(self._key(name), value, ex=ttl_seconds))

    async def get(self, name: Name) -> bytes | None:
        """Return a value, or ``None`` if it is absent or has expired."""
        found: bytes | None = await self._call(lambda redis: redis.get(self._key(name)))
        return found

    async def delete(self, name: Name) -> bool:
        """Delete a value; return whether it existed."""
        return bool(await self._call(lambda redis: redis.delete(self._key(name))))

    async def names(self, namespace: str) -> list[str]:
        """Return the names in a namespace, in no particular order."""
        beginning = self._key((namespace, ""))
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", beginning) + b"*"
        # SCAN may return a key more than once.
        found: set[bytes] = set()
        cursor = 0
        while True:
            cursor, keys = await self._call(partial(_scan, cursor=cursor, pattern=pattern))
            found.update(keys)
            if not cursor:
                return [unquote(key.removeprefix(beginning).decode(), errors="surrogatepass") for key in found]

    async def _call(self, operation: Callable[[Redis], Awaitable[Any]]) -> Any:
        # Before the database is named, all databases would share their keys.
        if not self._cache.is_named:
            raise CacheUnavailableError
        return await self._guard.call(partial(operation, self._cache.redis), self._guard.budget())

    def _key(self, name: Name) -> bytes:
        namespace, last = (quote(part, safe="", errors="surrogatepass") for part in name)
        return f"{self._cache.namespace}:values:{namespace}:{last}".encode()


async def _scan(redis: Redis, *, cursor: int, pattern: bytes) -> Any:
    return await redis.scan(cursor, match=pattern, count=_KEYS_A_STEP)


class LocalValues:
    """Named values in the memory of this process, where no Redis is configured; the oldest are evicted first.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._values: OrderedDict[Name, tuple[bytes, float]] = OrderedDict()

    async def put(self, name: Name, value: bytes, *, ttl_seconds: int) -> None:
        """Set a value that expires after so many seconds."""
        with self._lock:
            self._values[name] = (value, time.monotonic() + ttl_seconds)
            self._values.move_to_end(name)
            while len(self._values) > _MOST_KEPT:
                self._values.popitem(last=False)

    async def get(self, name: Name) -> bytes | None:
        """Return a value, or ``None`` if it is absent or has expired."""
        with self._lock:
            return self._get(name)

    async def delete(self, name: Name) -> bool:
        """Delete a value; return whether it existed."""
        with self._lock:
            existed = self._get(name) is not None
            self._values.pop(name, None)
            return existed

    async def names(self, namespace: str) -> list[str]:
        """Return the names in a namespace, in no particular order."""
        with self._lock:
            return [name[1] for name in list(self._values) if name[0] == namespace and self._get(name) is not None]

    def _get(self, name: Name) -> bytes | None:
        value, until = self._values.get(name, (b"", 0.0))
        if time.monotonic() < until:
            return value
        self._values.pop(name, None)
        return None


NamedValues = RedisValues | LocalValues
