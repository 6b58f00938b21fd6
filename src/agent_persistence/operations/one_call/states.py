"""``StateRepository`` behind the cache, one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agent_persistence.concurrency.shielding import start
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.operations.observed import measures_itself
from agent_persistence.operations.one_call.base import OneCall
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import AnyUser, Page, StateRecord
from agent_persistence.repositories.states.streams import Upload, prepare_stream, read_stream


class OneCallStates(OneCall[CachedStates[IdT, UserIdT], IdT, UserIdT]):
    """``StateRepository`` behind the cache, one call at a time.

    Each method takes ``user_id``: the owner of the thread, or ``ANY_USER`` for administration. Threads of other owners
    do not exist. Each may raise ``UnavailableError`` and ``StatementTimeoutError``; one that writes,
    ``CommitUnknownError``.
    """

    @measures_itself
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

    @measures_itself
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

    @measures_itself
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
        return await self._batched.latest_state(  # type: ignore[return-value]  # it exists, or was raised for
            thread_id, user_id=user_id, fresh=fresh, min_version=min_version, must_exist=True
        )

    async def get_version(self, thread_id: IdT, version: int, *, user_id: UserIdT | AnyUser) -> StateRecord[IdT] | None:
        """Return one version of a thread's state, or ``None`` if it does not exist.

        Args:
            thread_id: the thread.
            version: ``version`` of a state that was saved or read.
            user_id: the owner, or ``ANY_USER``.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored state cannot be read.
        """
        return await self._read(CachedStates[IdT, UserIdT].get_version, user_id, thread_id, version)

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
        return await self._read(CachedStates[IdT, UserIdT].page, user_id, thread_id, limit=limit, after=after)

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
        return read_stream(partial(self._transactions.read_in_scope, user_id=user_id), thread_id, version)

    async def touch(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> None:
        """Invalidate the cached state of a thread, after SQL of yours changed its states and was committed.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        await self._write(CachedStates[IdT, UserIdT].touch, user_id, thread_id)

    async def clear(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> int:
        """Delete all states of a thread; return their number.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(CachedStates[IdT, UserIdT].clear, user_id, thread_id)

    async def prune(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        keep_last: int | None = None,
        older_than: datetime | timedelta | None = None,
    ) -> int:
        """Delete old states of a thread; return their number. The latest state is never deleted.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            keep_last: how many of the newest stay, at least 1.
            older_than: delete only states that were saved longer ago by the database's clock, or before a time with
                a time zone.

        Raises:
            InvalidInputError: neither is given, or one cannot be valid.
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._write(
            CachedStates[IdT, UserIdT].prune, user_id, thread_id, keep_last=keep_last, older_than=older_than
        )

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

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> CachedStates[IdT, UserIdT]:
        return repositories.states


async def _discard(upload: Upload[Any], beginning: asyncio.Task[None]) -> None:
    """Discard an upload after its beginning, which runs to its end although the caller was cancelled."""
    await asyncio.wait([beginning])
    await upload.discard()
