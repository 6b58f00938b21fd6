"""One Redis string a state: absent, a reader's lease ``L``, a writer's quarantine ``W``, or a value ``V``.

The commands of "quarantine, commit, publish", a register cut down from the IQ framework (Ghandeharizadeh, Yap, Nguyen:
Strong consistency in cache augmented SQL systems, Middleware 2014). Each command touches one key, so a Cluster will do,
and may safely run late or twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from agent_persistence.cache.codec import HEAD_BYTES, VALUE
from agent_persistence.settings import QUARANTINE_SECONDS

LEASE: Final = b"L"
QUARANTINE: Final = b"W"
LEASE_MS: Final = 2_000
QUARANTINE_MS: Final = int(QUARANTINE_SECONDS * 1000)

_KEYS_A_PAGE: Final = 1_000  # that the server looks at, whether they match or not

# Tokens are compared by a short GETRANGE: a value of a megabyte is not copied into Lua for that.
_HOLDS: Final = """
local function holds(token)
  return redis.call('STRLEN', KEYS[1]) == #token and redis.call('GETRANGE', KEYS[1], 0, #token - 1) == token
end
"""

# fill: my lease -> the value. Anything else, absence too: a writer came between.
_FILL: Final = (
    _HOLDS
    + """
if holds(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1 end
return 0
"""
)

# publish: my quarantine -> the value (or nothing, where there is none to publish); another writer's -> leave it;
# the same version or a newer one -> leave it; an older value or a lease -> delete it.
_PUBLISH: Final = (
    _HOLDS
    + """
if holds(ARGV[1]) then
  if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
  return 1
end
local head = redis.call('GETRANGE', KEYS[1], 0, 20)
local state = string.sub(head, 1, 1)
if state == 'W' then return 0 end
if state == 'V' and ARGV[2] ~= '' and string.sub(head, 2) >= string.sub(ARGV[2], 2, 21) then return 0 end
redis.call('DEL', KEYS[1])
return 0
"""
)

# abort: my quarantine -> nothing.
_ABORT: Final = (
    _HOLDS
    + """
if holds(ARGV[1]) then redis.call('DEL', KEYS[1]) return 1 end
return 0
"""
)

# invalidate: a quarantine that is nobody's. A full server refuses it, but still deletes; only another writer's
# quarantine stays then, which keeps readers away as well.
_INVALIDATE: Final = """
local set = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if set['err'] and redis.call('GETRANGE', KEYS[1], 0, 0) ~= 'W' then redis.call('DEL', KEYS[1]) end
"""


class KeyState(Enum):
    """What a key holds."""

    ABSENT = "absent"
    BUSY = "leased or quarantined"
    VALUE = "value"


class StateRegister:
    """The protocol's commands, one method each. Errors of Redis leave as they are: the guard sees to them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._reader: Redis | None = None
        self._fill = redis.register_script(_FILL)

    async def read(self, keys: Sequence[bytes]) -> list[tuple[KeyState, bytes]]:
        """Look at keys; one of another type than ours counts as absent where there are several."""
        if self._reader is None:
            self._reader = self._redis.client()  # a connection of its own: one from the pool costs more than a GET
        if len(keys) > 1:
            return [_read(held) for held in await self._reader.mget(keys)]
        try:
            return [_read(await self._reader.get(keys[0]))]
        except ResponseError as error:
            return [(KeyState.VALUE, _of_another_type(error))]

    async def aclose(self) -> None:
        """Give the reader's connection back to its pool."""
        if self._reader is not None:
            await self._reader.aclose()

    async def scan(self, pattern: bytes, cursor: int) -> tuple[int, list[bytes]]:
        """Walk through the keys that match: return the next cursor, 0 at the end, and some keys."""
        following, keys = await self._redis.scan(cursor, match=pattern, count=_KEYS_A_PAGE)
        return following, cast("list[bytes]", keys)  # the client decodes nothing

    async def heads(self, keys: Sequence[bytes]) -> list[bytes]:
        """Look at the beginning of several keys, where a value has its version; nothing where a key is absent."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.getrange(key, 0, HEAD_BYTES - 1)
            held = await pipeline.execute(raise_on_error=False)
        return [_of_another_type(head) if isinstance(head, Exception) else head for head in held]

    async def lease(self, key: bytes) -> bytes | None:
        """Take an absent key for filling; ``None`` where somebody else was first."""
        token = new_token(LEASE)
        return token if await self._redis.set(key, token, nx=True, px=LEASE_MS) else None

    async def fill(self, key: bytes, lease: bytes, value: bytes, ttl_ms: int) -> bool:
        """Store a value over one's own lease, and over nothing else."""
        return bool(await self._fill(keys=[key], args=[lease, value, ttl_ms]))

    async def begin_write(self, tokens: Mapping[bytes, bytes]) -> None:
        """Quarantine each key with its token, all in one round trip; call with the row locks held, before COMMIT."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, token in tokens.items():
                pipeline.set(key, token, px=QUARANTINE_MS)
            await pipeline.execute()

    async def publish(self, values: Sequence[tuple[bytes, bytes, bytes | None, int]]) -> None:
        """End quarantines after the commit: of each key with its token, by a value or by none, and a time to live."""
        await self._run([(_PUBLISH, key, token, value or b"", ttl_ms) for key, token, value, ttl_ms in values])

    async def abort(self, tokens: Mapping[bytes, bytes]) -> None:
        """End quarantines after a certain rollback."""
        await self._run([(_ABORT, key, token) for key, token in tokens.items()])

    async def invalidate(self, keys: Iterable[bytes]) -> None:
        """Make everybody read the table for a while. Not DEL: a late publish or fill could still land after that."""
        await self._run([(_INVALIDATE, key, new_token(QUARANTINE), QUARANTINE_MS) for key in keys])

    async def _run(self, scripts: Iterable[tuple[str, bytes, *tuple[Any, ...]]]) -> None:
        """Run scripts in one round trip, each on its key. Their text goes along: a pipeline cannot ask for it."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for script, key, *arguments in scripts:
                pipeline.eval(script, 1, key, *arguments)
            await pipeline.execute()


def _read(held: Any) -> tuple[KeyState, bytes]:
    if held is None:
        return KeyState.ABSENT, b""
    if isinstance(held, str):
        raise TypeError("the client decodes responses")
    return (KeyState.VALUE, held) if held[:1] == VALUE else (KeyState.BUSY, b"")


def _of_another_type(error: Exception) -> bytes:
    """What stands for somebody else's list or hash: a value, but none that can be read."""
    if not str(error).startswith("WRONGTYPE"):
        raise error
    return VALUE


def new_token(kind: bytes) -> bytes:
    """Make a lease or a quarantine of one's own; no two are alike."""
    return kind + os.urandom(16)
