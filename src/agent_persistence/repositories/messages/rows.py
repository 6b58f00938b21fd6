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
    thread_id, message_id, seq, role, text, calls, call_id = row[:7]
    reason, extra, tokens, usages, meta, made, edited, aside = row[7:15]
    # Looked for in the JSON columns only: in the whole row it would be compared with every text.
    if UNDECODABLE in (calls, extra, usages, meta) or made.tzinfo is None or edited.tzinfo is None:
        check_readable("messages", (thread_id, message_id), row, made, edited)
    try:
        message = message_of(role, text, calls, call_id, reason, extra)
    except (AttributeError, TypeError, ValueError):  # valid JSON that encodes no message
        raise CorruptRowError("messages", (thread_id, message_id), "extra") from None
    return MessageRecord(thread_id, message_id, seq, role, message, text, tokens, usages, meta, made, edited, aside)


def appended(new: PreparedMessage[IdT], *made: Any) -> MessageRecord[IdT]:
    """Return the record of a message that was added.

    Args:
        new: the message.
        made: the first five columns of the row that ``append_messages`` returned, by position as in ``message_record``.
    """
    thread_id, message_id, seq, created_at, updated_at = made
    columns = new.columns
    return MessageRecord(
        thread_id,
        message_id,
        seq,
        columns.role,
        new.message,
        columns.content,
        new.total_tokens,
        new.usages,
        new.meta,
        created_at,
        updated_at,
        new.aside,
    )
