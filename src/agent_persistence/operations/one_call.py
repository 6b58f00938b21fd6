"""The repositories as one-call operations: each runs in a unit of work of its own.

It is done again, as a whole, while that may help, and goes on to its end when its caller is cancelled. Reads take a
connection without a transaction around them, and a cache hit takes none at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Generic

from agent_persistence.concurrency.shielding import start
from agent_persistence.errors import StateNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import MessageMixin, StateMixin, ThreadMixin
from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import (
    UNSET,
    AnyUser,
    MessageRecord,
    NewMessage,
    NewThread,
    Page,
    StateRecord,
    ThreadRecord,
    Unchanged,
)
from agent_persistence.repositories.checkpoints.records import (
    ChannelHistory,
    CheckpointQuery,
    CheckpointRecord,
    NewWrites,
)
from agent_persistence.repositories.messages.prepared import with_id
from agent_persistence.repositories.states.streams import Upload, read_stream
from agent_persistence.repositories.threads.bulk import PreparedThread


class _OneCall(Generic[IdT, UserIdT]):
    def __init__(self, transactions: Transactions[IdT, UserIdT]) -> None:
        self._latest_state = transactions.latest_state
        self._put_state = transactions.put_state
        self._append = transactions.append
        self._prepare_thread = transactions.prepare_thread
        self._read = transactions.read
        self._read_entities = transactions.read_entities
        self._apart = transactions.apart
        self._upload = transactions.upload
        self._write = transactions.write


class OneCallThreads(_OneCall[IdT, UserIdT]):
    """``ThreadRepository``, one call at a time."""

    async def create(
        self,
        *,
        user_id: UserIdT,
        thread_id: IdT | None = None,
        name: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> ThreadRecord[IdT, UserIdT]:
        """Start a thread; see ``ThreadRepository.create``."""
        return await self._write(
            lambda uow: uow.threads.create(thread_id=thread_id, name=name, meta=meta), user_id=user_id
        )

    async def create_many(
        self, threads: Sequence[NewThread[IdT] | PreparedThread], *, user_id: UserIdT
    ) -> tuple[IdT, ...]:
        """Add new threads with all that is in them, all or none; see ``ThreadRepository.create_many``."""
        return await self._write(lambda uow: uow.threads.create_many(threads), user_id=user_id)

    def prepare(self, thread: NewThread[IdT], *, user_id: UserIdT) -> PreparedThread:
        """Check and encode a thread for ``create_many``; see ``ThreadRepository.prepare``."""
        return self._prepare_thread(thread, user_id=user_id)

    async def get(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT] | None:
        """Return a thread, or ``None``."""
        return await self._read(lambda uow: uow.threads.get(thread_id), user_id=user_id)

    async def require(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Return a thread, or raise ``ThreadNotFoundError``."""
        return await self._read(lambda uow: uow.threads.require(thread_id), user_id=user_id)

    async def page(
        self,
        *,
        user_id: UserIdT | AnyUser,
        limit: int = 20,
        after: str | None = None,
        search: str | None = None,
        meta: Mapping[str, Any] | None = None,
        archived: bool = False,
    ) -> Page[ThreadRecord[IdT, UserIdT]]:
        """List threads, the most recently active first; see ``ThreadRepository.page``."""
        return await self._read(
            lambda uow: uow.threads.page(limit=limit, after=after, search=search, meta=meta, archived=archived),
            user_id=user_id,
        )

    async def update(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        name: str | Unchanged | None = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
    ) -> ThreadRecord[IdT, UserIdT]:
        """Rename a thread, or replace its ``meta``."""
        return await self._write(lambda uow: uow.threads.update(thread_id, name=name, meta=meta), user_id=user_id)

    async def archive(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Take a thread out of the list without deleting it."""
        return await self._write(lambda uow: uow.threads.archive(thread_id), user_id=user_id)

    async def unarchive(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Put an archived thread back into the list."""
        return await self._write(lambda uow: uow.threads.unarchive(thread_id), user_id=user_id)

    async def delete(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> bool:
        """Delete a thread with its messages and states; say whether there was one."""
        return await self._write(lambda uow: uow.threads.delete(thread_id), user_id=user_id)


class OneCallMessages(_OneCall[IdT, UserIdT]):
    """``MessageRepository``, one call at a time."""

    async def append(
        self,
        thread_id: IdT,
        message: Mapping[str, Any] | NewMessage[IdT],
        *,
        user_id: UserIdT | AnyUser,
        message_id: IdT | None = None,
    ) -> MessageRecord[IdT]:
        """Add a message at the end of a thread; see ``MessageRepository.append``."""
        [made] = await self._append(thread_id, [with_id(message, message_id)], user_id=user_id, field="message")
        return made

    async def append_many(
        self,
        thread_id: IdT,
        messages: Sequence[Mapping[str, Any] | NewMessage[IdT]],
        *,
        user_id: UserIdT | AnyUser,
    ) -> tuple[MessageRecord[IdT], ...]:
        """Add messages at the end of a thread, in this order; all of them or none."""
        return await self._append(thread_id, messages, user_id=user_id, field="messages")

    async def get(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> MessageRecord[IdT] | None:
        """Return a message, or ``None``."""
        return await self._read(lambda uow: uow.messages.get(thread_id, message_id), user_id=user_id)

    async def require(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> MessageRecord[IdT]:
        """Return a message, or raise ``MessageNotFoundError``."""
        return await self._read(lambda uow: uow.messages.require(thread_id, message_id), user_id=user_id)

    async def page(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        limit: int = 50,
        before: str | None = None,
        after: str | None = None,
        search: str | None = None,
    ) -> Page[MessageRecord[IdT]]:
        """Read messages in the order they were said; see ``MessageRepository.page``."""
        return await self._read(
            lambda uow: uow.messages.page(thread_id, limit=limit, before=before, after=after, search=search),
            user_id=user_id,
        )

    async def update(
        self,
        thread_id: IdT,
        message_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        message: Mapping[str, Any] | Unchanged = UNSET,
        total_tokens: int | Unchanged = UNSET,
        usages: Mapping[str, Any] | Unchanged = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
    ) -> MessageRecord[IdT]:
        """Replace parts of a message."""
        return await self._write(
            lambda uow: uow.messages.update(
                thread_id, message_id, message=message, total_tokens=total_tokens, usages=usages, meta=meta
            ),
            user_id=user_id,
        )

    async def delete(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> bool:
        """Delete a message; say whether there was one."""
        return await self._write(lambda uow: uow.messages.delete(thread_id, message_id), user_id=user_id)


class OneCallStates(_OneCall[IdT, UserIdT]):
    """``StateRepository`` behind the cache, one call at a time."""

    async def put(
        self,
        thread_id: IdT,
        data: Any,
        *,
        user_id: UserIdT | AnyUser,
        meta: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Save a state as the thread's latest; see ``StateRepository.put``."""
        return await self._put_state(thread_id, data, user_id=user_id, meta=meta, expected_version=expected_version)

    async def get(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        fresh: bool = False,
        min_version: int | None = None,
    ) -> StateRecord[IdT] | None:
        """Return the thread's latest state, or ``None``."""
        return await self._latest_state(thread_id, user_id=user_id, fresh=fresh, min_version=min_version)

    async def require(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        fresh: bool = False,
        min_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Return the thread's latest state, or raise ``StateNotFoundError``."""
        state = await self._latest_state(thread_id, user_id=user_id, fresh=fresh, min_version=min_version)
        if state is None:
            raise StateNotFoundError(thread_id)
        return state

    async def get_version(self, thread_id: IdT, version: int, *, user_id: UserIdT | AnyUser) -> StateRecord[IdT] | None:
        """Return one version of the thread's state, or ``None``."""
        return await self._read(lambda uow: uow.states.get_version(thread_id, version), user_id=user_id)

    async def page(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, limit: int = 20, after: str | None = None
    ) -> Page[StateRecord[IdT]]:
        """List a thread's states, the latest first."""
        return await self._read(lambda uow: uow.states.page(thread_id, limit=limit, after=after), user_id=user_id)

    async def put_stream(
        self,
        thread_id: IdT,
        source: AsyncIterable[bytes],
        *,
        user_id: UserIdT | AnyUser,
        meta: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Save what a stream gives as the thread's latest state; see ``StateRepository.put_stream``.

        The pieces are written as they come, each in a transaction of its own, and nobody sees them before they are all
        there. No transaction is open, and no lock is held, while the source is waited for.
        """
        upload = self._upload(thread_id, source, user_id=user_id, meta=meta, expected_version=expected_version)
        beginning = start(upload.begin())
        try:
            await asyncio.shield(beginning)
            await upload.receive()
            return await upload.publish()
        except BaseException:
            start(_discarded(upload, beginning))  # who is cancelled, or told of an error, need not wait for it
            raise

    def open_stream(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, version: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Read a state as bytes, in pieces; see ``StateRepository.open_stream``.

        No connection is held between two pieces, so a slow reader costs nothing.
        """
        return read_stream(partial(self._apart, user_id=user_id), thread_id, version)

    async def touch(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Say that SQL of your own has changed the thread's states, and is committed: the cache forgets them."""
        await self._write(lambda uow: uow.states.touch(thread_id), user_id=user_id)

    async def clear(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> int:
        """Delete every state of a thread; say how many there were."""
        return await self._write(lambda uow: uow.states.clear(thread_id), user_id=user_id)

    async def prune(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        keep_last: int | None = None,
        older_than: datetime | None = None,
    ) -> int:
        """Delete old states of a thread; the latest always stays."""
        return await self._write(
            lambda uow: uow.states.prune(thread_id, keep_last=keep_last, older_than=older_than), user_id=user_id
        )


class OneCallEntities(_OneCall[IdT, UserIdT]):
    """``EntityRepository``, one call at a time; what it returns is detached, and ``session.add`` attaches it."""

    async def get_thread(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadMixin[IdT, UserIdT] | None:
        """Return a thread, or ``None``."""
        return await self._read_entities(lambda found: found.get_thread(thread_id), user_id=user_id)

    async def get_latest_state(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> StateMixin[IdT] | None:
        """Return a thread's latest state; see ``EntityRepository.get_latest_state``."""
        return await self._read_entities(lambda found: found.get_latest_state(thread_id), user_id=user_id)

    async def get_last_messages(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, limit: int = 50
    ) -> Sequence[MessageMixin[IdT]]:
        """Return the newest messages of a thread; see ``EntityRepository.get_last_messages``."""
        return await self._read_entities(lambda found: found.get_last_messages(thread_id, limit=limit), user_id=user_id)


class OneCallCheckpoints(_OneCall[IdT, UserIdT]):
    """``CheckpointRepository``, one call at a time."""

    async def put_writes(self, new: NewWrites, *, user_id: UserIdT | AnyUser) -> None:
        """Save what a task has written; see ``CheckpointRepository.put_writes``."""
        await self._write(lambda uow: uow.checkpoints.put_writes(new), user_id=user_id)

    async def page(
        self,
        query: CheckpointQuery,
        *,
        user_id: UserIdT | AnyUser,
        limit: int,
        after: CheckpointRecord | None = None,
    ) -> list[CheckpointRecord]:
        """Read checkpoints, the latest first; see ``CheckpointRepository.page``."""
        return await self._read(lambda uow: uow.checkpoints.page(query, limit=limit, after=after), user_id=user_id)

    async def history(
        self, query: CheckpointQuery, channels: Sequence[str], *, user_id: UserIdT | AnyUser
    ) -> dict[str, ChannelHistory]:
        """Read what was written to channels on the way to a checkpoint."""
        return await self._read(lambda uow: uow.checkpoints.history(query, channels), user_id=user_id)

    async def delete_all(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Delete all checkpoints of a thread; the thread stays."""
        await self._write(lambda uow: uow.checkpoints.delete_all(thread_id), user_id=user_id)

    async def keep_latest(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Delete all but the latest checkpoint of each namespace."""
        await self._write(lambda uow: uow.checkpoints.keep_latest(thread_id), user_id=user_id)

    async def delete_runs(self, run_ids: Sequence[str], *, user_id: UserIdT | AnyUser) -> None:
        """Delete what runs have saved, thread by thread, each in a transaction of its own."""
        for thread_id in await self._read(lambda uow: uow.checkpoints.threads_of_runs(run_ids), user_id=user_id):
            await self._delete_runs(thread_id, run_ids, user_id)

    async def copy(self, source_id: IdT, target_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Copy all checkpoints of a thread into another one; see ``CheckpointRepository.copy``."""
        await self._write(lambda uow: uow.checkpoints.copy(source_id, target_id), user_id=user_id)

    async def _delete_runs(self, thread_id: IdT, run_ids: Sequence[str], user_id: UserIdT | AnyUser) -> None:
        await self._write(lambda uow: uow.checkpoints.delete_runs(thread_id, run_ids), user_id=user_id)


class OneCallToolResults(_OneCall[IdT, UserIdT]):
    """``ToolResultRepository``, one call at a time."""

    async def get(self, thread_id: IdT, tool_call_id: str, *, user_id: UserIdT | AnyUser) -> Any:
        """Return what a tool call returned, or ``None`` where nothing is recorded."""
        return await self._read(lambda uow: uow.tool_results.get(thread_id, tool_call_id), user_id=user_id)

    async def record(self, thread_id: IdT, tool_call_id: str, result: Any, *, user_id: UserIdT | AnyUser) -> Any:
        """Record what a tool call returned, once; see ``ToolResultRepository.record``."""
        return await self._write(lambda uow: uow.tool_results.record(thread_id, tool_call_id, result), user_id=user_id)


async def _discarded(upload: Upload[Any], beginning: asyncio.Task[None]) -> None:
    """Discard an upload once it is known where it began, which goes on when its caller is cancelled."""
    await asyncio.wait([beginning])
    await upload.discard()
