"""Threads: conversations and who owns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic

from sqlalchemy import Row

from agent_persistence.encoding.cursors import decode_cursor, encode_cursor
from agent_persistence.encoding.exact_json import EncodedJSON
from agent_persistence.encoding.timestamps import microseconds, moment
from agent_persistence.errors import InvalidInputError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import ANY_USER, UNSET, NewThread, Page, ThreadRecord, TouchedState, Unchanged
from agent_persistence.repositories.messages.statements import escaped
from agent_persistence.repositories.rows import check_readable, json_object, readable_records
from agent_persistence.repositories.threads.bulk import PreparedThread, add_threads, fill_threads, prepare_thread
from agent_persistence.repositories.threads.statements import (
    add_thread,
    change_thread,
    delete_thread,
    lock_and_read,
    one_thread,
    page_of_threads,
)
from agent_persistence.sessions.commit_evidence import row_evidence
from agent_persistence.sessions.scope import DRAWS, Scope
from agent_persistence.validation import check_limit, check_name, check_search

_LISTING: Final = "threads"


class ThreadRepository(Generic[IdT, UserIdT]):
    """The threads of one owner."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._thread = scope.threads

    async def create(
        self,
        *,
        thread_id: IdT | None = None,
        name: str | None = None,
        meta: Mapping[str, Any] | None = None,
        user_id: UserIdT | None = None,
    ) -> ThreadRecord[IdT, UserIdT]:
        """Create a thread for the owner of the unit of work.

        Args:
            thread_id: made as the settings say if left out.
            name: a title, at most 255 characters.
            meta: a JSON object.
            user_id: the owner; required, and allowed, only in a unit of work of ``ANY_USER``.

        Returns:
            The thread as it was stored.

        Raises:
            InvalidInputError: an argument cannot be stored.
            ThreadExistsError: the id is taken.
        """
        values: dict[str, Any] = {
            "user_id": self._owner(user_id),
            "thread_name": check_name(self._scope.clean(name, "name"), "name"),
            "meta": self._scope.json(json_object(meta, "meta"), "meta"),
        }
        new_id = self._scope.make_id() if thread_id is None else self._scope.thread_id(thread_id)
        return thread_record(await self._add(new_id, values))

    def prepare(self, thread: NewThread[IdT]) -> PreparedThread:
        """Check and encode a thread for ``create_many``, for example while another batch is being written.

        Raises:
            InvalidInputError: a part of it cannot be stored; ``field`` names it.
            CheckpointingDisabledError: it has states, and the settings refuse states.
        """
        return prepare_thread(self._scope, thread)

    async def _added(self, thread: PreparedThread, owner: UserIdT) -> IdT:
        """Insert a thread whose id the database makes; return that id."""
        row = await self._add(None, {"user_id": owner, "thread_name": thread.name, "meta": thread.meta})
        thread_id: IdT = row.thread_id
        return thread_id

    async def _add(self, new_id: IdT | None, values: dict[str, Any]) -> Any:
        scope, given = self._scope, {f"new_{name}": value for name, value in values.items()}
        statement = add_thread(scope.models, with_id=new_id is not None)
        evidence = row_evidence(self._thread, "thread_id", time="created_at")
        for _ in range(DRAWS):
            rows = await scope.write(statement, evidence, new_thread_id=new_id, **given)
            if rows:
                return rows[0]
            if new_id is not None:
                break
            await self._scope.skip_taken(self._thread.c.thread_id)
        raise ThreadExistsError(new_id)

    async def create_many(
        self, threads: Sequence[NewThread[IdT] | PreparedThread], *, user_id: UserIdT | None = None
    ) -> tuple[IdT, ...]:
        """Add threads with their messages and states, all or none: the fastest import.

        Messages and states go by COPY, several times as fast as ``append_many`` and ``put``.

        Args:
            threads: new threads, checked already (``prepare``) or not.
            user_id: the owner; required, and allowed, only in a unit of work of ``ANY_USER``.

        Returns:
            The ids, in the same order.

        Raises:
            InvalidInputError: a part of one cannot be stored; ``field`` names it.
            ThreadExistsError: an id is taken, or given twice.
            CheckpointingDisabledError: one has states, and the settings refuse states.
        """
        scope, owner = self._scope, self._owner(user_id)
        prepared = [
            thread if isinstance(thread, PreparedThread) else prepare_thread(scope, thread, f"threads[{index}].")
            for index, thread in enumerate(threads)
        ]
        if named := [thread for thread in prepared if thread.thread_id is not None]:
            await add_threads(scope, owner, named)
        # An INSERT of several rows does not say which generated id belongs to which row: these are added one by one.
        ids = [
            await self._added(thread, owner) if thread.thread_id is None else thread.thread_id for thread in prepared
        ]
        await fill_threads(scope, owner, dict(zip(ids, prepared, strict=True)))
        return tuple(ids)

    async def get(self, thread_id: IdT) -> ThreadRecord[IdT, UserIdT] | None:
        """Return a thread, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the stored row cannot be read.
        """
        scope = self._scope
        rows = await scope.fetch(
            one_thread(scope.models, of_any_user=scope.is_any_user),
            thread_id=scope.thread_id(thread_id),
            owner=scope.owner,
        )
        return thread_record(rows[0]) if rows else None

    async def require(self, thread_id: IdT) -> ThreadRecord[IdT, UserIdT]:
        """Return a thread.

        Raises:
            InvalidInputError: the id is not of the configured type.
            ThreadNotFoundError: it does not exist.
            CorruptRowError: the stored row cannot be read.
        """
        thread = await self.get(thread_id)
        if thread is None:
            raise ThreadNotFoundError(thread_id)
        return thread

    async def update(
        self,
        thread_id: IdT,
        *,
        name: str | Unchanged | None = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
    ) -> ThreadRecord[IdT, UserIdT]:
        """Rename a thread, or replace its ``meta``; an omitted one stays.

        Args:
            thread_id: the thread.
            name: the new title, or ``None`` for no title.
            meta: the new JSON object, which replaces the old one as a whole.

        Returns:
            The thread as it is stored now.

        Raises:
            InvalidInputError: nothing to change was given, or it cannot be stored.
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._change(thread_id, thread_changes(self._scope, name, meta))

    async def lock(self, thread_id: IdT) -> ThreadRecord[IdT, UserIdT]:
        """Lock a thread until the transaction ends, and return it: other writers of the thread wait, readers do not.

        Read what you change after this call, not before it.

        Raises:
            InvalidInputError: the id is not of the configured type.
            ThreadNotFoundError: the thread does not exist.
            CorruptRowError: the stored row cannot be read.
        """
        scope = self._scope
        rows = await scope.lock(
            lock_and_read(scope.models, of_any_user=scope.is_any_user),
            thread_id=scope.thread_id(thread_id),
            owner=scope.owner,
        )
        if not rows:
            raise ThreadNotFoundError(thread_id)
        return thread_record(rows[0])

    async def archive(self, thread_id: IdT) -> ThreadRecord[IdT, UserIdT]:
        """Archive a thread: it leaves the list, and can still be read and written. A second call changes nothing.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._change(thread_id, {"archived_at": True})

    async def unarchive(self, thread_id: IdT) -> ThreadRecord[IdT, UserIdT]:
        """Return an archived thread to the list.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._change(thread_id, {"archived_at": False})

    async def delete(self, thread_id: IdT) -> bool:
        """Delete a thread with its messages, states and everything else in it; return whether it existed."""
        scope = self._scope
        rows = await scope.write(
            delete_thread(scope.models, of_any_user=scope.is_any_user),
            row_evidence(self._thread, "thread_id"),
            thread_id=scope.thread_id(thread_id),
            owner=scope.owner,
        )
        for row in rows:
            self._scope.touch(TouchedState(thread_id, row.user_id))
        return bool(rows)

    async def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        search: str | None = None,
        meta: Mapping[str, Any] | None = None,
        archived: bool = False,
    ) -> Page[ThreadRecord[IdT, UserIdT]]:
        """List threads, the most recently active first.

        A thread that becomes active while the list is read moves to its top.

        Args:
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
        check_limit(limit, "limit", 1000)
        scope = self._scope
        values: dict[str, Any] = {"owner": scope.owner, "limit": limit + 1}
        if search is not None:
            values["text"] = escaped(check_search(search))
        if meta is not None:
            values["wanted"] = self._wanted(meta)
        if after is not None:
            values["last_time"], values["last_id"] = decode_cursor(after, _LISTING, "after", self._position)
        statement = page_of_threads(
            scope.models,
            of_any_user=scope.is_any_user,
            archived=archived,
            continues="last_id" in values,
            searches="text" in values,
            filters="wanted" in values,
        )
        rows = await scope.fetch(statement, **values)
        items, corrupt = readable_records(rows[:limit], thread_record)
        more = rows[limit - 1] if len(rows) > limit else None
        return Page(items, None, None if more is None else self._cursor(more), corrupt)

    async def _change(self, thread_id: IdT, changes: Mapping[str, Any]) -> ThreadRecord[IdT, UserIdT]:
        scope = self._scope
        rows = await scope.write(
            change_thread(scope.models, tuple(changes), of_any_user=scope.is_any_user),
            # With the changed values: updated_at stays, because only messages and states move a thread in the list.
            row_evidence(self._thread, "thread_id", *changes, time="updated_at"),
            thread_id=scope.thread_id(thread_id),
            owner=scope.owner,
            **{f"new_{name}": value for name, value in changes.items()},
        )
        if not rows:
            raise ThreadNotFoundError(thread_id)
        return thread_record(rows[0])

    def _wanted(self, meta: Mapping[str, Any]) -> EncodedJSON:
        if not meta:
            # PostgreSQL's @> '{}' matches every thread.
            raise InvalidInputError("meta", "must not be empty: an empty filter matches everything")
        return self._scope.json(json_object(meta, "meta"), "meta")

    def _cursor(self, row: Row[Any]) -> str:
        thread_id = row.thread_id if isinstance(row.thread_id, int) else str(row.thread_id)
        if row.updated_at.tzinfo is None:
            return encode_cursor(_LISTING, None, thread_id)
        return encode_cursor(_LISTING, microseconds(row.updated_at), thread_id)

    def _position(self, updated_at: int | None, thread_id: str | int) -> tuple[datetime | None, IdT]:
        # No time: one outside Python's calendar, which the thread's row holds.
        time = None if updated_at is None else moment(updated_at)
        return time, self._scope.models.id_types.id.parse(str(thread_id), "after")

    def _owner(self, user_id: UserIdT | None) -> UserIdT:
        if self._scope.owner is not ANY_USER:
            if user_id is not None and user_id != self._scope.owner:
                raise InvalidInputError("user_id", "is not the owner of this unit of work")
            return self._scope.owner
        return self._scope.models.id_types.user.validate(user_id, "user_id")


def thread_changes(
    scope: Scope[Any, Any], name: str | Unchanged | None, meta: Mapping[str, Any] | Unchanged
) -> dict[str, Any]:
    """Check and encode what is to change, by column.

    Raises:
        InvalidInputError: nothing to change was given, or it cannot be stored.
    """
    changes: dict[str, Any] = {}
    if name is not UNSET:
        changes["thread_name"] = check_name(scope.clean(name, "name"), "name")
    if meta is not UNSET:
        changes["meta"] = scope.json(json_object(meta, "meta"), "meta")
    if not changes:
        raise InvalidInputError("name", "nothing to update was given")
    return changes


def thread_record(row: Any) -> ThreadRecord[Any, Any]:
    """Return the record of a row with ``thread_columns``.

    Raises:
        CorruptRowError: a column cannot be decoded.
    """
    # By position, in the order of thread_columns: access by name takes twice as long.
    thread_id, owner, name, meta, archived, created, updated = row[:7]
    check_readable("threads", thread_id, row, archived, created, updated)
    return ThreadRecord(thread_id, owner, name, meta, archived, created, updated)
