"""Messages: what was said in a thread, in the order of commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final, Generic

from sqlalchemy import Row, delete, select, update

from agent_persistence.chat_format import MessageColumns, from_columns
from agent_persistence.errors import (
    CorruptRow,
    IdempotencyConflict,
    InvalidInput,
    MessageNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import UNSET, MessageRecord, NewMessage, Page, Unchanged
from agent_persistence.repositories.cursors import decode_cursor, encode_cursor
from agent_persistence.repositories.message_insert import PreparedMessage, insert_messages, prepare
from agent_persistence.repositories.proofs import Trace
from agent_persistence.repositories.rows import check_readable, readable, readable_records
from agent_persistence.repositories.scope import DRAWS, Query, Scope
from agent_persistence.texts import check_limit, check_text

ChatMessage = Mapping[str, Any]

_LISTING: Final = "messages"
BEFORE_THE_FIRST: Final = encode_cursor(_LISTING, 0)
"""The cursor to read a thread from its beginning: places are counted from 1."""


class MessageRepository(Generic[IdT, UserIdT]):
    """The messages of one owner's threads."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._message = scope.messages
        self._thread = scope.threads

    async def append(
        self, thread_id: IdT, message: ChatMessage | NewMessage[IdT], *, message_id: IdT | None = None
    ) -> MessageRecord[IdT]:
        """Add a message at the end of a thread.

        Args:
            message: a mapping in the chat-completions shape, or a ``NewMessage``.
            message_id: makes the call safe to repeat: the same id and message again changes nothing.

        Raises:
            ThreadNotFoundError: there is no such thread.
            IdempotencyConflict: a message of this id, with other content, is there already.
        """
        new = _as_new(message, "message")
        if message_id is not None:
            new = replace(new, message_id=message_id)
        prepared = prepare(self._scope, new, "message")
        return (await self._append(self._scope.thread_id(thread_id), [prepared]))[0]

    async def append_many(
        self, thread_id: IdT, messages: Sequence[ChatMessage | NewMessage[IdT]]
    ) -> tuple[MessageRecord[IdT], ...]:
        """Add messages at the end of a thread, in this order, in one statement; all of them or none.

        Raises:
            ThreadNotFoundError: there is no such thread.
            IdempotencyConflict: one has the id of another message in the thread.
        """
        prepared = [
            prepare(self._scope, _as_new(message, f"messages[{place}]"), f"messages[{place}]")
            for place, message in enumerate(messages)
        ]
        _refuse_repeated_ids(prepared)
        thread_id = self._scope.thread_id(thread_id)
        return tuple(await self._append(thread_id, prepared)) if prepared else ()

    async def get(self, thread_id: IdT, message_id: IdT) -> MessageRecord[IdT] | None:
        """Return a message, or ``None``."""
        found = self._message.c.message_id == self._scope.message_id(message_id)
        row = (await self._scope.execute(self._select(thread_id).where(found))).one_or_none()
        return None if row is None else self._record(row)

    async def require(self, thread_id: IdT, message_id: IdT) -> MessageRecord[IdT]:
        """Return a message.

        Raises:
            MessageNotFoundError: there is none.
        """
        message = await self.get(thread_id, message_id)
        if message is None:
            raise MessageNotFoundError(thread_id, message_id)
        return message

    async def page(
        self,
        thread_id: IdT,
        *,
        limit: int = 50,
        before: str | None = None,
        after: str | None = None,
        search: str | None = None,
    ) -> Page[MessageRecord[IdT]]:
        """Read messages in the order they were said: the newest, or those around a cursor.

        Nothing is skipped and nothing comes twice while others write: the order is that of commits.

        Args:
            limit: how many, 1 to 1,000.
            before: ``page.before`` of an earlier page: what was said before it.
            after: ``page.after`` of an earlier page: what was said since. Keep it to ask again later.
            search: text that the message must contain, whatever its case; ``%`` and ``_`` mean themselves.
        """
        check_limit(limit, "limit", 1000)
        if before is not None and after is not None:
            raise InvalidInput("after", "cannot be given together with before")
        statement = self._select(thread_id).limit(limit + 1)
        if search is not None:
            statement = statement.where(
                self._message.c.content.icontains(check_text(search, "search"), autoescape=True)
            )
        if after is not None:
            return await self._page_after(statement, after, limit)
        return await self._page_before(statement, before, limit)

    async def update(
        self,
        thread_id: IdT,
        message_id: IdT,
        *,
        message: ChatMessage | Unchanged = UNSET,
        total_tokens: int | Unchanged = UNSET,
        usages: Mapping[str, Any] | Unchanged = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
    ) -> MessageRecord[IdT]:
        """Replace parts of a message; what is left out stays, and so does its place.

        Raises:
            MessageNotFoundError: there is none.
        """
        changes = self._changes(message, total_tokens, usages, meta)
        locked = self._scope.locked_thread(self._scope.thread_id(thread_id))
        table = self._message
        statement = (
            update(table)
            .where(table.c.thread_id == locked.c.thread_id, table.c.message_id == self._scope.message_id(message_id))
            .values(changes)
            .add_cte(self._scope.touched_thread(locked))
            .returning(*self._columns())
        )
        rows = await self._scope.write(statement, self._updated)
        if not rows:
            raise MessageNotFoundError(thread_id, message_id)
        return self._record(rows[0])

    async def delete(self, thread_id: IdT, message_id: IdT) -> bool:
        """Delete a message; say whether there was one."""
        locked = self._scope.locked_thread(self._scope.thread_id(thread_id))
        table = self._message
        statement = (
            delete(table)
            .where(table.c.thread_id == locked.c.thread_id, table.c.message_id == self._scope.message_id(message_id))
            .add_cte(self._scope.touched_thread(locked))
            .returning(table.c.seq)
        )
        return bool(await self._scope.write(statement, self._deleted(thread_id)))

    async def _append(self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]]) -> list[MessageRecord[IdT]]:
        records: list[MessageRecord[IdT]] = []
        inserted: list[int] = []
        try:
            # The database numbers messages that came without an id: they cannot share a statement with the others.
            for _, group in groupby(messages, key=lambda message: message.message_id is None):
                records += await self._append_alike(thread_id, list(group), inserted)
        except (IdempotencyConflict, CorruptRow):
            # All or none: a caller that catches the error and commits must not keep a part of the batch.
            await self._take_back(thread_id, inserted)
            raise
        return records

    async def _append_alike(
        self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]], inserted: list[int]
    ) -> list[MessageRecord[IdT]]:
        rows = await self._insert(thread_id, messages)
        if len(rows) < len(messages) and messages[0].message_id is None:
            rows = await self._insert_renumbered(thread_id, messages, rows)
        inserted += [row.seq for row in rows]
        if len(rows) < len(messages):
            return await self._repeated(thread_id, messages)
        return [_appended(thread_id, message, row) for message, row in zip(messages, rows, strict=True)]

    async def _insert(self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]]) -> list[Row[Any]]:
        def inserted(row: Row[Any]) -> Trace:
            return Trace(self._message, {"thread_id": thread_id, "seq": row.seq}, ("created_at", row.created_at))

        rows = await self._scope.write(insert_messages(self._scope, thread_id, messages), inserted)
        return sorted(rows, key=lambda row: int(row.seq))

    async def _insert_renumbered(
        self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]], rows: list[Row[Any]]
    ) -> list[Row[Any]]:
        """The database has run into ids that were given by hand, unless it is the thread that is not there."""
        for _ in range(DRAWS):
            if (await self._scope.execute(self._scope.lock_thread(thread_id))).one_or_none() is None:
                raise ThreadNotFoundError(thread_id)
            await self._take_back(thread_id, [row.seq for row in rows])
            message_id = self._message.c.message_id
            await self._scope.skip_taken(message_id, self._message.c.thread_id == thread_id)
            rows = await self._insert(thread_id, messages)
            if len(rows) == len(messages):
                break
        return rows

    async def _take_back(self, thread_id: IdT, inserted: Sequence[int]) -> None:
        message = self._message
        mine = delete(message).where(message.c.thread_id == thread_id, message.c.seq.in_(inserted))
        await self._scope.write(mine.returning(message.c.seq), self._deleted(thread_id))

    async def _repeated(self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]]) -> list[MessageRecord[IdT]]:
        """Some were not inserted: either the thread is not there, or they stand in it already."""
        ids = [message.message_id for message in messages]
        rows = (await self._scope.execute(self._select(thread_id).where(self._message.c.message_id.in_(ids)))).all()
        stored = {row.message_id: self._record(row) for row in rows}
        if not stored:
            raise ThreadNotFoundError(thread_id)
        for message in messages:
            found = stored.get(message.message_id)
            if found is None or found.message != message.message:
                raise IdempotencyConflict(thread_id, message.message_id)
        return [stored[message.message_id] for message in messages]

    async def _page_before(self, statement: Query, before: str | None, limit: int) -> Page[MessageRecord[IdT]]:
        if before is not None:
            statement = statement.where(self._message.c.seq < _seq(before, "before"))
        rows = (await self._scope.execute(statement.order_by(self._message.c.seq.desc()))).all()
        shown = rows[:limit][::-1]
        items, corrupt = readable_records(shown, self._record)
        older = encode_cursor(_LISTING, shown[0].seq) if len(rows) > limit else None
        newer = encode_cursor(_LISTING, shown[-1].seq) if shown else before or BEFORE_THE_FIRST
        return Page(items, older, newer, corrupt)

    async def _page_after(self, statement: Query, after: str, limit: int) -> Page[MessageRecord[IdT]]:
        statement = statement.where(self._message.c.seq > _seq(after, "after"))
        shown = (await self._scope.execute(statement.order_by(self._message.c.seq))).all()[:limit]
        items, corrupt = readable_records(shown, self._record)
        if not shown:
            return Page(items, None, after)
        return Page(items, encode_cursor(_LISTING, shown[0].seq), encode_cursor(_LISTING, shown[-1].seq), corrupt)

    def _updated(self, row: Row[Any]) -> Trace:
        return Trace(self._message, {"thread_id": row.thread_id, "seq": row.seq}, ("updated_at", row.updated_at))

    def _deleted(self, thread_id: IdT) -> Callable[[Row[Any]], Trace]:
        return lambda row: Trace(self._message, {"thread_id": thread_id, "seq": row.seq})

    def _changes(self, message: Any, total_tokens: Any, usages: Any, meta: Any) -> dict[str, Any]:
        new: NewMessage[IdT] = NewMessage(
            message={"role": "user"} if message is UNSET else message,
            total_tokens=0 if total_tokens is UNSET else total_tokens,
            usages={} if usages is UNSET else usages,
            meta={} if meta is UNSET else meta,
        )
        prepared = prepare(self._scope, new, "message")
        changes: dict[str, Any] = {}
        if message is not UNSET:
            columns = prepared.columns
            changes |= {"role": columns.role, "content": columns.content, "tool_call_id": columns.tool_call_id}
            changes |= {"reasoning": columns.reasoning}
            changes |= {name: prepared.encoded[name] for name in ("tool_calls", "extra")}
        if total_tokens is not UNSET:
            changes["total_tokens"] = prepared.total_tokens
        changes |= {
            name: prepared.encoded[name] for name, given in (("usages", usages), ("meta", meta)) if given is not UNSET
        }
        if not changes:
            raise InvalidInput("message", "nothing to update was given")
        return changes

    def _select(self, thread_id: IdT) -> Query:
        message, thread = self._message, self._thread
        return (
            select(*self._columns())
            .join(thread, thread.c.thread_id == message.c.thread_id)
            .where(message.c.thread_id == self._scope.thread_id(thread_id), self._scope.owns())
        )

    def _columns(self) -> list[Any]:
        message = self._message
        return [
            message.c.thread_id,
            message.c.message_id,
            message.c.seq,
            message.c.role,
            message.c.content,
            message.c.tool_calls,
            message.c.tool_call_id,
            message.c.reasoning,
            message.c.extra,
            message.c.total_tokens,
            message.c.usages,
            message.c.meta,
            readable(message.c.created_at),
            readable(message.c.updated_at),
        ]

    def _record(self, row: Row[Any]) -> MessageRecord[IdT]:
        key = (row.thread_id, row.message_id)
        check_readable("messages", key, row)
        columns = MessageColumns(row.role, row.content, row.tool_calls, row.tool_call_id, row.reasoning, row.extra)
        try:
            message = from_columns(columns)
        except (AttributeError, TypeError, ValueError):  # JSON, but no difference between two messages
            raise CorruptRow("messages", key, "extra") from None
        return MessageRecord(
            thread_id=row.thread_id,
            message_id=row.message_id,
            seq=row.seq,
            role=row.role,
            message=message,
            text=row.content,
            total_tokens=row.total_tokens,
            usages=row.usages,
            meta=row.meta,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


def _as_new(message: ChatMessage | NewMessage[IdT], field: str) -> NewMessage[IdT]:
    if isinstance(message, NewMessage):
        return message
    if not isinstance(message, Mapping):
        raise InvalidInput(field, f"must be a mapping or a NewMessage, not {type(message).__name__}")
    return NewMessage(message=message)


def _appended(thread_id: IdT, message: PreparedMessage[IdT], row: Row[Any]) -> MessageRecord[IdT]:
    return MessageRecord(
        thread_id=thread_id,
        message_id=row.message_id,
        seq=row.seq,
        role=message.columns.role,
        message=message.message,
        text=message.columns.content,
        total_tokens=message.total_tokens,
        usages=message.usages,
        meta=message.meta,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _refuse_repeated_ids(messages: Sequence[PreparedMessage[Any]]) -> None:
    seen: set[Any] = set()
    for place, message in enumerate(messages):
        if message.message_id is not None and message.message_id in seen:
            raise InvalidInput(f"messages[{place}].message_id", "is given twice")
        seen.add(message.message_id)


def _seq(cursor: str, field: str) -> int:
    def read(seq: int) -> int:
        if type(seq) is not int or not 0 <= seq < 2**63:
            raise ValueError
        return seq

    return decode_cursor(cursor, _LISTING, field, read)
