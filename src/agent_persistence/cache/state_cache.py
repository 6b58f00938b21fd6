"""The cache of latest states: what to do for a read, and around a commit."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agent_persistence.cache.circuit_breaker import CacheUnavailableError, CircuitBreaker
from agent_persistence.cache.codec import UnreadableValueError, decode_state, encode_state
from agent_persistence.cache.keys import keys_pattern, state_key
from agent_persistence.cache.register import QUARANTINE, KeyState, StateRegister, new_token
from agent_persistence.concurrency.batching import Batch, Batcher
from agent_persistence.concurrency.single_flight import SingleFlight
from agent_persistence.encoding.exact_json import encode_json
from agent_persistence.errors import InvalidInputError
from agent_persistence.records import SavedState, StateRecord, TouchedState

T = TypeVar("T")
Other = TypeVar("Other")

_NOTHING_TTL_MS: Final = 30_000
_FORGETTING: Final = 0.9


@dataclass(slots=True)
class CacheCounts:
    """What the cache has done since the start of this process."""

    hits: int = 0
    misses: int = 0
    fills: int = 0
    unreadable: int = 0
    unavailable: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


class Hit(NamedTuple):
    """The cache knows: this state, or that there is none."""

    state: StateRecord[Any] | None


class Miss(NamedTuple):
    """The cache does not know.

    Attributes:
        absent: whether nobody is about to fill it either.
    """

    absent: bool


@dataclass(slots=True)
class Quarantine:
    """The keys that a transaction quarantines, and what it is to publish over its tokens."""

    states: dict[bytes, tuple[TouchedState, SavedState | None]]
    tokens: dict[bytes, bytes]
    acknowledged: bool = False


class StateCache:
    """Reads, fills, quarantines and publishes latest states. Nothing here ever raises because of Redis.

    Args:
        redis: a client that returns bytes; closed by whoever made it.
        namespace: what every key begins with.
        ttl_seconds: how long a value lives, give or take a tenth.

    Attributes:
        namespace: what every key begins with; the database's own name is part of it, once that is known.
        is_named: whether it is. No key is touched before.
        loads: the reads of the table that are under way in this process.
    """

    def __init__(self, redis: Redis, guard: CircuitBreaker, *, namespace: str, ttl_seconds: int) -> None:
        self._register = StateRegister(redis)
        self._redis = redis
        self._guard = guard
        self.namespace = namespace
        self._ttl_ms = ttl_seconds * 1000
        self.is_named = False
        self.counts = CacheCounts()
        self._reads = Batcher(self._read_together)
        self._usual_size = 0
        self.loads: SingleFlight[StateRecord[Any] | None] = SingleFlight()

    @property
    def redis(self) -> Redis:
        """The client, which belongs to whoever made it."""
        return self._redis

    def name(self, database: str) -> None:
        """Say which database's states these are, so that no other's are taken for them."""
        self.namespace, self.is_named = f"{self.namespace}:{database}", True

    def sweep_before_trust(self, sweep: Callable[[], Awaitable[object]]) -> None:
        """After Redis was away, have this done before anything that it holds is believed."""
        self._guard.recover = sweep

    async def ping(self) -> bool:
        """Ask Redis whether it is there."""
        try:
            return bool(await self._guard.call(partial(self._redis.execute_command, "PING"), self._guard.budget()))
        except CacheUnavailableError:
            return False

    async def look(self, thread_id: Any, user_id: Any) -> Hit | Miss:
        """Look a state up."""
        key, deadline = self._key(thread_id, user_id), self._guard.budget()
        try:
            state, value = await self._reads.submit((key, deadline), size=self._usual_size)
        except CacheUnavailableError:
            self.counts.unavailable += 1
            state, value = KeyState.BUSY, b""
        if state is KeyState.VALUE:
            try:
                hit = Hit(decode_state(value, thread_id, user_id))
            except UnreadableValueError:
                self.counts.unreadable += 1
                await self._try(partial(self._register.invalidate, [key]), deadline, None)
            else:
                self.counts.hits += 1
                return hit
        self.counts.misses += 1
        return Miss(absent=state is KeyState.ABSENT)

    async def lease(self, thread_id: Any, user_id: Any) -> bytes | None:
        """Take the right to fill a state that is absent; ``None`` where somebody else was first."""
        return await self._try(partial(self._register.lease, self._key(thread_id, user_id)), self._guard.budget(), None)

    async def fill(self, thread_id: Any, user_id: Any, lease: bytes, state: StateRecord[Any] | None) -> None:
        """Store what was read from the table after the lease was taken, unless a writer came between."""
        if state is not None and state.stream is not None:
            return  # what the table holds is all that is known of it
        try:
            value = encode_state(thread_id, user_id, None if state is None else _saved(state))
        except InvalidInputError:
            return  # written by others, and more than our JSON can carry: not for the cache
        if value is None:
            return
        fill = partial(self._register.fill, self._key(thread_id, user_id), lease, value, self._ttl(nothing=not state))
        self.counts.fills += bool(await self._try(fill, self._guard.budget(), None))

    def prepare(self, touched: Mapping[TouchedState, SavedState | None]) -> Quarantine:
        """Draw a token for each state that a transaction changed."""
        states = {self._key(*thread): (thread, state) for thread, state in touched.items()}
        return Quarantine(states, {key: new_token(QUARANTINE) for key in states})

    async def before_commit(self, quarantine: Quarantine) -> Collection[TouchedState]:
        """Quarantine what the transaction changed, acknowledged before COMMIT goes out; return what could not be."""
        begin = partial(self._register.begin_write, quarantine.tokens)
        quarantine.acknowledged = await self._try(begin, self._guard.budget(), self) is None
        return () if quarantine.acknowledged else [state for state, _ in quarantine.states.values()]

    async def after_commit(self, quarantine: Quarantine) -> None:
        """Publish what was committed. Keys that could not be quarantined are not published to, only invalidated."""
        if quarantine.acknowledged:
            values = [
                (key, quarantine.tokens[key], state and encode_state(*thread, state), self._ttl(nothing=False))
                for key, (thread, state) in quarantine.states.items()
            ]
            await self._try(partial(self._register.publish, values), self._guard.budget(), None)
        else:
            await self._withdraw(quarantine.states)

    async def after_rollback(self, quarantine: Quarantine) -> None:
        """Lift the quarantine of work that is certainly undone."""
        await self._try(partial(self._register.abort, quarantine.tokens), self._guard.budget(), None)

    async def invalidate(self, states: Iterable[TouchedState]) -> bool:
        """Make everybody read these states from the table for a while; say whether Redis could be told."""
        return await self._withdraw(self._key(*state) for state in states)

    async def scan(self, cursor: int) -> tuple[int, list[bytes]]:
        """Walk through the keys of this cache: return the next cursor, 0 at the end, and some keys."""
        scan = partial(self._register.scan, keys_pattern(self.namespace), cursor)
        nothing: tuple[int, list[bytes]] = (0, [])
        return await self._try(scan, self._guard.budget(), nothing)

    async def heads(self, states: Sequence[TouchedState]) -> list[bytes]:
        """Look at the beginning of several keys; as if all were absent where Redis does not answer."""
        heads = partial(self._register.heads, [self._key(*state) for state in states])
        return await self._try(heads, self._guard.budget(), [b""] * len(states))

    async def aclose(self) -> None:
        """Let go of what was borrowed from the client, which stays open."""
        await self._reads.aclose()
        with suppress(RedisError, OSError):
            await self._register.aclose()

    async def _read_together(self, batch: Batch[tuple[bytes, float]]) -> list[tuple[KeyState, bytes]]:
        """Read what many ask for, within the budget of the first: together they count for as many failures."""
        if not self.is_named:
            raise CacheUnavailableError
        keys, deadline = [key for key, _ in batch.items], min(deadline for _, deadline in batch.items)
        found = await self._guard.call(partial(self._register.read, keys), deadline, callers=len(keys))
        # Large values are read few at a time: they must all arrive within the limit of one call.
        self._usual_size = max(*(len(value) for _, value in found), int(self._usual_size * _FORGETTING))
        return found

    async def _withdraw(self, keys: Iterable[bytes]) -> bool:
        return await self._try(partial(self._register.invalidate, keys), self._guard.budget(), self) is None

    async def _try(self, operation: Callable[[], Awaitable[T]], deadline: float, otherwise: Other) -> T | Other:
        try:
            if not self.is_named:
                raise CacheUnavailableError
            return await self._guard.call(operation, deadline)
        except CacheUnavailableError:
            self.counts.unavailable += 1
            return otherwise

    def _key(self, thread_id: Any, user_id: Any) -> bytes:
        return state_key(self.namespace, thread_id, user_id)

    def _ttl(self, *, nothing: bool) -> int:
        ttl_ms = min(self._ttl_ms, _NOTHING_TTL_MS) if nothing else self._ttl_ms
        return int(ttl_ms * random.uniform(0.9, 1.1))


def _saved(state: StateRecord[Any]) -> SavedState:
    data, meta = encode_json(state.data, "data"), encode_json(state.meta, "meta")
    return SavedState(state.version, data, meta, state.created_at, state.updated_at)
