"""Rows of messages as records."""

from __future__ import annotations

from typing import Any

from agent_persistence.encoding.chat_messages import message_of
from agent_persistence.encoding.exact_json import UNDECODABLE
from agent_persistence.errors import CorruptRowError
from agent_persistence.ids import IdT
from agent_persistence.records import MessageRecord
from agent_persistence.repositories.messages.prepared import PreparedMessage
from agent_persistence.repositories.rows import check_readable


def message_record(row: Any) -> MessageRecord[Any]:
    """Return the record of a row with ``message_columns``.

    Raises:
        CorruptRowError: a column cannot be decoded.
    """
    # Unpacked by position, in the order of message_columns: access by name takes twice as long, and a starred
    # rest, which is a list, a third more. A write returns more columns after these.
    thread_id, message_id, seq, role, text, calls, call_id, reason, extra, tokens, usages, meta, made, edited = row[:14]
    # Looked for in the JSON columns only: in the whole row it would be compared with every text.
    if UNDECODABLE in (calls, extra, usages, meta) or made.tzinfo is None or edited.tzinfo is None:
        check_readable("messages", (thread_id, message_id), row, made, edited)
    try:
        message = message_of(role, text, calls, call_id, reason, extra)
    except (AttributeError, TypeError, ValueError):  # valid JSON that encodes no message
        raise CorruptRowError("messages", (thread_id, message_id), "extra") from None
    return MessageRecord(thread_id, message_id, seq, role, message, text, tokens, usages, meta, made, edited)


def appended(thread_id: IdT, message: PreparedMessage[IdT], row: Any) -> MessageRecord[IdT]:
    """Return the record of a message that was added, given the row that the INSERT returned."""
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
