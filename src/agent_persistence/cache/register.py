"""The commands of the cache protocol: one Redis string a state.

A key is absent, or holds a reader's lease ``L``, a writer's quarantine ``W``, or a value ``V``. The protocol
"quarantine, commit, publish" is a reduced IQ framework (Ghandeharizadeh, Yap, Nguyen: Strong consistency in cache
augmented SQL systems, Middleware 2014). Each command touches one key, so Redis Cluster works, and it is harmless if a
command runs late or twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, cast

from redis.asyncio import Redis

from agent_persistence.cache.codec import HEAD_BYTES, VALUE
from agent_persistence.cache.line import Command, Line
from agent_persistence.settings import QUARANTINE_SECONDS

LEASE: Final = b"L"
QUARANTINE: Final = b"W"
# The lengths bound the cost of a crash: a reader that dies keeps the key unfilled for 2 s, a writer for 10 s. A
# quarantine must outlast the time from its SET to the commit; if it ends earlier, a reader fills the old row.
LEASE_MS: Final = 2_000
QUARANTINE_MS: Final = int(QUARANTINE_SECONDS * 1000)

_KEYS_A_PAGE: Final = 1_000  # that the server examines, matching or not

# Tokens are compared by a short GETRANGE: GET would copy a value of up to a megabyte into Lua.
_HOLDS: Final = """
local function holds(token)
  return redis.call('STRLEN', KEYS[1]) == #token and redis.call('GETRANGE', KEYS[1], 0, #token - 1) == token
end
"""

# fill: my lease -> the value. Anything else, absence too, means that a writer came between.
_FILL: Final = (
    _HOLDS
    + """
if holds(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1 end
return 0
"""
)

# publish: my quarantine -> the value (or absent, where there is none to publish); another writer's quarantine -> keep;
# the same or a newer version -> keep; an older value or a lease -> delete: the quarantine is lost or has ended, and
# a reader may have stored, or be about to store, the row from before this commit.
# Versions are compared as text of fixed width, because Lua's numbers are doubles, exact up to 2^53 only.
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

# abort: my quarantine -> absent.
_ABORT: Final = (
    _HOLDS
    + """
if holds(ARGV[1]) then redis.call('DEL', KEYS[1]) return 1 end
return 0
"""
)

# invalidate: a quarantine that no writer will lift. A server without memory refuses SET but not DEL; another writer's
# quarantine may stay then, as it keeps readers away too.
_INVALIDATE: Final = """
local set = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if set['err'] and redis.call('GETRANGE', KEYS[1], 0, 0) ~= 'W' then redis.call('DEL', KEYS[1]) end
"""


class KeyState(Enum):
    """The state of a key."""

    ABSENT = "absent"
    BUSY = "leased or quarantined"
    VALUE = "value"


class StateRegister:
    """The commands of the protocol, a method each. Redis errors pass unchanged: the circuit breaker handles them.

    Attributes:
        line: the connection that is kept, also for named values. One for all: the client may be the application's, and
            its pool small. Calls at the same time take others.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.line = Line(redis)
        # Sent by its hash: a fill is sent alone, so redis-py can load the script where the server answers NOSCRIPT.
        self._fill = redis.register_script(_FILL)

    async def read(self, keys: Sequence[bytes]) -> list[tuple[KeyState, bytes]]:
        """Read keys, each as ``state_of`` what it holds."""
        return list(map(state_of, await self.held(keys)))

    async def held(self, keys: Sequence[bytes]) -> list[Any]:
        """Return what keys hold. Of several, one of another Redis type counts as absent."""
        command = ("MGET", *keys) if len(keys) > 1 else ("GET", *keys)
        [reply] = await self.line.send([command])
        if not isinstance(reply, Exception):
            return reply if len(keys) > 1 else [reply]
        return [_of_another_type(reply)]

    async def aclose(self) -> None:
        """Return the connection to its pool."""
        await self.line.aclose()

    async def scan(self, pattern: bytes, cursor: int) -> tuple[int, list[bytes]]:
        """Scan the matching keys: return the next cursor (0 at the end) and some keys."""
        following, keys = await self._redis.scan(cursor, match=pattern, count=_KEYS_A_PAGE)
        return following, cast("list[bytes]", keys)  # the client does not decode responses

    async def heads(self, keys: Sequence[bytes]) -> list[bytes]:
        """Read the first ``HEAD_BYTES`` of keys, where a value has its version; empty for an absent key."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.getrange(key, 0, HEAD_BYTES - 1)
            held = await pipeline.execute(raise_on_error=False)
        return [_of_another_type(head) if isinstance(head, Exception) else head for head in held]

    async def lease(self, key: bytes) -> bytes | None:
        """Lease an absent key, and return the lease; ``None`` if the key is no longer absent."""
        token = new_token(LEASE)
        # NX: of many readers that miss at once, one fills; the others read the table and store nothing.
        return token if await self._redis.set(key, token, nx=True, px=LEASE_MS) else None

    async def fill(self, key: bytes, lease: bytes, value: bytes, ttl_ms: int) -> bool:
        """Replace a lease by a value; return ``False`` if the key does not hold this lease any more."""
        return bool(await self._fill(keys=[key], args=[lease, value, ttl_ms]))

    async def begin_write(self, tokens: Mapping[bytes, bytes]) -> None:
        """Quarantine keys with their tokens, in one round trip. The caller holds the row locks, before COMMIT."""
        # Not in MULTI: no key depends on another one, and MULTI and EXEC would be two more commands.
        # Unconditional: under the row lock no other writer is between its quarantine and its commit. A set of tokens,
        # one a writer, lost: the older of two writers could publish once the newer one's token ended.
        await self._write([("SET", key, token, "PX", QUARANTINE_MS) for key, token in tokens.items()])

    async def publish(
        self, values: Sequence[tuple[bytes, bytes, bytes | None, int]], drafts: Sequence[bytes] = ()
    ) -> None:
        """Lift quarantines after the commit.

        Args:
            values: for each key its token, the value or ``None``, and its time to live in milliseconds.
            drafts: keys of drafts to delete.
        """
        await self._run([(_PUBLISH, key, token, value or b"", ttl_ms) for key, token, value, ttl_ms in values], drafts)

    async def abort(self, tokens: Mapping[bytes, bytes]) -> None:
        """Lift quarantines after a certain rollback."""
        await self._run([(_ABORT, key, token) for key, token in tokens.items()])

    async def invalidate(self, keys: Iterable[bytes]) -> None:
        """Quarantine keys, so that readers read the table. DEL lost: a late publish or fill could follow it."""
        await self._run([(_INVALIDATE, key, new_token(QUARANTINE), QUARANTINE_MS) for key in keys])

    async def delete(self, drafts: Sequence[bytes]) -> None:
        """Delete drafts."""
        await self._run((), drafts)

    async def _run(self, scripts: Iterable[tuple[str, bytes, *tuple[Any, ...]]], drafts: Sequence[bytes] = ()) -> None:
        """Run scripts in one round trip, each on its key. EVAL with the text, which no server can have forgotten."""
        commands: list[Command] = [("EVAL", script, 1, key, *arguments) for script, key, *arguments in scripts]
        # One a command: in a cluster, two keys may be on two servers.
        await self._write([*commands, *(("DEL", draft) for draft in drafts)])

    async def _write(self, commands: Sequence[Command]) -> None:
        for reply in await self.line.send(commands):
            if isinstance(reply, Exception):
                raise reply


def state_of(held: Any) -> tuple[KeyState, bytes]:
    """Return the state of a key that holds this, and its value."""
    if held is None:
        return KeyState.ABSENT, b""
    if isinstance(held, str):
        raise TypeError("the client decodes responses")
    return (KeyState.VALUE, held) if held[:1] == VALUE else (KeyState.BUSY, b"")


def _of_another_type(error: Exception) -> bytes:
    """Return an unreadable value for a key that holds a list or hash of another program."""
    if not str(error).startswith("WRONGTYPE"):
        raise error
    return VALUE


def new_token(kind: bytes) -> bytes:
    """Return a new, unique lease or quarantine."""
    # Random and not counted: a repeated token would let the late command of one process act on another's.
    return kind + os.urandom(16)
