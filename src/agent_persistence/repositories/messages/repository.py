"""The messages of a thread, in the order of commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, Literal

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.encoding.cursors import decode_cursor, encode_cursor
from agent_persistence.errors import InvalidInputError, MessageNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import ANY_USER, UNSET, MessageRecord, NewMessage, Page, Unchanged
from agent_persistence.repositories.locks import lock_one
from agent_persistence.repositories.messages.append import MessageAppender
from agent_persistence.repositories.messages.prepared import prepare, prepare_append, with_id
from agent_persistence.repositories.messages.rows import message_record
from agent_persistence.repositories.messages.statements import (
    change_message,
    chosen_messages,
    clear_messages,
    delete_message,
    escaped,
    page_of_messages,
)
from agent_persistence.repositories.rows import readable_records
from agent_persistence.sessions.commit_evidence import row_evidence
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_limit, check_namespace, check_search

ChatMessage = Mapping[str, Any]

_LISTING: Final = "messages"
_PAST_THE_LAST: Final = 2**63 - 1
BEFORE_THE_FIRST: Final = encode_cursor(_LISTING, 0)
"""The cursor to read a thread from its beginning: positions are counted from 1."""


class MessageRepository(Generic[IdT, UserIdT]):
    """The messages of one owner's threads."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._message = scope.messages

    async def append(
        self, thread_id: IdT, message: ChatMessage | NewMessage[IdT], *, message_id: IdT | None = None
    ) -> MessageRecord[IdT]:
        """Add a message at the end of a thread.

        Args:
            thread_id: the thread.
            message: a mapping in the chat-completions shape, or a ``NewMessage``.
            message_id: makes the call safe to repeat: a second call with the same id and message changes nothing.

        Returns:
            The message as it was stored.

        Raises:
            InvalidInputError: a part of the message cannot be stored; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            IdempotencyConflictError: the thread has a message with this id and different content.
        """
        new = prepare_append(self._scope, thread_id, [with_id(message, message_id)])
        return (await MessageAppender(self._scope).append(new))[0]

    async def append_many(
        self, thread_id: IdT, messages: Sequence[ChatMessage | NewMessage[IdT]]
    ) -> tuple[MessageRecord[IdT], ...]:
        """Add messages at the end of a thread, in this order; all of them or none.

        Args:
            thread_id: the thread.
            messages: mappings in the chat-completions shape, or ``NewMessage`` objects.

        Returns:
            The messages as they were stored, in the same order.

        Raises:
            InvalidInputError: a part of one cannot be stored, or two have the same id; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            IdempotencyConflictError: one has the id of a message in the thread with different content.
        """
        new = prepare_append(self._scope, thread_id, messages, "messages")
        return tuple(await MessageAppender(self._scope).append(new)) if new.messages else ()

    async def get(self, thread_id: IdT, message_id: IdT) -> MessageRecord[IdT] | None:
        """Return a message, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: an id is not of the configured type.
            CorruptRowError: the stored row cannot be read.
        """
        scope = self._scope
        rows = await scope.fetch(
            chosen_messages(scope.models, of_any_user=scope.is_any_user, one=True),
            thread_id=scope.thread_id(thread_id),
            message_ids=scope.message_id(message_id),
            owner=scope.owner,
        )
        return message_record(rows[0]) if rows else None

    async def require(self, thread_id: IdT, message_id: IdT) -> MessageRecord[IdT]:
        """Return a message.

        Raises:
            InvalidInputError: an id is not of the configured type.
            MessageNotFoundError: it does not exist.
            CorruptRowError: the stored row cannot be read.
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
        asides: bool | str = False,
    ) -> Page[MessageRecord[IdT]]:
        """Read messages in the order of the thread: the newest, or those before or after a cursor.

        No message is skipped or repeated while others write: the order is that of commits.

        Args:
            thread_id: the thread; an empty page if it does not exist.
            limit: how many at most, 1 to 1,000.
            before: ``before`` of another page: read the messages before that page.
            after: ``after`` of another page: read the messages that follow it. Keep it to poll for new ones.
            search: text that the message must contain, in any case, at most 255 characters; ``%`` and ``_`` mean
                themselves. Normalise it like the stored text: NFD does not match NFC.
            asides: whether to show rows that frameworks keep between the messages, too: all, or those of a name. See
                ``MessageRecord.aside``.

        Returns:
            A page; rows that cannot be read are in its ``corrupt``.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        check_limit(limit, "limit", 1000)
        if before is not None and after is not None:
            raise InvalidInputError("after", "cannot be given together with before")
        scope = self._scope
        values: dict[str, Any] = {"thread_id": scope.thread_id(thread_id), "owner": scope.owner, "limit": limit + 1}
        if search is not None:
            values["text"] = escaped(check_search(search))
        if isinstance(asides, str):
            values["aside"] = check_namespace(asides, "asides")
        read = page_of_messages(
            scope.models,
            backwards=after is None,
            of_any_user=scope.owner is ANY_USER,
            searches=search is not None,
            asides=_which(asides),
        )
        if after is None:
            return await self._page_before(read, values, before, limit)
        return await self._page_after(read, values, after, limit)

    async def update(
        self,
        thread_id: IdT,
        message_id: IdT,
        *,
        message: ChatMessage | Unchanged = UNSET,
        total_tokens: int | Unchanged = UNSET,
        usages: Mapping[str, Any] | Unchanged = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
        aside: str | Unchanged | None = UNSET,
    ) -> MessageRecord[IdT]:
        """Replace parts of a message; omitted parts and its position stay.

        Args:
            thread_id: the thread.
            message_id: the message.
            message: a mapping in the chat-completions shape.
            total_tokens: 0 to 2,147,483,647.
            usages: a JSON object.
            meta: a JSON object.
            aside: ``None`` makes the row a message of the conversation; a name takes it out. See ``NewMessage``.

        Returns:
            The message as it is stored now.

        Raises:
            InvalidInputError: nothing to change was given, or it cannot be stored.
            MessageNotFoundError: the message does not exist.
        """
        changes = self._changes(message, total_tokens, usages, meta, aside)
        scope = self._scope
        rows = await scope.write(
            change_message(scope.models, tuple(changes), of_any_user=scope.is_any_user),
            row_evidence(self._message, "thread_id", "seq", time="updated_at"),
            **self._key(thread_id, message_id),
            **{f"new_{name}": value for name, value in changes.items()},
        )
        if not rows:
            raise MessageNotFoundError(thread_id, message_id)
        return message_record(rows[0])

    async def delete(self, thread_id: IdT, message_id: IdT) -> bool:
        """Delete a message; return whether it existed.

        Raises:
            InvalidInputError: an id is not of the configured type.
        """
        statement = delete_message(self._scope.models, of_any_user=self._scope.is_any_user)
        evidence = row_evidence(self._message, "thread_id", "seq")
        return bool(await self._scope.write(statement, evidence, **self._key(thread_id, message_id)))

    async def pop(self, thread_id: IdT, *, asides: bool | str = False) -> MessageRecord[IdT] | None:
        """Remove the last message of a thread and return it; ``None`` if there is none.

        Concurrent calls remove different messages. A message that cannot be read is not removed.

        Args:
            thread_id: the thread.
            asides: whether the last row may be an aside: any, or one of this name. Others are passed by, and stay.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the last message cannot be read.
        """
        if not await self._locked(thread_id):
            return None
        # Statements of their own: one that waits for the lock does not see what was added meanwhile.
        last = await self.page(thread_id, limit=1, asides=asides)
        if last.corrupt:
            raise last.corrupt[0]
        for message in last:
            await self.delete(thread_id, message.message_id)
        return next(iter(last), None)

    async def clear(self, thread_id: IdT) -> int:
        """Delete all messages of a thread, asides included; return how many there were. The thread and its states stay.

        Raises:
            InvalidInputError: the id is not of the configured type.
        """
        if not await self._locked(thread_id):
            return 0
        evidence = row_evidence(self._message, "thread_id", "seq")
        rows = await self._scope.write(clear_messages(self._scope.models), evidence, thread_id=thread_id)
        return sum(row.deleted for row in rows)

    async def _locked(self, thread_id: IdT) -> bool:
        """Lock the thread until the transaction ends; whether it exists."""
        key = {"thread_ids": self._scope.thread_id(thread_id), "owners": self._scope.owner}
        return bool(await self._scope.lock(lock_one(self._scope.models, of_any_user=self._scope.is_any_user), **key))

    def _key(self, thread_id: IdT, message_id: IdT) -> dict[str, Any]:
        scope = self._scope
        return {
            "thread_ids": scope.thread_id(thread_id),
            "owners": scope.owner,
            "message_ids": scope.message_id(message_id),
        }

    async def _page_before(
        self, read: CompiledStatement, values: dict[str, Any], before: str | None, limit: int
    ) -> Page[MessageRecord[IdT]]:
        values["seq"] = _PAST_THE_LAST if before is None else _seq(before, "before")
        rows = await self._scope.fetch(read, **values)
        shown = rows[:limit][::-1]
        items, corrupt = readable_records(shown, message_record)
        older = encode_cursor(_LISTING, shown[0].seq) if len(rows) > limit else None
        # An empty thread has a cursor as well, so that a client can poll for its first message.
        newer = encode_cursor(_LISTING, shown[-1].seq) if shown else before or BEFORE_THE_FIRST
        return Page(items, older, newer, corrupt)

    async def _page_after(
        self, read: CompiledStatement, values: dict[str, Any], after: str, limit: int
    ) -> Page[MessageRecord[IdT]]:
        values["seq"] = _seq(after, "after")
        shown = (await self._scope.fetch(read, **values))[:limit]
        items, corrupt = readable_records(shown, message_record)
        if not shown:
            # The same cursor again: a client that polls keeps its position.
            return Page(items, None, after)
        return Page(items, encode_cursor(_LISTING, shown[0].seq), encode_cursor(_LISTING, shown[-1].seq), corrupt)

    def _changes(self, message: Any, total_tokens: Any, usages: Any, meta: Any, aside: Any) -> dict[str, Any]:
        new: NewMessage[IdT] = NewMessage(
            # A part that was left out is checked as a valid stand-in, which is not stored: so one function checks every
            # part.
            message={"role": "user"} if message is UNSET else message,
            total_tokens=0 if total_tokens is UNSET else total_tokens,
            usages={} if usages is UNSET else usages,
            meta={} if meta is UNSET else meta,
            aside=None if aside is UNSET else aside,
        )
        prepared = prepare(self._scope, new, "message")
        changes: dict[str, Any] = {}
        if message is not UNSET:
            columns = prepared.columns
            changes |= {"role": str(columns.role), "content": columns.content, "tool_call_id": columns.tool_call_id}
            changes |= {"reasoning": columns.reasoning}
            changes |= {name: prepared.encoded[name] for name in ("tool_calls", "extra")}
        if total_tokens is not UNSET:
            changes["total_tokens"] = prepared.total_tokens
        if aside is not UNSET:
            changes["aside"] = prepared.aside
        changes |= {
            name: prepared.encoded[name] for name, given in (("usages", usages), ("meta", meta)) if given is not UNSET
        }
        if not changes:
            raise InvalidInputError("message", "nothing to update was given")
        return changes


def _which(asides: object) -> Literal["none", "named", "all"]:
    if isinstance(asides, str):
        return "named"
    return "all" if asides else "none"


def _seq(cursor: str, field: str) -> int:
    return decode_cursor(cursor, _LISTING, field, _checked_seq)


def _checked_seq(seq: int) -> int:
    if type(seq) is not int or not 0 <= seq < 2**63:
        raise ValueError
    return seq
