"""Times as whole microseconds since 1970, exact and comparable everywhere, and as what people read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

MICROSECONDS: Final = 1_000_000
"""In a second."""


def moment(microseconds: int) -> datetime:
    """Return the time that lies so many microseconds after the beginning of 1970."""
    return _EPOCH + microseconds * _MICROSECOND


def moment_or_none(microseconds: int | None) -> datetime | None:
    """Return the time, if there is one."""
    return None if microseconds is None else moment(microseconds)
