"""Page cursors: positions in lists, opaque to callers. They grant no access: every statement names the owner."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import TypeVar

import orjson

from agent_persistence.errors import InvalidInputError

T = TypeVar("T")


def encode_cursor(listing: str, *position: str | int | None) -> str:
    """Encode a position in a kind of list."""
    return base64.urlsafe_b64encode(orjson.dumps([listing, *position])).decode().rstrip("=")


def decode_cursor(cursor: str, listing: str, field: str, read: Callable[..., T]) -> T:
    """Decode a position, and return the result of ``read`` for its parts.

    Raises:
        InvalidInputError: ``field`` is not a cursor of this kind of list.
    """
    try:
        # The decoder ignores surplus padding, so the length of the cursor does not matter.
        found, *position = orjson.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=="))
        # The position in another list can have the same types, and would silently start the page at the wrong row.
        if found != listing:
            raise ValueError
        return read(*position)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        raise InvalidInputError(
            field, "is not a cursor of this list; pass page.before or page.after unchanged"
        ) from None
