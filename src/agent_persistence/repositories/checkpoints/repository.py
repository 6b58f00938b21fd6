"""``CheckpointRepository``: the checkpoints of graphs, for ``integrations.langgraph``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from sqlalchemy import ARRAY, Text, any_, exists, insert, literal, select

from agent_persistence.errors import ThreadExistsError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.repositories.checkpoints.pruner import CheckpointPruner
from agent_persistence.repositories.checkpoints.reader import CheckpointReader
from agent_persistence.repositories.checkpoints.records import (
    ChannelHistory,
    CheckpointQuery,
    CheckpointRecord,
    NewCheckpoint,
    NewWrites,
    PendingWrite,
)
from agent_persistence.repositories.checkpoints.writer import CheckpointWriter
from agent_persistence.repositories.locks import lock_thread
from agent_persistence.repositories.threads.repository import ThreadRepository
from agent_persistence.sessions.scope import Scope


class CheckpointRepository(Generic[IdT, UserIdT]):
    """The checkpoints of graphs in one owner's threads."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope

    async def put(self, new: NewCheckpoint) -> dict[str, list[int]]:
        """Save a checkpoint; return, for its lists that changed, which of their items the parent's did not have.

        Raises:
            ThreadNotFoundError: there is no such thread, and it may not be made.
            ThreadExistsError: the thread is somebody else's.
        """
        return await CheckpointWriter(self._scope).checkpoint(new)

    async def put_writes(self, new: NewWrites) -> None:
        """Save what a task has written; of the same place written twice the first counts, of a special one the last.

        Raises:
            ThreadNotFoundError: there is no such thread, and it may not be made.
            ThreadExistsError: the thread is somebody else's.
        """
        await CheckpointWriter(self._scope).writes(new)

    async def page(
        self, query: CheckpointQuery, *, limit: int, after: CheckpointRecord | None = None
    ) -> list[CheckpointRecord]:
        """Read checkpoints, the latest first; ``after``, the last one of a page, leads on."""
        return await CheckpointReader(self._scope).latest(query, limit=limit, after=after)

    async def history(self, query: CheckpointQuery, channels: Sequence[str]) -> dict[str, ChannelHistory]:
        """Read what was written to channels on the way to a checkpoint, since each had a value."""
        return await CheckpointReader(self._scope).history(query, channels)

    async def written(self, thread_id: IdT, checkpoint_ns: str, checkpoint_id: str, channel: str) -> list[PendingWrite]:
        """Read what tasks have written to a channel at a checkpoint, in the order in which it takes effect."""
        shelf = await CheckpointReader(self._scope).written((thread_id, checkpoint_ns), checkpoint_id, [channel])
        return [write for write in shelf.pending(checkpoint_id) if write.channel == channel]

    async def delete_all(self, thread_id: IdT) -> None:
        """Delete all checkpoints of a thread; the thread stays."""
        deleting = CheckpointPruner(self._scope, thread_id)
        if await deleting.lock():
            await deleting.all()

    async def keep_latest(self, thread_id: IdT) -> None:
        """Delete all but the latest checkpoint of each namespace, which reads as before."""
        deleting = CheckpointPruner(self._scope, thread_id)
        if await deleting.lock():
            await deleting.all_but_latest()

    async def threads_of_runs(self, run_ids: Sequence[str]) -> list[IdT]:
        """The threads that have checkpoints of these runs."""
        checkpoint, thread = self._scope.models.side_tables.graph.checkpoints, self._scope.threads
        statement = (
            select(checkpoint.c.thread_id)
            .distinct()
            .join(thread, thread.c.thread_id == checkpoint.c.thread_id)
            .where(checkpoint.c.run_id == any_(literal(list(run_ids), ARRAY(Text()))), self._scope.owns())
            .order_by(checkpoint.c.thread_id)
        )
        return list((await self._scope.execute(statement)).scalars())

    async def delete_runs(self, thread_id: IdT, run_ids: Sequence[str]) -> None:
        """Delete what runs have saved of a thread; the checkpoints of others read as before."""
        deleting = CheckpointPruner(self._scope, thread_id)
        if await deleting.lock():
            await deleting.runs(run_ids)

    async def copy(self, source_id: IdT, target_id: IdT) -> None:
        """Copy all checkpoints of a thread into another one, which is made if it is not there.

        Raises:
            ThreadNotFoundError: there is no such source.
            ThreadExistsError: the target has checkpoints, or is somebody else's.
        """
        scope = self._scope
        owner = await lock_thread(scope, source_id)
        threads = ThreadRepository(scope)
        if await threads.get(target_id) is None:
            await threads.create(thread_id=target_id, user_id=owner)
        await lock_thread(scope, target_id)
        tables = (scope.models.side_tables.graph.checkpoints, scope.models.side_tables.graph.values)
        taken = select(exists().where(tables[0].c.thread_id == target_id))
        if (await scope.execute(taken)).scalar_one():
            raise ThreadExistsError(target_id)
        for table in tables:
            columns = [column for column in table.c if column.name != "thread_id"]
            rows = select(literal(target_id, table.c.thread_id.type), *columns).where(table.c.thread_id == source_id)
            names = ["thread_id", *[column.name for column in columns]]
            await scope.execute(insert(table).from_select(names, rows, include_defaults=False))
