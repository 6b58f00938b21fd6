"""Reads of latest states from the table; those of many callers share one statement."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Generic, NamedTuple

from agent_persistence.concurrency.batching import Alone, Batch, Batcher
from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import waits_until
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.session_factory import SessionFactory
from agent_persistence.records import StateRecord
from agent_persistence.repositories import StateRepository
from agent_persistence.repositories.locks import parameters_of
from agent_persistence.repositories.states.rows import latest_record
from agent_persistence.repositories.states.statements import known_states, latest_state, latest_states


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
        )

    async def latest(self, thread_id: IdT, owner: UserIdT) -> StateRecord[IdT] | None:
        """Return a thread's latest state, or ``None``.

        Raises:
            PersistenceError: it could not be read.
        """
        key = StateKey(thread_id, owner)
        return await (self.batcher.submit(key) if self._sessions.groups else self._read_alone(key))

    def within_limit(self, made_at: float) -> AbstractAsyncContextManager[None]:
        """Return a block that waits for a read no longer than a call may take that was made at this moment."""
        return waits_until(made_at + (self._retries.call_seconds or math.inf))

    async def _read_batch(self, batch: Batch[StateKey]) -> list[Found | Exception]:
        return await self._retries.run(partial(self._read_together, batch.items), is_wanted=batch.is_wanted)

    async def _read_together(self, keys: list[StateKey]) -> list[Found | Exception]:
        known = [self._sessions.recent.get(key.thread_id) for key in keys]
        one, knows = len(keys) == 1, any(known)
        columns = {"thread_id" if one else "thread_ids": [key.thread_id for key in keys]}
        columns |= {"owner" if one else "owners": [key.owner for key in keys]}
        columns |= known_states(known) if knows else {}
        async with self._sessions.connections.use() as connection:
            rows = await connection.fetch(self._statements[one, knows], **parameters_of(columns, one=one))
        found: list[Found | Exception] = [None] * len(keys)
        for row in rows:
            index = 0 if one else row.ordinal - 1
            found[index] = latest_record(row, known[index])
        return found

    async def _read_alone(self, key: StateKey, _reason: Alone | None = None) -> Found:
        async with self._sessions.single_read(key.owner) as scope:
            return await StateRepository(scope).get(key.thread_id)
