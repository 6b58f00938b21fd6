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
from agent_persistence.repositories.states.rows import whole_states
from agent_persistence.repositories.states.statements import latest_state, latest_states


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
        self._one = latest_state(sessions.models, of_any_user=False)
        self._many = latest_states(sessions.models)
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
        async with self._sessions.connections.use() as connection:
            if len(keys) == 1:  # plain parameters cost the server half of what arrays of one do
                rows = await connection.fetch(self._one, thread_id=keys[0].thread_id, owner=keys[0].owner)
                indexes = [0]
            else:
                ids, owners = [key.thread_id for key in keys], [key.owner for key in keys]
                rows = await connection.fetch(self._many, thread_ids=ids, owners=owners)
                indexes = [row.ordinal - 1 for row in rows]
            # On the same pinned connection: a second checkout could wait for the pool while this one is held.
            states = await whole_states(connection.fetch, self._sessions.models, rows)
        found: list[Found | Exception] = [None] * len(keys)
        for index, state in zip(indexes, states, strict=False):
            # A version that was deleted between two statements is no longer the latest.
            found[index] = state if state is not None else (await self._read_together([keys[index]]))[0]
        return found

    async def _read_alone(self, key: StateKey, _reason: Alone | None = None) -> Found:
        async with self._sessions.single_read(key.owner) as scope:
            return await StateRepository(scope).get(key.thread_id)
