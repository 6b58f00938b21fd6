"""``CheckpointRepository``, the checkpoints of graphs, for ``integrations.langgraph``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

from sqlalchemy import ARRAY, Text, any_, exists, insert, literal, select

from agent_persistence.errors import ThreadExistsError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.repositories.checkpoints.known_graphs import KnownNamespace, Likely, ReadNamespace
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
from agent_persistence.repositories.checkpoints.writer import Also, CheckpointWriter
from agent_persistence.repositories.locks import lock_thread, nudge_thread
from agent_persistence.repositories.threads.repository import ThreadRepository
from agent_persistence.sessions.scope import Scope


class CheckpointRepository(Generic[IdT, UserIdT]):
    """The checkpoints of graphs in one owner's threads."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope

    async def put(self, new: NewCheckpoint, also: Also | None = None) -> tuple[Any, KnownNamespace]:
        """Save a checkpoint with its values; a stored checkpoint with the same id is overwritten.

        Args:
            new: the checkpoint.
            also: writes more before it, given the changes that it makes.

        Returns:
            For ``operations.graph_calls``: the saved row, and what is known of the namespace after the commit.

        Raises:
            ThreadNotFoundError: the thread does not exist and may not be created.
            ThreadExistsError: the thread belongs to another owner.
            CheckpointingDisabledError: the settings disable saving.
        """
        return await CheckpointWriter(self._scope).checkpoint(new, also)

    async def put_writes(self, new: NewWrites) -> None:
        """Save the writes of a task. Of two with the same index the first counts; with a negative index, the last.

        Raises:
            ThreadNotFoundError: the thread does not exist and may not be created.
            ThreadExistsError: the thread belongs to another owner.
            CheckpointingDisabledError: the settings disable saving.
        """
        await CheckpointWriter(self._scope).writes(new)

    async def page(
        self, query: CheckpointQuery, *, limit: int, after: CheckpointRecord | None = None
    ) -> list[CheckpointRecord]:
        """Return checkpoints, the latest first.

        Args:
            query: selects the checkpoints.
            limit: the maximum number of checkpoints.
            after: the last checkpoint of the page before.

        Raises:
            CorruptRowError: a checkpoint cannot be read.
        """
        return await CheckpointReader(self._scope).latest(query, limit=limit, after=after)

    async def one(self, query: CheckpointQuery, likely: Likely | None) -> ReadNamespace | None:
        """Read one checkpoint of a namespace, the latest unless it is named; see ``CheckpointReader.one``."""
        return await CheckpointReader(self._scope).one(query, likely)

    async def history(self, query: CheckpointQuery, channels: Sequence[str]) -> dict[str, ChannelHistory]:
        """Return the writes to channels at the ancestors of a checkpoint, since each channel had a value.

        Raises:
            CorruptRowError: the history cannot be read.
        """
        return await CheckpointReader(self._scope).history(query, channels)

    async def written(self, thread_id: IdT, checkpoint_ns: str, checkpoint_id: str, channel: str) -> list[PendingWrite]:
        """Return the writes of tasks to a channel at a checkpoint, in the order of their effect."""
        namespace = thread_id, checkpoint_ns
        loaded = await CheckpointReader(self._scope).load_writes(namespace, checkpoint_id, [channel])
        return [write for write in loaded.pending(checkpoint_id) if write.channel == channel]

    async def delete_all(self, thread_id: IdT) -> None:
        """Delete all checkpoints of a thread; the thread stays."""
        pruner = CheckpointPruner(self._scope, thread_id)
        if await pruner.lock():
            await pruner.all()

    async def keep_latest(self, thread_id: IdT) -> None:
        """Delete all checkpoints but the latest of each namespace, which reads as before."""
        pruner = CheckpointPruner(self._scope, thread_id)
        if await pruner.lock():
            await pruner.all_but_latest()

    async def threads_of_runs(self, run_ids: Sequence[str]) -> list[IdT]:
        """Return the ids of the threads that have checkpoints of runs."""
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
        """Delete the checkpoints of runs in a thread; its other checkpoints read as before."""
        pruner = CheckpointPruner(self._scope, thread_id)
        if await pruner.lock():
            await pruner.runs(run_ids)

    async def copy(self, source_id: IdT, target_id: IdT) -> None:
        """Copy all checkpoints of a thread to another one, which is created if it does not exist.

        Raises:
            ThreadNotFoundError: the source does not exist.
            ThreadExistsError: the target has checkpoints, or belongs to another owner.
        """
        scope = self._scope
        owner = await lock_thread(scope, source_id)
        threads = ThreadRepository(scope)
        if await threads.get(target_id) is None:
            await threads.create(thread_id=target_id, user_id=owner)
        await lock_thread(scope, target_id)
        await nudge_thread(scope, target_id)
        tables = (scope.models.side_tables.graph.checkpoints, scope.models.side_tables.graph.values)
        taken = select(exists().where(tables[0].c.thread_id == target_id))
        if (await scope.execute(taken)).scalar_one():
            raise ThreadExistsError(target_id)
        # By the server: no row is sent here and back. The numbers of values are copied, so that references stay valid.
        for table in tables:
            columns = [column for column in table.c if column.name != "thread_id"]
            rows = select(literal(target_id, table.c.thread_id.type), *columns).where(table.c.thread_id == source_id)
            names = ["thread_id", *[column.name for column in columns]]
            await scope.execute(insert(table).from_select(names, rows, include_defaults=False))
