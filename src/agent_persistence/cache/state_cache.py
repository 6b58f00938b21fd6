"""The cache of latest states: what happens at a read, and around a commit."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agent_persistence.cache.circuit_breaker import CacheUnavailableError, CircuitBreaker
from agent_persistence.cache.codec import UnreadableValueError, decode_state, encode_state
from agent_persistence.cache.keys import draft_keys, keys_pattern, state_key
from agent_persistence.cache.register import QUARANTINE, KeyState, StateRegister, new_token, state_of
from agent_persistence.concurrency.batching import Batch, Batcher
from agent_persistence.concurrency.single_flight import SingleFlight
from agent_persistence.encoding.exact_json import encode_json
from agent_persistence.errors import InvalidInputError
from agent_persistence.records import SavedState, StateRecord, TouchedState
from agent_persistence.telemetry.operation import Operation

T = TypeVar("T")
Other = TypeVar("Other")

_NOTHING_TTL_MS: Final = 30_000
FORGETTING: Final = 0.9
"""How much of the usual size of values is left of it after a batch of smaller ones."""


class Hit(NamedTuple):
    """The cache holds the answer: a state, or ``None`` where the thread has none."""

    state: StateRecord[Any] | None


class Miss(NamedTuple):
    """The cache does not hold the answer.

    Attributes:
        absent: whether the key is free, so that the caller can lease and fill it.
    """

    absent: bool


@dataclass(slots=True)
class Quarantine:
    """The keys that a transaction quarantines, with the states to publish and the tokens."""

    states: dict[bytes, tuple[TouchedState, SavedState | None]]
    tokens: dict[bytes, bytes]
    acknowledged: bool = False


class StateCache:
    """Reads, fills, quarantines and publishes latest states. No method raises because of Redis.

    Args:
        redis: a client that returns bytes; its owner closes it.
        guard: the circuit breaker around its calls.
        namespace: the prefix of every key.
        ttl_seconds: how long a value lives, give or take a tenth.

    Attributes:
        namespace: the prefix of every key; ``name`` adds the database to it.
        is_named: whether the database was added. Without it no key is touched: reads miss, and writers use the outbox.
        counts: hits, misses and so on.
        loads: running reads of the table in this process.
        line: the connection to Redis that is kept.
    """

    def __init__(self, redis: Redis, guard: CircuitBreaker, *, namespace: str, ttl_seconds: int) -> None:
        self._register = StateRegister(redis)
        self.line = self._register.line
        self._redis = redis
        self._guard = guard
        self._prefix = self.namespace = namespace
        self._ttl_ms = ttl_seconds * 1000
        self.is_named = False
        self.counts = guard.telemetry.counts.cache
        # On one connection. If a GET is cut short it costs that connection, which the pool replaces.
        self._reads = Batcher(self._read_together, one_at_a_time=True, kind="look", telemetry=guard.telemetry)
        self._usual_size = 0
        self._answered = 0.0
        self.loads: SingleFlight[StateRecord[Any] | None] = SingleFlight()

    @property
    def redis(self) -> Redis:
        """The Redis client."""
        return self._redis

    def name(self, database: str) -> None:
        """Add the identity of a database to the namespace, so that states of two databases never meet."""
        self.namespace, self.is_named = f"{self._prefix}:{database}", True

    def forget_name(self) -> None:
        """Touch no key until ``name`` is called again: the connections lead to another database now."""
        self.is_named = False

    def sweep_before_trust(self, sweep: Callable[[], Awaitable[object]]) -> None:
        """Set the sweep that runs after an outage of Redis, before its values are trusted again."""
        self._guard.recover = sweep

    async def ping(self) -> bool:
        """Return whether Redis answers."""
        try:
            return bool(await self._guard.call(partial(self._redis.execute_command, "PING"), self._guard.budget()))
        except CacheUnavailableError:
            return False

    async def look(self, thread_id: Any, user_id: Any, operation: Operation | None = None) -> Hit | Miss:
        """Look up a state, for the operation of the current task or another one."""
        found, _ = await self.look_beside(thread_id, user_id, operation=operation)
        return found

    async def look_beside(
        self, thread_id: Any, user_id: Any, *others: bytes, operation: Operation | None = None
    ) -> tuple[Hit | Miss, Sequence[Any]]:
        """Look up a state, and what other keys hold, in one round trip; nothing if Redis does not answer."""
        key, deadline = self._key(thread_id, user_id), self._guard.budget()
        try:
            # One MGET for all that wait: 4.4 times the rate of a GET each on pooled connections (32 callers, 4 KB).
            size = self._usual_size * (1 + len(others))
            held, *beside = await self._reads.submit(((key, *others), deadline), size=size, operation=operation)
        except CacheUnavailableError:
            self.counts.unavailable += 1
            self.counts.unanswered += 1
            self.counts.misses += 1
            return Miss(absent=False), [None] * len(others)
        return await self._found(held, key, deadline, thread_id, user_id), beside

    async def _found(self, held: Any, key: bytes, deadline: float, thread_id: Any, user_id: Any) -> Hit | Miss:
        state, value = state_of(held)
        if state is KeyState.VALUE:
            try:
                hit = Hit(decode_state(value, thread_id, user_id))
            except UnreadableValueError:
                self.counts.unreadable += 1
                await self._try(partial(self._register.invalidate, [key]), deadline, None)
            else:
                self.counts.hits += 1
                return hit
        elif state is KeyState.ABSENT:
            self.counts.absent += 1
        else:
            self.counts.busy += 1
        self.counts.misses += 1
        return Miss(absent=state is KeyState.ABSENT)

    async def lease(self, thread_id: Any, user_id: Any) -> bytes | None:
        """Lease an absent state for filling; ``None`` if another reader or writer was first."""
        return await self._try(partial(self._register.lease, self._key(thread_id, user_id)), self._guard.budget(), None)

    async def fill(self, thread_id: Any, user_id: Any, lease: bytes, state: StateRecord[Any] | None) -> None:
        """Store a state that was read from the table after the lease was taken, unless a writer came between."""
        if state is not None and state.stream is not None:
            # A streamed state has its chunks in the table only.
            return
        try:
            value = encode_state(thread_id, user_id, None if state is None else _saved(state))
        except InvalidInputError:
            # Another program wrote the state, which exact JSON cannot encode; only readers of the table get it.
            return
        if value is None:
            return
        fill = partial(self._register.fill, self._key(thread_id, user_id), lease, value, self._ttl(nothing=not state))
        self.counts.fills += bool(await self._try(fill, self._guard.budget(), None))

    def prepare(self, touched: Mapping[TouchedState, SavedState | None]) -> Quarantine:
        """Return a quarantine for the states that a transaction changed."""
        states = {self._key(*thread): (thread, state) for thread, state in touched.items()}
        return Quarantine(states, {key: new_token(QUARANTINE) for key in states})

    async def before_commit(self, quarantine: Quarantine) -> Collection[TouchedState]:
        """Quarantine the changed states before COMMIT is sent; return those that could not be quarantined."""
        # After the last statement, so the row locks are held. A quarantine from the start of the transaction lost: it
        # could end, or another writer could replace it, before this one has the lock.
        begin = partial(self._register.begin_write, quarantine.tokens)
        quarantine.acknowledged = await self._try(begin, self._guard.budget(), self) is None
        self.counts.unacknowledged += not quarantine.acknowledged
        return () if quarantine.acknowledged else [state for state, _ in quarantine.states.values()]

    async def after_commit(self, quarantine: Quarantine) -> None:
        """Publish the committed states; those that could not be quarantined are invalidated instead."""
        if quarantine.acknowledged:
            # The state is None after ``clear``, and where the host shares the session: then no value is published.
            values = [
                (key, quarantine.tokens[key], state and encode_state(*thread, state), self._ttl(nothing=False))
                for key, (thread, state) in quarantine.states.items()
            ]
            # Without a value, the thread may be gone: a draft of it must not outlive it. Any other loss is allowed.
            drafts = self._drafts(thread for thread, state in quarantine.states.values() if state is None)
            publish = partial(self._register.publish, values, drafts)
            if await self._try(publish, self._guard.budget(), self) is not self:
                self.counts.publishes += sum(value is not None for _, _, value, _ in values)
        else:
            # An older value may still be in Redis. The transaction has left a row in the outbox, so this single attempt
            # only shortens the wait for the sweep.
            await self.invalidate(state for state, _ in quarantine.states.values())

    async def after_rollback(self, quarantine: Quarantine) -> None:
        """Lift the quarantine of a transaction that is certainly rolled back."""
        # Where the outcome of COMMIT is unknown, this is not called: the quarantine ends after 10 s.
        await self._try(partial(self._register.abort, quarantine.tokens), self._guard.budget(), None)

    async def invalidate(self, states: Iterable[TouchedState]) -> bool:
        """Invalidate states, and delete drafts: readers read the table for a while. Return whether Redis answered."""
        found, deadline = list(states), self._guard.budget()
        keys = [self._key(*state) for state in found]
        is_done = await self._try(partial(self._register.invalidate, keys), deadline, self) is None
        return is_done and await self._try(partial(self._register.delete, self._drafts(found)), deadline, self) is None

    async def scan(self, cursor: int) -> tuple[int, list[bytes]]:
        """Scan the keys of this cache: return the next cursor (0 at the end) and some keys."""
        scan = partial(self._register.scan, keys_pattern(self.namespace), cursor)
        nothing: tuple[int, list[bytes]] = (0, [])
        return await self._try(scan, self._guard.budget(), nothing)

    async def heads(self, states: Sequence[TouchedState]) -> list[bytes]:
        """Read the first bytes of cached states; empty for absent ones, and for all if Redis does not answer."""
        heads = partial(self._register.heads, [self._key(*state) for state in states])
        return await self._try(heads, self._guard.budget(), [b""] * len(states))

    async def aclose(self) -> None:
        """Return connections to the client, which stays open."""
        await self._reads.aclose()
        with suppress(RedisError, OSError):
            await self._register.aclose()

    async def _read_together(self, batch: Batch[tuple[Sequence[bytes], float]]) -> list[list[Any]]:
        """Read the keys of several callers by one command, within the earliest of their deadlines."""
        if not self.is_named:
            raise CacheUnavailableError
        keys = [key for keys, _ in batch.items for key in keys]
        # What waited while Redis answered others has waited for this process: its time counts from that answer on.
        deadline = max(self._answered, min([deadline for _, deadline in batch.items]))
        found = await self._guard.call(partial(self._register.held, keys), deadline, callers=len(batch.items))
        self._answered = self._guard.budget()
        # Large values are read a few at a time, because all must arrive within the time limit of one call. The estimate
        # falls by at most a tenth a batch, so that a single small value does not undo it.
        self._usual_size = max([*map(len, filter(None, found)), int(self._usual_size * FORGETTING)])
        rest = iter(found)
        return [list(islice(rest, len(keys))) for keys, _ in batch.items]

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

    def _drafts(self, states: Iterable[TouchedState]) -> list[bytes]:
        return [key for state in states for key in draft_keys(self.namespace, *state)]

    def _ttl(self, *, nothing: bool) -> int:
        # Jitter of a tenth: states that were cached at the same moment do not all expire, and miss, at the same moment.
        ttl_ms = min(self._ttl_ms, _NOTHING_TTL_MS) if nothing else self._ttl_ms
        return int(ttl_ms * random.uniform(0.9, 1.1))


def _saved(state: StateRecord[Any]) -> SavedState:
    data, meta = encode_json(state.data, "data"), encode_json(state.meta, "meta")
    return SavedState(state.version, data, meta, state.created_at, state.updated_at)
