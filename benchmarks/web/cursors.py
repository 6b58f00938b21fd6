"""Cursors of the applications that are compared: the sort key of a row, as URL-safe text."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

import orjson


def cursor_of(*position: Any) -> str:
    """Encode a position."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode()


def position_in(cursor: str) -> tuple[datetime, str]:
    """Decode the position of a thread."""
    updated_at, thread_id = _decoded(cursor)
    return datetime.fromisoformat(updated_at), thread_id


def seq_in(cursor: str | None) -> int:
    """Decode the position of a message; without a cursor, one that follows all."""
    if cursor is None:
        return 2**63 - 1
    [seq] = _decoded(cursor)
    return int(seq)


def _decoded(cursor: str) -> list[Any]:
    position: list[Any] = orjson.loads(base64.urlsafe_b64decode(cursor))
    return position
