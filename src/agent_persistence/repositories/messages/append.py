"""Appends of messages to a thread, also where the thread has some of them already."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final, Generic

from sqlalchemy import Row, delete

from agent_persistence.errors import CorruptRowError, IdempotencyConflictError, SequenceBehindError, ThreadNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import ANY_USER, MessageRecord
from agent_persistence.repositories.locks import lock_and_touch, lock_thread
from agent_persistence.repositories.messages.copy import copy_messages, last_messages
from agent_persistence.repositories.messages.prepared import PreparedAppend, PreparedMessage
from agent_persistence.repositories.messages.rows import appended, message_record
from agent_persistence.repositories.messages.statements import append_messages, chosen_messages, columns_of_messages
from agent_persistence.sessions.commit_evidence import row_evidence
from agent_persistence.sessions.scope import DRAWS, Scope

COPIED_FROM: Final = 200
"""From this number on, messages are added by COPY, if no message of the thread can have their ids."""


class MessageAppender(Generic[IdT, UserIdT]):
    """Appends messages within one unit of work."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._message = scope.messages
        self._added = row_evidence(self._message, "thread_id", "seq", time="created_at")

    async def append(self, new: PreparedAppend[IdT]) -> list[MessageRecord[IdT]]:
        """Append messages in this order; all of them or none.

        Raises:
            ThreadNotFoundError: the thread does not exist.
            IdempotencyConflictError: one has the id of a message in the thread with different content.
        """
        thread_id = new.thread_id
        # COPY has no ON CONFLICT, so it is only for ids that were drawn here, which no message of the thread can have.
        if is_copied(new) and self._scope.can_copy:
            return await self._append_by_copy(new)
        records: list[MessageRecord[IdT]] = []
        inserted: list[int] = []
        try:
            # One INSERT either gives the ids or lets the database make them, so each run of either kind is a statement.
            for _, group in groupby(new.messages, key=lambda message: message.message_id is None):
                records += await self._append_alike(thread_id, list(group), inserted)
        except (IdempotencyConflictError, CorruptRowError):
            # All or none: a caller that catches the error and commits must not keep some of them.
            await self._take_back(thread_id, inserted)
            raise
        return records

    async def _append_by_copy(self, new: PreparedAppend[IdT]) -> list[MessageRecord[IdT]]:
        scope, thread_id, messages = self._scope, new.thread_id, new.messages
        lock = lock_and_touch(
            scope.models, touch_seconds=scope.options.touch_interval, of_any_user=scope.owner is ANY_USER
        )
        # A statement before, because COPY takes no CTE: positions must be drawn below the lock, or they would not
        # follow the order of commits.
        if not await scope.fetch(lock, thread_ids=thread_id, owners=new.owner):
            raise ThreadNotFoundError(thread_id)
        await copy_messages(scope, [(thread_id, scope.owner, message) for message in messages])
        # COPY returns nothing. The lock is held, so the thread's last rows are the copied ones.
        made = last_messages(scope.models)
        [row] = await scope.write(made, self._added, thread_id=thread_id, wanted=len(messages))
        # Unless the sequence is behind the thread's messages: then others are among the last, and the first copied one
        # is before them.
        if row.first_id != messages[0].message_id:
            raise SequenceBehindError
        return [
            appended(message, thread_id, message.message_id, seq, row.created_at, row.updated_at)
            for message, seq in zip(messages, row.positions, strict=True)
        ]

    async def _append_alike(
        self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]], inserted: list[int]
    ) -> list[MessageRecord[IdT]]:
        rows = await self._insert(thread_id, messages)
        if len(rows) < len(messages) and messages[0].message_id is None:
            # The database makes these ids, so a missing row means that its sequence met an id that a caller gave.
            rows = await self._insert_renumbered(thread_id, messages, rows)
        inserted += [row.seq for row in rows]
        if len(rows) < len(messages):
            return await self._repeated(thread_id, messages)
        return [appended(message, *row[:5]) for message, row in zip(messages, rows, strict=True)]

    async def _insert(self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]]) -> list[Row[Any]]:
        scope, with_ids, one = self._scope, messages[0].message_id is not None, len(messages) == 1
        statement = append_messages(
            scope.models,
            with_ids=with_ids,
            touch_seconds=scope.options.touch_interval,
            of_any_user=scope.owner is ANY_USER,
            one=one,
        )
        new = [(thread_id, scope.owner, message) for message in messages]
        values = columns_of_messages(new, with_ids=with_ids, one=one)
        rows = await scope.write(statement, self._added, **values)
        # RETURNING promises no order. Positions are drawn in the order of the messages, so they restore it.
        return sorted(rows, key=lambda row: int(row.seq))

    async def _insert_renumbered(
        self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]], rows: list[Row[Any]]
    ) -> list[Row[Any]]:
        """Insert again after the sequence collided with explicitly given ids, if the thread exists."""
        for _ in range(DRAWS):
            await lock_thread(self._scope, thread_id)
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
        await self._scope.write(
            mine.returning(message.c.thread_id, message.c.seq), row_evidence(message, "thread_id", "seq")
        )

    async def _repeated(self, thread_id: IdT, messages: Sequence[PreparedMessage[IdT]]) -> list[MessageRecord[IdT]]:
        """Return the stored messages where some were not inserted: the thread has them, or does not exist."""
        scope = self._scope
        # A second statement with a newer snapshot: the INSERT may have waited for the writer whose message it met, and
        # its own snapshot is older than that row.
        rows = await scope.fetch(
            chosen_messages(scope.models, of_any_user=scope.is_any_user),
            thread_id=thread_id,
            message_ids=[message.message_id for message in messages],
            owner=scope.owner,
        )
        stored = {row.message_id: message_record(row) for row in rows}
        if not stored:
            raise ThreadNotFoundError(thread_id)
        for message in messages:
            found = stored.get(message.message_id)
            if found is None or found.message != message.message:
                raise IdempotencyConflictError(thread_id, message.message_id)
        return [stored[message.message_id] for message in messages]


def is_copied(new: PreparedAppend[Any]) -> bool:
    """Whether the messages are added by COPY, where the scope can."""
    return new.has_new_ids and len(new.messages) >= COPIED_FROM
