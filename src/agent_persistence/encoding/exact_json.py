"""Exact JSON: values that a JSONB column returns equal and of the same types; others are refused before any SQL.

JSONB keeps numbers as ``numeric``: exact, with the digits after the point as written, but with no exponents and no
negative zero. So two kinds of float are written differently: ``1e23``, which would be read as an int, is written as
``100000000000000000000000.0``, and ``-0.0`` as a zero with twenty digits after the point, which the decoder recognises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from math import copysign, isfinite
from typing import Any, Final

import orjson
from pydantic_core import from_json

from agent_persistence.errors import InvalidInputError
from agent_persistence.validation import text_refusal

MAX_JSON_BYTES: Final = 16 * 1024 * 1024
MAX_JSON_DEPTH: Final = 200  # the deepest that from_json reads

# A regular expression is four times as fast as searching the bytes with ``in``.
_FIND_NUL: Final = re.compile(rb"\\u0000").search
_INT_LIMIT: Final = 1 << 63
# From here on repr and orjson write a float with an exponent (1e+16). JSONB prints that number as an int.
_FIRST_WITH_EXPONENT: Final = 1e16
# Negative zero. SQL reads it as 0, numeric keeps its scale, and no encoder writes a zero like this. It is as long as
# the ints that orjson rounds, so that one search shows that a text has neither of them.
_NEGATIVE_ZERO: Final = "0." + 20 * "0"


@dataclass(slots=True, repr=False)  # a repr would show a user's state
class EncodedJSON:
    """The result of `encode_json`, bound to a JSON column unchanged."""

    utf8: bytes


class Undecodable(Enum):
    """The type of `UNDECODABLE`; an enum member stays the same object when it is copied."""

    UNDECODABLE = "undecodable"


UNDECODABLE: Final = Undecodable.UNDECODABLE
"""The value of a JSON column that `decode_json` cannot read."""


def encode_json(value: object, field: str, *, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Encode a value as JSON that JSONB returns equal and of the same types; the order of keys may change.

    Only ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` and ``None`` are accepted: a tuple, an enum or a
    subclass would be read as another type.

    Args:
        value: the value.
        field: names the value in errors.
        max_bytes: the largest accepted size, in bytes.

    Raises:
        InvalidInputError: a part would not be read back equal; ``field`` is its path (``state.messages[3].score``).
    """
    encoded = _encode_usual(value)
    if encoded is None:
        spell_out = _check({field: value}, [])
        encoded = orjson.dumps(_spelled_out(value) if spell_out else value)
    if len(encoded) > max_bytes:
        raise InvalidInputError(field, f"takes {len(encoded)} bytes as JSON, the limit is {max_bytes}")
    return encoded


def _encode_usual(value: object) -> bytes | None:
    """Encode a value that needs no special care; return ``None`` for any other, which is checked item by item.

    Texts are checked after the encoding, all at once: that is three times as fast.
    """
    # The walk in Python is most of the cost: a state of 64 KB takes 173 us, orjson alone 39. Comparing the value with
    # what orjson reads back lost, at 372 us.
    if not _is_usual([value], 0):
        return None
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError:  # a lone surrogate, or a key that is not exactly a str
        return None
    return None if b"\\" in encoded and _FIND_NUL(encoded) else encoded


def _is_usual(container: Any, depth: int) -> bool:
    """Whether ``_check`` would accept the value unchanged, texts and keys aside."""
    if depth > MAX_JSON_DEPTH:
        return False
    for value in container.values() if type(container) is dict else container:
        # The exact type: orjson writes a StrEnum as its text and a tuple as a list, which would be read as other types.
        kind = type(value)
        if kind is str or kind is bool or value is None:
            continue
        if kind is dict or kind is list:
            if not _is_usual(value, depth + 1):
                return False
        elif kind is int:
            if not -_INT_LIMIT < value < _INT_LIMIT:
                return False
        elif kind is not float or not -_FIRST_WITH_EXPONENT < value < _FIRST_WITH_EXPONENT or _is_negative_zero(value):
            return False
    return True


def _is_negative_zero(value: float) -> bool:
    return not value and copysign(1, value) < 0


def _check(container: Any, path: list[str | int]) -> bool:
    """Refuse values that would not be read back equal; return whether a float must be written differently."""
    if len(path) > MAX_JSON_DEPTH:
        raise InvalidInputError(str(path[0]), f"is nested deeper than {MAX_JSON_DEPTH} levels")
    spell_out = False
    for key, value in _items(container, path):
        kind = type(value)
        if kind is dict or kind is list:
            # One list for the whole walk: only a refusal needs the path, so none is built for each value.
            path.append(key)
            spell_out = _check(value, path) or spell_out
            path.pop()
        elif reason := _refusal(kind, value):
            raise InvalidInputError(_name([*path, key]), reason)
        elif kind is float:
            spell_out = spell_out or _needs_spelling_out(value)
    return spell_out


def _items(container: Any, path: list[str | int]) -> Iterable[tuple[Any, Any]]:
    if type(container) is list:
        return enumerate(container)
    for key in container:
        if type(key) is not str:
            raise InvalidInputError(_name(path), f"has a key of type {type(key).__name__}; JSON keys are plain str")
        if reason := text_refusal(key):
            raise InvalidInputError(_name(path), f"has a key that {reason}")
    items: Iterable[tuple[Any, Any]] = container.items()
    return items


def _refusal(kind: type, value: Any) -> str | None:
    if kind is str:
        return text_refusal(value)
    if kind is bool or value is None:
        return None
    if kind is int:
        return None if abs(value) < _INT_LIMIT else "is an int of more than 64 bits; write it as a string"
    if kind is float:
        return None if isfinite(value) else "is NaN or infinite, for which JSON has no word; use None"
    return f"is of type {kind.__name__}; JSON gives back only plain dict, list, str, int, float, bool and None"


def _needs_spelling_out(value: float) -> bool:
    return abs(value) >= _FIRST_WITH_EXPONENT or _is_negative_zero(value)


_PLAIN_KEY = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,39}")


def _name(path: list[str | int]) -> str:
    """Write a path as in Python, without keys that may be a user's text."""
    steps = (f"[{step}]" if type(step) is int else f".{_key_name(str(step))}" for step in path[1:])
    return f"{path[0]}{''.join(steps)}"


def _key_name(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else "<key>"


def _spelled_out(value: Any) -> Any:
    """Copy a value, with floats that JSONB would change replaced by their digits."""
    if type(value) is dict:
        return {key: _spelled_out(item) for key, item in value.items()}
    if type(value) is list:
        return [_spelled_out(item) for item in value]
    if type(value) is float and _needs_spelling_out(value):
        # By way of the shortest text: Decimal(1e23) itself has the digits 99999999999999991611392.
        return orjson.Fragment(format(Decimal(str(value)), "f") + ".0" if value else _NEGATIVE_ZERO)
    return value


def decode_json(text: str | bytes) -> Any:
    """Decode JSON as a JSONB column prints it, or as `encode_json` wrote it.

    Ints of any size are exact, also beyond the 64 bits that `encode_json` accepts. A fraction that no float can hold,
    which only another program can have written, is rounded as by ``float()``, if need be to infinity.

    Raises:
        ValueError: the text cannot be decoded, for example a number of more than 4,300 digits (``1e5000`` in JSONB).
    """
    utf8 = text.encode() if isinstance(text, str) else text
    if is_plain_json(utf8):
        return orjson.loads(utf8)
    if _NEGATIVE_ZERO.encode() in utf8:
        utf8 = _STRING_OR_NEGATIVE_ZERO.sub(_restore_negative_zero, utf8)
    # orjson rounds ints beyond 64 bits to floats. pydantic's JSON parser does not, and is slower.
    return from_json(utf8, allow_inf_nan=False)


def is_plain_json(utf8: bytes) -> bool:
    """Whether every JSON parser decodes a text exactly: no number in it has twenty digits."""
    # Every fifth character of 20 digits in a row makes four: a cheaper test, and mostly sufficient.
    return b"0000" not in utf8[::5].translate(_NUMERALS) or _LONG_NUMBER not in utf8.translate(_NUMERALS)


_NUMERALS: Final = bytes(ord("0" if byte in b"-0123456789" else " ") for byte in range(256))
# The shortest int that needs more than 64 bits has so many characters.
_LONG_NUMBER: Final = b"0" * 20
# It matches strings, too, so that digits inside one are passed over; possessive, so that no text makes it backtrack.
_STRING_OR_NEGATIVE_ZERO = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(?<![^\[:, ])0\.0{20}(?![^,\]}])')


def _restore_negative_zero(match: re.Match[bytes]) -> bytes:
    return match[0] if match[0].startswith(b'"') else b"-0.0"


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def sanitize(value: object, field: str = "value") -> Any:
    """Copy a JSON value or a text, and replace what PostgreSQL cannot store.

    NUL characters and lone surrogates become U+FFFD, NaN and infinities ``None``. Keys that become equal are merged.
    Other values that `encode_json` refuses are left to it.

    Raises:
        InvalidInputError: the value is nested deeper than `encode_json` accepts.
    """
    try:
        return _sanitized(value)
    # A value that holds itself ends here, too: encode_json, which counts the levels, comes later.
    except RecursionError:
        raise InvalidInputError(field, f"is nested deeper than {MAX_JSON_DEPTH} levels") from None


def _sanitized(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _UNSTORABLE.sub("\ufffd", value)
    if kind is float:
        return value if isfinite(value) else None
    if kind is list:
        return [_sanitized(item) for item in value]
    if kind is dict:
        return {_sanitized(key): _sanitized(item) for key, item in value.items()}
    return value
