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
    updated_at, thread_id = orjson.loads(base64.urlsafe_b64decode(cursor))
    return datetime.fromisoformat(updated_at), thread_id
