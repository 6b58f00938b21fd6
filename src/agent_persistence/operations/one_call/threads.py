"""``ThreadRepository``, one call at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.one_call.base import OneCall
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import UNSET, AnyUser, NewThread, Page, ThreadRecord, Unchanged
from agent_persistence.repositories import PreparedThread, ThreadRepository
from agent_persistence.repositories.threads.bulk import prepare_thread


class OneCallThreads(OneCall[ThreadRepository[IdT, UserIdT], IdT, UserIdT]):
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
        return await self._write(
            ThreadRepository[IdT, UserIdT].create, user_id, thread_id=thread_id, name=name, meta=meta
        )

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
        return await self._write(ThreadRepository[IdT, UserIdT].create_many, user_id, threads)

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
        return await self._look_up(ThreadRepository[IdT, UserIdT].get, user_id, thread_id)

    async def require(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Return a thread.

        Raises:
            InvalidInputError: the id is not of the configured type.
            ThreadNotFoundError: it does not exist.
            CorruptRowError: the stored row cannot be read.
        """
        return await self._look_up(ThreadRepository[IdT, UserIdT].require, user_id, thread_id)

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
        # One that filters may take long, and others would wait for it.
        read = self._look_up if search is None and meta is None else self._read
        return await read(
            ThreadRepository[IdT, UserIdT].page,
            user_id,
            limit=limit,
            after=after,
            search=search,
            meta=meta,
            archived=archived,
        )

    async def update(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        name: str | Unchanged | None = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
    ) -> ThreadRecord[IdT, UserIdT]:
        """Rename a thread, or replace its ``meta``; an omitted one stays.

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
        return await self._batched.rows.change_thread(
            thread_id,
            name,
            meta,
            user_id=user_id,
            alone=lambda: self._write(ThreadRepository[IdT, UserIdT].update, user_id, thread_id, name=name, meta=meta),
        )

    async def archive(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Archive a thread: it leaves the list, and can still be read and written. A second call changes nothing.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(ThreadRepository[IdT, UserIdT].archive, user_id, thread_id)

    async def unarchive(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadRecord[IdT, UserIdT]:
        """Return an archived thread to the list.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(ThreadRepository[IdT, UserIdT].unarchive, user_id, thread_id)

    async def delete(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> bool:
        """Delete a thread with its messages, states and everything else in it; return whether it existed.

        Raises:
            InvalidInputError: the id is not of the configured type.
        """
        return await self._write(ThreadRepository[IdT, UserIdT].delete, user_id, thread_id)

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> ThreadRepository[IdT, UserIdT]:
        return repositories.threads
