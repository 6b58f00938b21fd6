"""Checks of arguments: texts, names, times, limits and versions.

Nothing is converted. An error names the field and the rule, never the value.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from agent_persistence.errors import InvalidInputError

MAX_NAME_LENGTH: Final = 255
_MAX_VERSION: Final = 2**63 - 1

LEAST_TTL: Final = 0.001
GREATEST_TTL: Final = 100 * 365 * 86_400.0
"""Seconds: a hundred years."""


def text_refusal(text: str) -> str | None:
    """Return why PostgreSQL cannot store a text, or ``None`` if it can."""
    if "\0" in text:
        return "holds a NUL character, which PostgreSQL cannot store; remove it"
    # Python knows it without a scan, and most text is ASCII.
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is half a character; replace it"
    return None


def check_text(value: object, field: str, *, max_length: int | None = None) -> str:
    """Return a text unchanged, with line ends, ANSI escapes and other control characters.

    Raises:
        InvalidInputError: not a string, too long, or not storable (NUL, lone surrogate).
    """
    if not isinstance(value, str):
        raise InvalidInputError(field, f"must be a string, not {type(value).__name__}")
    if max_length is not None and len(value) > max_length:
        raise InvalidInputError(field, f"is longer than {max_length} characters")
    if reason := text_refusal(value):
        raise InvalidInputError(field, reason)
    return value


def check_search(value: object) -> str:
    """Return a text to search for.

    PostgreSQL compares it with each position of a stored text, and cannot be interrupted within one: with 100,000
    characters, one message of 2 MB kept a server process busy for minutes, beyond every time limit.

    Raises:
        InvalidInputError: not a storable text of at most 255 characters.
    """
    return check_text(value, "search", max_length=MAX_NAME_LENGTH)


def check_name(value: object, field: str) -> str | None:
    """Return a name of at most 255 characters, or ``None``.

    Raises:
        InvalidInputError: neither ``None`` nor a storable text of that length.
    """
    return None if value is None else check_text(value, field, max_length=MAX_NAME_LENGTH)


NAMESPACE: Final = re.compile("[A-Za-z0-9_.-]{1,64}")
NAMESPACE_RULE: Final = "must be 1 to 64 letters, digits, '_', '.' and '-'"


def check_namespace(value: object, field: str) -> str:
    """Return a namespace: the first part of keys in a store that several applications share.

    Raises:
        InvalidInputError: not a string of 1 to 64 letters, digits, ``_``, ``.`` and ``-``.
    """
    if not isinstance(value, str) or not NAMESPACE.fullmatch(value):
        raise InvalidInputError(field, NAMESPACE_RULE)
    return value


def check_datetime(value: object, field: str) -> datetime:
    """Return a time with a time zone; the driver would read a naive one in the client's zone.

    Raises:
        InvalidInputError: not a datetime, naive, or before year 1 or after year 9999 in UTC.
    """
    if not isinstance(value, datetime):
        raise InvalidInputError(field, f"must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidInputError(field, "must have a time zone; add one, for example tzinfo=datetime.UTC")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(field, "is outside the years 1 to 9999 in UTC") from None
    return value


def check_age(value: object, field: str) -> datetime | timedelta:
    """Return a time with a time zone, or an age.

    Raises:
        InvalidInputError: neither of both, a time as for ``check_datetime``, or an age outside of 0 to 100 years.
    """
    if not isinstance(value, timedelta):
        return check_datetime(value, field)
    if not timedelta() <= value <= timedelta(seconds=GREATEST_TTL):
        raise InvalidInputError(field, "must be between 0 and 100 years")
    return value


def check_limit(value: object, field: str, maximum: int) -> int:
    """Return a maximum number of rows.

    Raises:
        InvalidInputError: not an int (``True`` is not one), or not between 1 and ``maximum``.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInputError(field, f"must be an int, not {type(value).__name__}")
    if not 1 <= value <= maximum:
        raise InvalidInputError(field, f"must be between 1 and {maximum}")
    return value


def check_offset(value: object, field: str) -> int:
    """Return a number of rows to pass by.

    Raises:
        InvalidInputError: not an int (``True`` is not one), negative, or beyond the range of a bigint.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInputError(field, f"must be an int, not {type(value).__name__}")
    if not 0 <= value <= _MAX_VERSION:
        raise InvalidInputError(field, "must be 0 or more")
    return value


def check_version(value: object, field: str) -> int:
    """Return a version of a state; 0 means that there is none yet.

    Raises:
        InvalidInputError: not an int (``True`` is not one), or outside the range of versions.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInputError(field, f"must be an int, not {type(value).__name__}")
    if not 0 <= value <= _MAX_VERSION:
        raise InvalidInputError(field, "is outside the range of versions")
    return value


def check_ttl(value: object, field: str) -> float:
    """Return a time to live in seconds.

    Raises:
        InvalidInputError: not a number, or not between a millisecond and a hundred years.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(field, f"must be a number of seconds, not {type(value).__name__}")
    if not LEAST_TTL <= value <= GREATEST_TTL:
        raise InvalidInputError(field, "must be between 0.001 seconds and 100 years")
    return float(value)
