"""JSON values that PostgreSQL has no form for, in a form that it has, and read back as they were.

JSONB knows no NUL character, no half of a character (a lone surrogate), no NaN, and no exact integer of more than 64
bits once it is read by others. Where a value holds one of these, all of it is written with escapes, below a key that
says so; most values hold none and are stored as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

_ESCAPED: Final = "__escaped__"
_ESCAPE: Final = "\ue000"  # of the private use area; where a text holds it, it is escaped as well
_IN_TEXT: Final = re.compile(f"[\x00\ud800-\udfff{_ESCAPE}]")
_CODE: Final = re.compile(f"{_ESCAPE}([0-9a-f]{{4}})")
# No code of a character begins with these letters.
_FLOAT: Final = f"{_ESCAPE}f"
_INT: Final = f"{_ESCAPE}i"
_INT_LIMIT: Final = 1 << 63


def to_storable(value: Any) -> Any:
    """Return a form that can be stored: the value itself, if it has nothing to escape."""
    looks_escaped = type(value) is dict and _ESCAPED in value
    return {_ESCAPED: _mapped(value, _escape)} if looks_escaped or _needs_escapes(value) else value


def from_storable(stored: Any) -> Any:
    """Return the value that `to_storable` was given."""
    is_escaped = type(stored) is dict and stored.keys() == {_ESCAPED}
    return _mapped(stored[_ESCAPED], _unescape) if is_escaped else stored


def _needs_escapes(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return not (value.isascii() and "\0" not in value) and _IN_TEXT.search(value) is not None
    if kind is dict:
        return any(_needs_escapes(key) or _needs_escapes(item) for key, item in value.items())
    if kind is list:
        return any(map(_needs_escapes, value))
    if kind is float:
        return not isfinite(value)
    return kind is int and not -_INT_LIMIT < value < _INT_LIMIT


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if type(value) is dict:
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if type(value) is list:
        return [_mapped(item, change) for item in value]
    return change(value)


def _escape(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _IN_TEXT.sub(lambda found: f"{_ESCAPE}{ord(found[0]):04x}", value)
    if kind is float and not isfinite(value):
        return f"{_FLOAT}{value!r}"
    if kind is int and not -_INT_LIMIT < value < _INT_LIMIT:
        return f"{_INT}{value}"
    return value


def _unescape(value: Any) -> Any:
    if type(value) is not str or _ESCAPE not in value:
        return value
    if value.startswith(_FLOAT):
        return float(value.removeprefix(_FLOAT))
    if value.startswith(_INT):
        return int(value.removeprefix(_INT))
    return _CODE.sub(lambda found: chr(int(found[1], 16)), value)
