"""Escapes JSON values that JSONB cannot hold, so that they are read back unchanged.

JSONB has no NUL character, no lone surrogate and no NaN or infinity, and its readers may lose integers of more than 64
bits. If a value contains one of these, all of it is stored with escapes under the key ``__escaped__``. Other values,
nearly all, are stored as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, Final

_ESCAPED: Final = "__escaped__"
_ESCAPE: Final = "\ue000"  # from the private use area; escaped itself if a text contains it
_IN_TEXT: Final = re.compile(f"[\x00\ud800-\udfff{_ESCAPE}]")
_CODE: Final = re.compile(f"{_ESCAPE}([0-9a-f]{{4}})")
# Unambiguous: the codes of the characters in _IN_TEXT begin with 0, d or e.
_FLOAT: Final = f"{_ESCAPE}f"
_INT: Final = f"{_ESCAPE}i"
_INT_LIMIT: Final = 1 << 63


def to_storable(value: Any) -> Any:
    """Return a form of a JSON value that JSONB can hold: the same object if nothing in it needs an escape."""
    looks_escaped = type(value) is dict and _ESCAPED in value
    return {_ESCAPED: _mapped(value, _escape)} if looks_escaped or _any_needs_escapes([value]) else value


def from_storable(stored: Any) -> Any:
    """Return the value that was given to ``to_storable``."""
    is_escaped = type(stored) is dict and stored.keys() == {_ESCAPED}
    return _mapped(stored[_ESCAPED], _unescape) if is_escaped else stored


def _any_needs_escapes(values: Iterable[Any]) -> bool:
    for value in values:
        kind = type(value)
        if kind is str:
            # CPython knows whether a string is ASCII without reading it, so most are not searched by the pattern.
            if not (value.isascii() and "\0" not in value) and _IN_TEXT.search(value) is not None:
                return True
        elif kind is dict:
            if _any_needs_escapes(value) or _any_needs_escapes(value.values()):
                return True
        elif kind is list:
            if _any_needs_escapes(value):
                return True
        elif kind is float:
            if not isfinite(value):
                return True
        elif kind is int and not -_INT_LIMIT < value < _INT_LIMIT:
            return True
    return False


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
