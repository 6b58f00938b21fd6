"""Messages as they come back from the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Table

from agent_persistence.chat_format import from_columns
from agent_persistence.errors import CorruptRow
from agent_persistence.ids import IdT
from agent_persistence.records import MessageRecord
from agent_persistence.repositories.message_insert import PreparedMessage
from agent_persistence.repositories.proofs import Trace
from agent_persistence.repositories.rows import check_readable


def message_record(row: Any) -> MessageRecord[Any]:
    """Make a record of a row with ``message_columns``.

    Raises:
        CorruptRow: a part of it cannot be read.
    """
    key = (row.thread_id, row.message_id)
    check_readable("messages", key, row, row.created_at, row.updated_at)
    try:
        message = from_columns(row)
    except (AttributeError, TypeError, ValueError):  # JSON, but no difference between two messages
        raise CorruptRow("messages", key, "extra") from None
    # By place: naming eleven arguments takes twice as long.
    return MessageRecord(
        row.thread_id,
        row.message_id,
        row.seq,
        row.role,
        message,
        row.content,
        row.total_tokens,
        row.usages,
        row.meta,
        row.created_at,
        row.updated_at,
    )


def appended(thread_id: IdT, message: PreparedMessage[IdT], row: Any) -> MessageRecord[IdT]:
    """Make the record of a message that was added, of the row that came back for it."""
    columns = message.columns
    return MessageRecord(
        thread_id,
        row.message_id,
        row.seq,
        columns.role,
        message.message,
        columns.content,
        message.total_tokens,
        message.usages,
        message.meta,
        row.created_at,
        row.updated_at,
    )


def appended_trace(table: Table) -> Callable[[Any], Trace]:
    """What shows that a message was committed."""

    def trace(row: Any) -> Trace:
        return Trace(table, {"thread_id": row.thread_id, "seq": row.seq}, ("created_at", row.created_at))

    return trace


def changed_trace(table: Table) -> Callable[[Any], Trace]:
    """What shows that the change of a message was committed."""
    return lambda row: Trace(table, {"thread_id": row.thread_id, "seq": row.seq}, ("updated_at", row.updated_at))


def deleted_trace(table: Table, thread_id: Any) -> Callable[[Any], Trace]:
    """What shows that the deletion of a message was committed."""
    return lambda row: Trace(table, {"thread_id": thread_id, "seq": row.seq})
