"""``CheckpointRepository``, one call at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.graph_calls import Mirrored
from agent_persistence.operations.one_call.base import OneCall
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import AnyUser, NewMessage, NewThread, StateRecord
from agent_persistence.repositories import CheckpointRepository
from agent_persistence.repositories.checkpoints.known_graphs import ReadNamespace
from agent_persistence.repositories.checkpoints.records import (
    ChannelHistory,
    CheckpointQuery,
    CheckpointRecord,
    NewCheckpoint,
    NewWrites,
)


class OneCallCheckpoints(OneCall[CheckpointRepository[IdT, UserIdT], IdT, UserIdT]):
    """``CheckpointRepository``, one call at a time.

    Each method takes ``user_id``: the owner of the threads, or ``ANY_USER``.
    """

    async def put(self, new: NewCheckpoint, *, user_id: UserIdT | AnyUser, mirrored: Mirrored | None = None) -> None:
        """Save a checkpoint; see ``CheckpointRepository.put``.

        Args:
            mirrored: messages to write in the same transaction.
        """
        await self._batched.graphs.put(new, user_id=user_id, mirrored=mirrored)

    async def put_writes(self, new: NewWrites, *, user_id: UserIdT | AnyUser) -> None:
        """Save the writes of a task; see ``CheckpointRepository.put_writes``."""
        await self._batched.graphs.put_writes(new, user_id=user_id)

    async def after_saves(self, thread_id: IdT, work: Callable[[], Awaitable[None]]) -> None:
        """Run work on a thread after the saves that were called before it, and before those that are called later."""
        await self._batched.graphs.after_saves(thread_id, work)

    async def put_turn(
        self,
        thread: NewThread[IdT],
        data: Any,
        messages: Sequence[NewMessage[IdT]],
        *,
        user_id: UserIdT | AnyUser,
        expected_version: int | None,
        alone: Callable[[], Awaitable[StateRecord[IdT]]],
    ) -> StateRecord[IdT]:
        """Save a state and messages, both or neither; see ``TurnCalls.put``. For this package's checkpointers."""
        return await self._batched.turns.put(
            thread, data, messages, user_id=user_id, expected_version=expected_version, alone=alone
        )

    async def page(
        self,
        query: CheckpointQuery,
        *,
        user_id: UserIdT | AnyUser,
        limit: int,
        after: CheckpointRecord | None = None,
    ) -> list[CheckpointRecord]:
        """Read checkpoints, the latest first; see ``CheckpointRepository.page``."""
        return await self._read(CheckpointRepository[IdT, UserIdT].page, user_id, query, limit=limit, after=after)

    async def one(self, query: CheckpointQuery, *, user_id: UserIdT | AnyUser) -> ReadNamespace | None:
        """Read one checkpoint of a namespace, the latest unless it is named; a save that follows need not read it."""
        graphs = self._batched.graphs
        found = await self._read(CheckpointRepository[IdT, UserIdT].one, user_id, query, graphs.known(query))
        if found is not None and query.checkpoint_id is None:
            graphs.learn(query, found)
        return found

    async def history(
        self, query: CheckpointQuery, channels: Sequence[str], *, user_id: UserIdT | AnyUser
    ) -> dict[str, ChannelHistory]:
        """Read the writes to channels on the way to a checkpoint; see ``CheckpointRepository.history``."""
        return await self._read(CheckpointRepository[IdT, UserIdT].history, user_id, query, channels)

    async def delete_all(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Delete all checkpoints of a thread; the thread stays."""
        await self._write(CheckpointRepository[IdT, UserIdT].delete_all, user_id, thread_id)

    async def keep_latest(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Delete all but the latest checkpoint of each namespace."""
        await self._write(CheckpointRepository[IdT, UserIdT].keep_latest, user_id, thread_id)

    async def delete_runs(self, run_ids: Sequence[str], *, user_id: UserIdT | AnyUser) -> None:
        """Delete the checkpoints of runs, one transaction a thread."""
        for thread_id in await self._read(CheckpointRepository[IdT, UserIdT].threads_of_runs, user_id, run_ids):
            await self._write(CheckpointRepository[IdT, UserIdT].delete_runs, user_id, thread_id, run_ids)

    async def copy(self, source_id: IdT, target_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Copy all checkpoints of a thread into another one; see ``CheckpointRepository.copy``."""
        await self._write(CheckpointRepository[IdT, UserIdT].copy, user_id, source_id, target_id)

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> CheckpointRepository[IdT, UserIdT]:
        return repositories.checkpoints
