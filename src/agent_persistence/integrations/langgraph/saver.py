"""``PersistenceSaver``, a LangGraph checkpointer over a ``Persistence``."""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from typing_extensions import override

from agent_persistence.integrations.langgraph.saver_calls import SaverCalls

_VERSION_DIGITS: Final = 32


class PersistenceSaver(SaverCalls):
    """A LangGraph checkpointer that stores checkpoints in the threads of a ``Persistence``.

    Every method exists for async and for sync code, and can be called from any thread and event loop; it runs in the
    event loop of the ``Persistence``. If the ``Persistence`` is not open yet, the first sync call or a ``with`` block
    opens it in a background thread, which ``close`` or the end of the block ends.

    A checkpoint without a parent creates its thread. To copy checkpoints from another checkpointer, create the thread
    first (``persistence.threads.create``): then they can be saved in any order.

    Args:
        persistence: stores the checkpoints. ``close`` closes it only if a sync call opened it.
        user_id: the owner of all threads, or ``None`` if each config names its owner as ``user_id``.
        serde: the serialiser of values; LangGraph's default if ``None``.
        mirror: the channel of the conversation, whose messages are written to ``messages`` too; ``None`` for none. By
            default ``messages``, unless ids are numbers or ``serde`` is given. A channel that a graph does not have is
            logged as ``graph.no_such_channel``.

    Raises:
        InvalidInputError: ``mirror`` names a channel, and ids are numbers; or ``persistence`` is none, such as a URL.
    """

    def for_user(self, user_id: Any) -> Self:
        """Return a copy of this checkpointer for one owner, which shares its connections and memory."""
        clone = copy.copy(self)  # shallow: the clones must share one memory of threads and one order of saves
        clone._owner = user_id  # noqa: SLF001 - of the same class
        return clone

    def __enter__(self) -> Self:
        self._bridge.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ``Persistence`` if a sync call opened it, and end its thread."""
        self._bridge.close()

    # Async.

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a config names, or the latest one; ``None`` if there is none.

        Raises:
            InvalidInputError: the config names no thread or owner, or one that is not valid.
            CorruptRowError: the stored checkpoint cannot be read.
        """
        return await self._bridge.call(self._get(config))

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield checkpoints, the latest first; they are read in pages of twenty.

        Args:
            config: names the thread, and optionally a namespace and a checkpoint; ``None`` for all of the owner's.
            filter: keys and values that the metadata must contain.
            before: a config whose ``checkpoint_id`` all listed ids are less than.
            limit: the maximum number of checkpoints; ``None`` for all.
        """
        pages = self._pages(config, filter, before, limit)
        while page := await self._bridge.call(_next(pages)):
            for found in page:
                yield found

    @override
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; the first one of a thread creates the thread.

        Args:
            config: names the thread, the namespace, and as ``checkpoint_id`` the parent.
            checkpoint: the checkpoint, with the values of its channels.
            metadata: can be filtered by with ``alist``.
            new_versions: the channels that changed since the parent.

        Returns:
            The config of the saved checkpoint.

        Raises:
            InvalidInputError: an id or a name is not valid.
            ThreadNotFoundError: the thread was deleted since the run began, or the config names a parent in a thread
                that was never created.
            ThreadExistsError: the thread belongs to another owner.
        """
        return await self._bridge.call(self._put(config, checkpoint, metadata, new_versions))

    @override
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save the writes of a task before the checkpoint that includes them.

        Args:
            config: names the checkpoint that the task started from, which may be saved later.
            writes: pairs of channel and value.
            task_id: the id of the task; repeated writes of a task change nothing.
            task_path: orders tasks within a checkpoint.

        Raises:
            InvalidInputError: an id or a name is not valid.
            ThreadNotFoundError: the thread was deleted since the run began, or never created.
        """
        await self._bridge.call(self._put_writes(config, writes, task_id, task_path))

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread with its messages and states; a late write of its run does not create it again."""
        await self._bridge.call(self._delete_thread(thread_id))

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs; other checkpoints of the same threads read as before."""
        await self._bridge.call(self._delete_for_runs(run_ids))

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another one, which must have none.

        Raises:
            ThreadNotFoundError: the source does not exist.
            ThreadExistsError: the target has checkpoints, or belongs to another owner.
        """
        await self._bridge.call(self._copy_thread(source_thread_id, target_thread_id))

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete checkpoints of threads; the threads stay, and the remaining checkpoints read as before.

        Args:
            thread_ids: the threads; those that do not exist are ignored.
            strategy: ``"keep_latest"`` keeps the latest checkpoint of each namespace, ``"delete"`` none.

        Raises:
            InvalidInputError: there is no such strategy.
        """
        await self._bridge.call(self._prune(thread_ids, strategy))

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return the writes to channels since each was last stored whole, in three statements for 200 steps."""
        return await self._bridge.call(self._history(config, channels))

    # Sync.

    @override
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See ``aget_tuple``."""
        return self._bridge.wait(self._get(config))

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See ``alist``."""
        pages = self._pages(config, filter, before, limit)
        while page := self._bridge.wait(_next(pages)):
            yield from page

    @override
    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See ``aput``."""
        return self._bridge.wait(self._put(config, checkpoint, metadata, new_versions))

    @override
    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See ``aput_writes``."""
        self._bridge.wait(self._put_writes(config, writes, task_id, task_path))

    @override
    def delete_thread(self, thread_id: str) -> None:
        """See ``adelete_thread``."""
        self._bridge.wait(self._delete_thread(thread_id))

    @override
    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See ``adelete_for_runs``."""
        self._bridge.wait(self._delete_for_runs(run_ids))

    @override
    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See ``acopy_thread``."""
        self._bridge.wait(self._copy_thread(source_thread_id, target_thread_id))

    @override
    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See ``aprune``."""
        self._bridge.wait(self._prune(thread_ids, strategy))

    @override
    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See ``aget_delta_channel_history``."""
        return self._bridge.wait(self._history(config, channels))

    @override
    def get_next_version(self, current: Any, channel: None) -> Any:
        """Return the next version of a channel: an int, or a text in threads whose versions are texts."""
        if not isinstance(
            current, str
        ):  # texts: LangGraph's own PostgreSQL checkpointers, from which threads are imported
            return 1 if current is None else int(current) + 1
        return f"{int(current.split('.')[0]) + 1:0{_VERSION_DIGITS}}.{random.random():016}"


async def _next(pages: AsyncIterator[Sequence[CheckpointTuple]]) -> Sequence[CheckpointTuple] | None:
    return await anext(pages, None)  # with an empty tuple as the default, Python 3.11 fails
