"""Reads of latest states from cache and table; those of many callers share one command or statement."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, NamedTuple

from agent_persistence.cache.state_cache import Hit, Miss, StateCache
from agent_persistence.concurrency.batching import Alone, Batch, Batcher
from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import waits_until
from agent_persistence.encoding.recent_states import RecentState
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.session_factory import SessionFactory
from agent_persistence.records import StateRecord
from agent_persistence.repositories import StateRepository
from agent_persistence.repositories.locks import parameters_of
from agent_persistence.repositories.states.rows import lacks_contents, latest_record
from agent_persistence.repositories.states.statements import known_states, latest_state, latest_states
from agent_persistence.telemetry.operation import Operation


class StateKey(NamedTuple):
    """Selects the latest state of a thread, if it is the owner's."""

    thread_id: Any
    owner: Any


Found = StateRecord[Any] | None


class StateReader(Generic[IdT, UserIdT]):
    """Reads latest states outside the caller's transaction; each read has another snapshot.

    Attributes:
        batcher: lets concurrent reads share statements.
    """

    def __init__(self, sessions: SessionFactory[IdT, UserIdT], retries: Retries) -> None:
        self._sessions = sessions
        self._retries = retries
        models = sessions.models
        self._statements = {
            # Plain parameters cost the server half of what arrays of one do.
            (one, knows): latest_state(models, of_any_user=False, knows=knows)
            if one
            else latest_states(models, knows=knows)
            for one in (True, False)
            for knows in (True, False)
        }
        self.batcher: Batcher[StateKey, Found] = Batcher(
            self._read_batch,
            self._read_alone,
            retry_seconds=retries.deadline_seconds,
            call_seconds=retries.call_seconds,
            in_halves=True,
            kind="read",
            telemetry=sessions.telemetry,
        )

    async def latest(
        self, thread_id: IdT, owner: UserIdT, operation: Operation | None = None
    ) -> StateRecord[IdT] | None:
        """Return a thread's latest state from the table, or ``None``.

        Args:
            thread_id: the thread.
            owner: its owner.
            operation: for which it is read, if it is not the one of the current task.

        Raises:
            PersistenceError: it could not be read.
        """
        key = StateKey(thread_id, owner)
        return await (self.batcher.submit(key, operation=operation) if self._sessions.groups else self._read_alone(key))

    async def through_cache(
        self,
        cache: StateCache,
        thread_id: IdT,
        owner: UserIdT,
        otherwise: Callable[[], Awaitable[Found]] | None = None,
        operation: Operation | None = None,
    ) -> StateRecord[IdT] | None:
        """Return a thread's latest state from the cache, or from the table, by which the cache is filled.

        Args:
            cache: the cache.
            thread_id: the thread.
            owner: its owner.
            otherwise: reads the table in place of a fill, for a caller whose open transaction may have a snapshot that
                is older than the lease of a fill.
            operation: for which it is read, if it is not the one of the current task.

        Raises:
            PersistenceError: it could not be read.
        """
        loads, key, made_at = cache.loads, StateKey(thread_id, owner), time.monotonic()
        ticket = loads.register(key)  # before the look-up: a load that starts during it is recent enough to share
        try:
            found = await cache.look(thread_id, owner, operation)
            if isinstance(found, Hit):
                return found.state
            if otherwise is not None:
                return await otherwise()
            # A load that waits for an earlier one starts later than its callers, and may take longer than they wait.
            async with waits_until(made_at + (self._retries.call_seconds or math.inf)):
                load = partial(self._load, cache, key, found)
                return await loads.load(key, load, ticket=ticket, caller=operation)
        finally:
            loads.unregister(key)

    async def _load(self, cache: StateCache, key: StateKey, found: Miss, *, waited: bool) -> Found:
        """Read the table for all callers of the load, and fill the cache; the lease comes before the snapshot."""
        # After another load the cache is looked up again: that load has filled it.
        known = await cache.look(*key) if waited else found
        if isinstance(known, Hit):
            return known.state
        # Before the read: a writer that commits after this point revokes the lease, so an older row can never fill the
        # cache.
        lease = await cache.lease(*key) if known.absent else None
        state = await self.latest(*key)
        if lease is not None:
            await cache.fill(*key, lease, state)
        return state

    async def _read_batch(self, batch: Batch[StateKey]) -> list[Found | Exception]:
        return await self._retries.run(partial(self._read_together, batch.items), is_wanted=batch.is_wanted)

    async def _read_together(self, keys: list[StateKey]) -> list[Found | Exception]:
        known = [self._sessions.recent.get(key.thread_id) for key in keys]
        return await self._fetch(keys, known, knows=any(known))

    async def _fetch(
        self, keys: list[StateKey], known: list[RecentState | None], *, knows: bool
    ) -> list[Found | Exception]:
        one = len(keys) == 1
        columns: dict[str, list[Any]] = known_states(known) if knows else {}
        columns["thread_id" if one else "thread_ids"] = [key.thread_id for key in keys]
        columns["owner" if one else "owners"] = [key.owner for key in keys]
        async with self._sessions.connections.use() as connection:
            rows = await connection.fetch(self._statements[one, knows], **parameters_of(columns, one=one))
        found: list[Found | Exception] = [None] * len(keys)
        changes: list[int] = []
        for row in rows:
            index = 0 if one else row.ordinal - 1
            if lacks_contents(row, knows=knows):
                changes.append(index)
            else:
                found[index] = latest_record(row, known[index])
        if changes:
            again = await self._fetch([keys[index] for index in changes], [None] * len(changes), knows=True)
            for index, state in zip(changes, again, strict=True):
                found[index] = state
        return found

    async def _read_alone(self, key: StateKey, _reason: Alone | None = None) -> Found:
        async with self._sessions.single_read(key.owner) as scope:
            return await StateRepository(scope).get(key.thread_id)
