"""Plain values: texts, bytes, numbers, ``None``, and lists and dicts of them, of exactly these types."""

from __future__ import annotations

from typing import Any, Final

import ormsgpack

_PLAIN_ONLY: Final = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
)


def pack_plain(value: Any) -> bytes | None:
    """Pack a plain value as LangGraph's serialiser does; equal bytes mean equal serialised values.

    Returns:
        ``None`` for values that are not plain, or hold a lone surrogate or an integer of more than 64 bits.
    """
    try:
        return ormsgpack.packb(value, None, _PLAIN_ONLY)
    except ormsgpack.MsgpackEncodeError:
        return None


def unpack_plain(packed: bytes) -> Any:
    """Return a copy of the value that ``pack_plain`` packed."""
    return ormsgpack.unpackb(packed, option=ormsgpack.OPT_NON_STR_KEYS)
