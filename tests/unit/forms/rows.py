"""Rows in memory, as the table would return them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from agent_persistence.encoding.chat_messages import message_of, to_columns
from agent_persistence.encoding.exact_json import decode_json, encode_json
from agent_persistence.records import MessageRecord, NewMessage

_WRITTEN = datetime(2026, 11, 30, tzinfo=UTC)


def stored(rows: Iterable[NewMessage[Any]]) -> list[MessageRecord[Any]]:
    """Return new messages as they are read back."""
    return [_record(place, row) for place, row in enumerate(rows, 1)]


def edited(record: MessageRecord[Any], message: dict[str, Any]) -> MessageRecord[Any]:
    """Return a row whose message was replaced by another program."""
    new: NewMessage[Any] = NewMessage(message=message, meta=record.meta, aside=record.aside)
    return _record(record.seq, new, edited_at=_WRITTEN + timedelta(seconds=1))


def _record(seq: int, new: NewMessage[Any], edited_at: datetime = _WRITTEN) -> MessageRecord[Any]:
    message: dict[str, Any] = decode_json(encode_json(dict(new.message), "message"))
    meta = decode_json(encode_json(dict(new.meta), "meta"))
    columns = to_columns(message)
    assert orjson.dumps([columns.content, columns.reasoning])  # the text columns hold no lone surrogate
    parts = (columns.content, columns.tool_calls, columns.tool_call_id, columns.reasoning, columns.extra)
    assert message_of(columns.role, *parts) == message
    return MessageRecord(
        "t", f"m{seq}", seq, columns.role, message, columns.content, 0, {}, meta, _WRITTEN, edited_at, new.aside
    )
