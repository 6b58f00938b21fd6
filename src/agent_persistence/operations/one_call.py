"""The repositories as one-call operations: each call is one transaction.

A call is repeated as a whole while a retry may help, and runs to its end if the caller is cancelled. Reads need no
transaction, and a cache hit needs no connection.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from agent_persistence.concurrency.shielding import start
from agent_persistence.errors import StateNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import MessageMixin, StateMixin, ThreadMixin
from agent_persistence.operations.batched_calls import BatchedCalls
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.operations.transactions import Transactions
from agent_persistence.operations.unit_of_work import Repositories
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
from agent_persistence.repositories import (
    CheckpointRepository,
    EntityRepository,
    MessageRepository,
    PreparedThread,
    ThreadRepository,
    ToolResultRepository,
)
from agent_persistence.repositories.checkpoints.records import (
    ChannelHistory,
    CheckpointQuery,
    CheckpointRecord,
    NewWrites,
)
from agent_persistence.repositories.messages.prepared import with_id
from agent_persistence.repositories.states.streams import Upload, prepare_stream, read_stream
from agent_persistence.repositories.threads.bulk import prepare_thread

P = ParamSpec("P")
T = TypeVar("T")
RepositoryT = TypeVar("RepositoryT")


class _OneCall(ABC, Generic[RepositoryT, IdT, UserIdT]):
    """Calls methods of one repository, each in a transaction."""

    def __init__(self, transactions: Transactions[IdT, UserIdT], batched: BatchedCalls[IdT, UserIdT]) -> None:
        self._transactions = transactions
        self._batched = batched

    @property
    @abstractmethod
    def _methods(self) -> type[RepositoryT]:
        """The class whose methods are called, typed for this store's ids."""

    @abstractmethod
    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> RepositoryT:
        """Return the repository of a unit of work whose methods are called."""

    async def _read(
        self,
        method: Callable[Concatenate[RepositoryT, P], Awaitable[T]],
        user_id: UserIdT | AnyUser,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._transactions.read(self._call_of(method, *args, **kwargs), user_id=user_id)

    async def _write(
        self,
        method: Callable[Concatenate[RepositoryT, P], Awaitable[T]],
        user_id: UserIdT | AnyUser,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._transactions.write(self._call_of(method, *args, **kwargs), user_id=user_id)

    def _call_of(
        self, method: Callable[Concatenate[RepositoryT, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[Repositories[IdT, UserIdT]], Awaitable[T]]:
        def call(repositories: Repositories[IdT, UserIdT]) -> Awaitable[T]:
            return method(self._repository(repositories), *args, **kwargs)

        return call


class OneCallThreads(_OneCall[ThreadRepository[IdT, UserIdT], IdT, UserIdT]):
    """``ThreadRepository``, one call at a time.

    Each method takes ``user_id``: the owner, or ``ANY_USER`` for administration where the method allows it. Threads of
    other owners do not exist. Each may raise ``UnavailableError`` and ``StatementTimeoutError``; one that writes,
    ``CommitUnknownError``.
    """

    async def create(
        self,
        *,
        user_id: UserIdT,
        thread_id: IdT | None = None,
        name: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> ThreadRecord[IdT, UserIdT]:
        """Create a thread.

        Args:
            user_id: the owner.
            thread_id: made as the settings say if left out.
            name: a title, at most 255 characters.
            meta: a JSON object.

        Returns:
            The thread as it was stored.

        Raises:
            InvalidInputError: an argument cannot be stored.
            ThreadExistsError: the id is taken.
        """
        return await self._write(self._methods.create, user_id, thread_id=thread_id, name=name, meta=meta)

    async def create_many(
        self, threads: Sequence[NewThread[IdT] | PreparedThread], *, user_id: UserIdT
    ) -> tuple[IdT, ...]:
        """Add threads with their messages and states, all or none: the fastest import.

        Args:
            threads: new threads, checked already (``prepare``) or not.
            user_id: the owner of all of them.

        Returns:
            Their ids, in the same order.

        Raises:
            InvalidInputError: a part of one cannot be stored; ``field`` names it.
            ThreadExistsError: an id is taken, or given twice.
            CheckpointingDisabledError: one has states, and the settings refuse states.
        """
        return await self._write(self._methods.create_many, user_id, threads)

    def prepare(self, thread: NewThread[IdT], *, user_id: UserIdT) -> PreparedThread:
        """Check and encode a thread for ``create_many``, for example while another batch is being written.

        Args:
            thread: the thread, its messages and its states.
            user_id: the owner.

        Raises:
            InvalidInputError: a part of it cannot be stored; ``field`` names it.
            CheckpointingDisabledError: it has states, and the settings refuse states.
        """
        return prepare_thread(self._transactions.sessions.reading(user_id), thread)

    async def get(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT] | None:
        """Return a thread, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the stored row cannot be read.
        """
        return await self._read(self._methods.get, user_id, thread_id)

    async def require(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Return a thread.

        Raises:
            InvalidInputError: the id is not of the configured type.
            ThreadNotFoundError: it does not exist.
            CorruptRowError: the stored row cannot be read.
        """
        return await self._read(self._methods.require, user_id, thread_id)

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
        """List threads, the most recently active first.

        A thread that becomes active while the list is read moves to its top.

        Args:
            user_id: the owner, or ``ANY_USER``.
            limit: how many at most, 1 to 1,000.
            after: ``after`` of the previous page; the first page if left out.
            search: text that the name must contain, in any case; ``%`` and ``_`` mean themselves.
            meta: what ``meta`` must contain (PostgreSQL's ``@>``).
            archived: list the archived threads instead of the others.

        Returns:
            A page; rows that cannot be read are in its ``corrupt``.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        return await self._read(
            self._methods.page, user_id, limit=limit, after=after, search=search, meta=meta, archived=archived
        )

    async def update(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        name: str | Unchanged | None = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
    ) -> ThreadRecord[IdT, UserIdT]:
        """Rename a thread, or replace its ``meta``; what is left out stays.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            name: the new title, or ``None`` for no title.
            meta: the new JSON object, which replaces the old one as a whole.

        Returns:
            The thread as it is stored now.

        Raises:
            InvalidInputError: nothing to change was given, or it cannot be stored.
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(self._methods.update, user_id, thread_id, name=name, meta=meta)

    async def archive(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Archive a thread: it leaves the list, and can still be read and written. A second call changes nothing.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(self._methods.archive, user_id, thread_id)

    async def unarchive(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Return an archived thread to the list.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(self._methods.unarchive, user_id, thread_id)

    async def delete(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> bool:
        """Delete a thread with its messages, states and everything else in it; return whether it existed.

        Raises:
            InvalidInputError: the id is not of the configured type.
        """
        return await self._write(self._methods.delete, user_id, thread_id)

    @property
    def _methods(self) -> type[ThreadRepository[IdT, UserIdT]]:
        return ThreadRepository[IdT, UserIdT]

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> ThreadRepository[IdT, UserIdT]:
        return repositories.threads


class OneCallMessages(_OneCall[MessageRepository[IdT, UserIdT], IdT, UserIdT]):
    """``MessageRepository``, one call at a time.

    Each method takes ``user_id``: the owner of the thread, or ``ANY_USER`` for administration. Threads of other owners
    do not exist. Each may raise ``UnavailableError`` and ``StatementTimeoutError``; one that writes,
    ``CommitUnknownError``.
    """

    async def append(
        self,
        thread_id: IdT,
        message: Mapping[str, Any] | NewMessage[IdT],
        *,
        user_id: UserIdT | AnyUser,
        message_id: IdT | None = None,
    ) -> MessageRecord[IdT]:
        """Add a message at the end of a thread.

        Args:
            thread_id: the thread.
            message: a mapping in the chat-completions shape, or a ``NewMessage``.
            user_id: the owner, or ``ANY_USER``.
            message_id: makes the call safe to repeat: a second call with the same id and message changes nothing.

        Returns:
            The message as it was stored.

        Raises:
            InvalidInputError: a part of the message cannot be stored; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            IdempotencyConflictError: the thread has a message with this id and different content.
        """
        [made] = await self._batched.append(thread_id, [with_id(message, message_id)], user_id=user_id, field="message")
        return made

    async def append_many(
        self,
        thread_id: IdT,
        messages: Sequence[Mapping[str, Any] | NewMessage[IdT]],
        *,
        user_id: UserIdT | AnyUser,
    ) -> tuple[MessageRecord[IdT], ...]:
        """Add messages at the end of a thread, in this order; all of them or none.

        Args:
            thread_id: the thread.
            messages: mappings in the chat-completions shape, or ``NewMessage`` objects.
            user_id: the owner, or ``ANY_USER``.

        Returns:
            The messages as they were stored, in the same order.

        Raises:
            InvalidInputError: a part of one cannot be stored, or two have the same id; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            IdempotencyConflictError: one has the id of a message in the thread with different content.
        """
        return await self._batched.append(thread_id, messages, user_id=user_id, field="messages")

    async def get(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> MessageRecord[IdT] | None:
        """Return a message, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: an id is not of the configured type.
            CorruptRowError: the stored row cannot be read.
        """
        return await self._read(self._methods.get, user_id, thread_id, message_id)

    async def require(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> MessageRecord[IdT]:
        """Return a message.

        Raises:
            InvalidInputError: an id is not of the configured type.
            MessageNotFoundError: it does not exist.
            CorruptRowError: the stored row cannot be read.
        """
        return await self._read(self._methods.require, user_id, thread_id, message_id)

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
        """Read messages in the order of the thread: the newest, or those before or after a cursor.

        No message is skipped or repeated while others write: the order is that of commits.

        Args:
            thread_id: the thread; an empty page if it does not exist.
            user_id: the owner, or ``ANY_USER``.
            limit: how many at most, 1 to 1,000.
            before: ``before`` of another page: read the messages before that page.
            after: ``after`` of another page: read the messages that follow it. Keep it to poll for new ones.
            search: text that the message must contain, in any case; ``%`` and ``_`` mean themselves.

        Returns:
            A page; rows that cannot be read are in its ``corrupt``.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        return await self._read(
            self._methods.page, user_id, thread_id, limit=limit, before=before, after=after, search=search
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
        """Replace parts of a message; what is left out stays, and so does its position.

        Args:
            thread_id: the thread.
            message_id: the message.
            user_id: the owner, or ``ANY_USER``.
            message: a mapping in the chat-completions shape.
            total_tokens: 0 to 2,147,483,647.
            usages: a JSON object.
            meta: a JSON object.

        Returns:
            The message as it is stored now.

        Raises:
            InvalidInputError: nothing to change was given, or it cannot be stored.
            MessageNotFoundError: the message does not exist.
        """
        return await self._write(
            self._methods.update,
            user_id,
            thread_id,
            message_id,
            message=message,
            total_tokens=total_tokens,
            usages=usages,
            meta=meta,
        )

    async def delete(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> bool:
        """Delete a message; return whether it existed.

        Raises:
            InvalidInputError: an id is not of the configured type.
        """
        return await self._write(self._methods.delete, user_id, thread_id, message_id)

    @property
    def _methods(self) -> type[MessageRepository[IdT, UserIdT]]:
        return MessageRepository[IdT, UserIdT]

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> MessageRepository[IdT, UserIdT]:
        return repositories.messages


class OneCallStates(_OneCall[CachedStates[IdT, UserIdT], IdT, UserIdT]):
    """``StateRepository`` behind the cache, one call at a time.

    Each method takes ``user_id``: the owner of the thread, or ``ANY_USER`` for administration. Threads of other owners
    do not exist. Each may raise ``UnavailableError`` and ``StatementTimeoutError``; one that writes,
    ``CommitUnknownError``.
    """

    async def put(
        self,
        thread_id: IdT,
        data: Any,
        *,
        user_id: UserIdT | AnyUser,
        meta: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Save a state as the thread's latest.

        Args:
            thread_id: the thread.
            data: any JSON value.
            user_id: the owner, or ``ANY_USER``.
            meta: a JSON object.
            expected_version: save only if this is still the latest version (0: the thread has no state yet).

        Returns:
            The state with its new version.

        Raises:
            InvalidInputError: a part of it cannot be stored; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            StateConflictError: ``expected_version`` is not the latest version.
            CheckpointingDisabledError: the settings refuse states.
        """
        return await self._batched.put_state(
            thread_id, data, user_id=user_id, meta=meta, expected_version=expected_version
        )

    async def get(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        fresh: bool = False,
        min_version: int | None = None,
    ) -> StateRecord[IdT] | None:
        """Return a thread's latest state, or ``None``.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            fresh: read the table, whatever the cache holds.
            min_version: do not accept an older version from the cache.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored state cannot be read.
        """
        return await self._batched.latest_state(thread_id, user_id=user_id, fresh=fresh, min_version=min_version)

    async def require(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        fresh: bool = False,
        min_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Return a thread's latest state; arguments and errors are those of ``get``.

        Raises:
            StateNotFoundError: the thread has no state, or does not exist.
        """
        state = await self.get(thread_id, user_id=user_id, fresh=fresh, min_version=min_version)
        if state is None:
            raise StateNotFoundError(thread_id)
        return state

    async def get_version(self, thread_id: IdT, version: int, *, user_id: UserIdT | AnyUser) -> StateRecord[IdT] | None:
        """Return one version of a thread's state, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored state cannot be read.
        """
        return await self._read(self._methods.get_version, user_id, thread_id, version)

    async def page(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, limit: int = 20, after: str | None = None
    ) -> Page[StateRecord[IdT]]:
        """List a thread's states, the latest first.

        Args:
            thread_id: the thread; an empty page if it does not exist.
            user_id: the owner, or ``ANY_USER``.
            limit: how many at most, 1 to 1,000.
            after: ``after`` of the previous page; the first page if left out.

        Returns:
            A page; rows that cannot be read are in its ``corrupt``.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        return await self._read(self._methods.page, user_id, thread_id, limit=limit, after=after)

    async def put_stream(
        self,
        thread_id: IdT,
        source: AsyncIterable[bytes],
        *,
        user_id: UserIdT | AnyUser,
        meta: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Save a stream as the thread's latest state, with a few megabytes in memory.

        Each chunk is written in its own transaction, and no reader sees them before all are there. No transaction is
        open, and no lock is held, while the source is waited for.

        Args:
            thread_id: the thread.
            source: yields the state in pieces of any size.
            user_id: the owner, or ``ANY_USER``.
            meta: a JSON object.
            expected_version: publish only if this is still the latest version (0: the thread has no state yet).

        Returns:
            A record without ``data``; its ``stream`` has size and digest.

        Raises:
            InvalidInputError: an argument cannot be stored.
            ThreadNotFoundError: the thread does not exist, or was deleted before the end of the stream.
            StateConflictError: ``expected_version`` is not the latest version.
            StatementTimeoutError: the stream took longer than a day.
            CheckpointingDisabledError: the settings refuse states.
        """
        upload = self._upload(thread_id, source, user_id, meta=meta, expected_version=expected_version)
        beginning = start(upload.begin())
        try:
            await asyncio.shield(beginning)
            await upload.receive()
            return await upload.publish()
        except BaseException:
            start(_discard(upload, beginning))  # in the background: the caller need not wait for it
            raise

    def open_stream(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, version: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Read a state as bytes, in chunks: those of ``put_stream``, or the JSON of a state that ``put`` saved.

        No connection is held between two chunks, so a slow reader costs nothing.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            version: the latest if left out.

        Raises:
            StateNotFoundError: (when iterated) there is no such state, or it was deleted during the read.
            CorruptRowError: (when iterated) the bytes are not those that were saved; the last chunk is withheld.
        """
        return read_stream(partial(self._transactions.write_in_scope, user_id=user_id), thread_id, version)

    async def touch(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Invalidate the cached state of a thread, after SQL of yours changed its states and was committed.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        await self._write(self._methods.touch, user_id, thread_id)

    async def clear(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> int:
        """Delete all states of a thread; return their number.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(self._methods.clear, user_id, thread_id)

    async def prune(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        keep_last: int | None = None,
        older_than: datetime | None = None,
    ) -> int:
        """Delete old states of a thread; return their number. The latest state is never deleted.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            keep_last: how many of the newest stay, at least 1.
            older_than: delete only states that were saved before this time, which has a time zone.

        Raises:
            InvalidInputError: neither is given, or one cannot be valid.
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(self._methods.prune, user_id, thread_id, keep_last=keep_last, older_than=older_than)

    def _upload(
        self,
        thread_id: IdT,
        source: AsyncIterable[bytes],
        user_id: UserIdT | AnyUser,
        *,
        meta: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> Upload[IdT]:
        scope = self._transactions.sessions.reading(user_id)
        new = prepare_stream(scope, thread_id, source, meta, expected_version)
        return Upload(partial(self._transactions.write_in_scope, user_id=user_id), new)

    @property
    def _methods(self) -> type[CachedStates[IdT, UserIdT]]:
        return CachedStates[IdT, UserIdT]

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> CachedStates[IdT, UserIdT]:
        return repositories.states


class OneCallEntities(Generic[IdT, UserIdT]):
    """``EntityRepository``, one call at a time; the objects are detached, and ``session.add`` attaches them.

    Each method takes ``user_id``: the owner, or ``ANY_USER`` for administration.
    """

    def __init__(self, transactions: Transactions[IdT, UserIdT]) -> None:
        self._read = transactions.read_entities

    async def get_thread(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadMixin[IdT, UserIdT] | None:
        """Return a thread, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: the id is not of the configured type.
        """
        return await self._read(
            partial(EntityRepository[IdT, UserIdT].get_thread, thread_id=thread_id), user_id=user_id
        )

    async def get_latest_state(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> StateMixin[IdT] | None:
        """Return a thread's latest state with all of its ``state_data``, or ``None``.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the stored state cannot be read.
        """
        return await self._read(
            partial(EntityRepository[IdT, UserIdT].get_latest_state, thread_id=thread_id), user_id=user_id
        )

    async def get_last_messages(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, limit: int = 50
    ) -> Sequence[MessageMixin[IdT]]:
        """Return the newest messages of a thread, the oldest of them first.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            limit: how many at most, 1 to 1,000.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        read = partial(EntityRepository[IdT, UserIdT].get_last_messages, thread_id=thread_id, limit=limit)
        return await self._read(read, user_id=user_id)


class OneCallCheckpoints(_OneCall[CheckpointRepository[IdT, UserIdT], IdT, UserIdT]):
    """``CheckpointRepository``, one call at a time.

    Each method takes ``user_id``: the owner of the threads, or ``ANY_USER``.
    """

    async def put_writes(self, new: NewWrites, *, user_id: UserIdT | AnyUser) -> None:
        """Save the writes of a task; see ``CheckpointRepository.put_writes``."""
        await self._write(self._methods.put_writes, user_id, new)

    async def page(
        self,
        query: CheckpointQuery,
        *,
        user_id: UserIdT | AnyUser,
        limit: int,
        after: CheckpointRecord | None = None,
    ) -> list[CheckpointRecord]:
        """Read checkpoints, the latest first; see ``CheckpointRepository.page``."""
        return await self._read(self._methods.page, user_id, query, limit=limit, after=after)

    async def history(
        self, query: CheckpointQuery, channels: Sequence[str], *, user_id: UserIdT | AnyUser
    ) -> dict[str, ChannelHistory]:
        """Read the writes to channels on the way to a checkpoint; see ``CheckpointRepository.history``."""
        return await self._read(self._methods.history, user_id, query, channels)

    async def delete_all(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Delete all checkpoints of a thread; the thread stays."""
        await self._write(self._methods.delete_all, user_id, thread_id)

    async def keep_latest(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Delete all but the latest checkpoint of each namespace."""
        await self._write(self._methods.keep_latest, user_id, thread_id)

    async def delete_runs(self, run_ids: Sequence[str], *, user_id: UserIdT | AnyUser) -> None:
        """Delete the checkpoints of runs, one transaction a thread."""
        for thread_id in await self._read(self._methods.threads_of_runs, user_id, run_ids):
            await self._write(self._methods.delete_runs, user_id, thread_id, run_ids)

    async def copy(self, source_id: IdT, target_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Copy all checkpoints of a thread into another one; see ``CheckpointRepository.copy``."""
        await self._write(self._methods.copy, user_id, source_id, target_id)

    @property
    def _methods(self) -> type[CheckpointRepository[IdT, UserIdT]]:
        return CheckpointRepository[IdT, UserIdT]

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> CheckpointRepository[IdT, UserIdT]:
        return repositories.checkpoints


class OneCallToolResults(_OneCall[ToolResultRepository[IdT, UserIdT], IdT, UserIdT]):
    """``ToolResultRepository``, one call at a time.

    Each method takes ``user_id``: the owner of the thread, or ``ANY_USER``.
    """

    async def get(self, thread_id: IdT, tool_call_id: str, *, user_id: UserIdT | AnyUser) -> Any:
        """Return the recorded result of a tool call, or ``None`` if there is none.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored result cannot be read.
        """
        return await self._read(self._methods.get, user_id, thread_id, tool_call_id)

    async def record(self, thread_id: IdT, tool_call_id: str, result: Any, *, user_id: UserIdT | AnyUser) -> Any:
        """Record the result of a tool call, unless one is recorded; return the recorded one.

        Args:
            thread_id: the thread.
            tool_call_id: the id of the call, unique within the thread.
            result: any JSON value except ``None``.
            user_id: the owner, or ``ANY_USER``.

        Raises:
            InvalidInputError: an argument cannot be stored.
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(self._methods.record, user_id, thread_id, tool_call_id, result)

    @property
    def _methods(self) -> type[ToolResultRepository[IdT, UserIdT]]:
        return ToolResultRepository[IdT, UserIdT]

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> ToolResultRepository[IdT, UserIdT]:
        return repositories.tool_results


async def _discard(upload: Upload[Any], beginning: asyncio.Task[None]) -> None:
    """Discard an upload after its beginning, which runs to its end although the caller was cancelled."""
    await asyncio.wait([beginning])
    await upload.discard()
