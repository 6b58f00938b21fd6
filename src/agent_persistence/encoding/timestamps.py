"""Times as whole microseconds since 1970, which are exact and comparable everywhere, and as ``datetime``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

MICROSECONDS: Final = 1_000_000
"""Microseconds in a second."""


def moment(microseconds: int) -> datetime:
    """Return the time so many microseconds after 1970-01-01 UTC."""
    # In ints: fromtimestamp takes a float, which rounds the microseconds of distant years.
    return _EPOCH + microseconds * _MICROSECOND


def microseconds(time: datetime) -> int:
    """Return how many microseconds after 1970-01-01 UTC a time is."""
    return (time - _EPOCH) // _MICROSECOND


def moment_or_none(microseconds: int | None) -> datetime | None:
    """Return the time, or ``None`` for ``None``."""
    return None if microseconds is None else moment(microseconds)
