"""Messages as they come back from the table."""

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
    """Make a record of a row with ``message_columns``.

    Raises:
        CorruptRowError: a part of it cannot be read.
    """
    # By place, as message_columns has them: by name it takes twice as long.
    thread_id, message_id, seq, role, content, calls, call_id, reasoning, extra, *rest = row
    tokens, usages, meta, created, updated = rest[:5]
    # Not in the whole row, which would compare it with every text.
    if UNDECODABLE in (calls, extra, usages, meta) or created.tzinfo is None or updated.tzinfo is None:
        check_readable("messages", (thread_id, message_id), row, created, updated)
    try:
        message = message_of(role, content, calls, call_id, reasoning, extra)
    except (AttributeError, TypeError, ValueError):  # JSON, but no difference between two messages
        raise CorruptRowError("messages", (thread_id, message_id), "extra") from None
    return MessageRecord(thread_id, message_id, seq, role, message, content, tokens, usages, meta, created, updated)


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
