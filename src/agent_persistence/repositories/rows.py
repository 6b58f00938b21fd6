"""Rows as records, one bad row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Column, ColumnElement, case, literal_column

from agent_persistence.encoding.exact_json import UNDECODABLE
from agent_persistence.errors import CorruptRowError, InvalidInputError

RecordT = TypeVar("RecordT")

# One microsecond short of Python's calendar at both ends: there the driver has its infinities.
_FIRST: Final[ColumnElement[datetime]] = literal_column("timestamptz '0001-01-01 00:00:00.000001Z'")
_LAST: Final[ColumnElement[datetime]] = literal_column("timestamptz '9999-12-31 23:59:59.999998Z'")
_UNREADABLE: Final[ColumnElement[datetime]] = literal_column("timestamptz '-infinity'")


def readable(column: Column[datetime]) -> ColumnElement[datetime]:
    """Select a time so that one outside Python's calendar does not make the driver fail the whole result.

    It arrives as '-infinity', which is naive in Python and no other time is. It costs some 20 ns a value, measured on
    PostgreSQL 18.
    """
    within = case((~column.between(_FIRST, _LAST), _UNREADABLE), else_=column)
    return within.label(column.name)


def check_readable(table: str, key: object, row: Any, *times: datetime | None) -> None:
    """Refuse a row of which the driver could read a part only.

    Args:
        times: the row's times.

    Raises:
        CorruptRowError: a JSON value that Python cannot read, or a time outside its calendar (see ``readable``).
    """
    for time in times:
        if time is not None and time.tzinfo is None:
            raise CorruptRowError(table, key, row._fields[row.index(time)])
    if UNDECODABLE in row:
        raise CorruptRowError(table, key, row._fields[row.index(UNDECODABLE)])


def readable_records(
    rows: Sequence[Any], read: Callable[[Any], RecordT]
) -> tuple[tuple[RecordT, ...], tuple[CorruptRowError, ...]]:
    """Read every row that can be read, and name those that cannot."""
    records: list[RecordT] = []
    corrupt: list[CorruptRowError] = []
    for row in rows:
        try:
            records.append(read(row))
        except CorruptRowError as error:
            corrupt.append(error)
    return tuple(records), tuple(corrupt)


def json_object(value: object, field: str) -> dict[str, Any]:
    """Return a mapping as a dict, nothing as an empty one, and refuse the rest."""
    if value is None:
        return {}
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidInputError(field, f"must be a mapping, not {type(value).__name__}")
    return dict(value)
