"""Rows read as records; an unreadable row does not hide the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Column, ColumnElement, case, literal_column

from agent_persistence.encoding.exact_json import UNDECODABLE
from agent_persistence.errors import CorruptRowError, InvalidInputError

RecordT = TypeVar("RecordT")

# One microsecond short of Python's calendar at both ends, which the driver uses for infinity.
_FIRST: Final[ColumnElement[datetime]] = literal_column("timestamptz '0001-01-01 00:00:00.000001Z'")
_LAST: Final[ColumnElement[datetime]] = literal_column("timestamptz '9999-12-31 23:59:59.999998Z'")
_UNREADABLE: Final[ColumnElement[datetime]] = literal_column("timestamptz '-infinity'")


def readable(column: Column[datetime]) -> ColumnElement[datetime]:
    """Select a time so that one outside Python's calendar does not fail the whole result in the driver.

    It arrives as '-infinity', the only time that is naive in Python. Costs some 20 ns a value on PostgreSQL 18.
    """
    # asyncpg raises for such a time while it decodes, and the whole page would be lost with that one row.
    within = case((~column.between(_FIRST, _LAST), _UNREADABLE), else_=column)
    return within.label(column.name)


def check_readable(table: str, key: object, row: Any, *times: datetime | None) -> None:
    """Refuse a row with a value that could not be decoded.

    Args:
        table: names the table in the error.
        key: the row's primary key.
        row: the row.
        times: the row's times.

    Raises:
        CorruptRowError: a JSON value cannot be decoded, or a time is outside Python's calendar (see ``readable``).
    """
    for time in times:
        if time is not None and time.tzinfo is None:
            raise CorruptRowError(table, key, row._fields[row.index(time)])
    if UNDECODABLE in row:
        raise CorruptRowError(table, key, row._fields[row.index(UNDECODABLE)])


def readable_records(
    rows: Sequence[Any], read: Callable[[Any], RecordT]
) -> tuple[tuple[RecordT, ...], tuple[CorruptRowError, ...]]:
    """Return records of the readable rows, and an error for each of the others."""
    records: list[RecordT] = []
    corrupt: list[CorruptRowError] = []
    for row in rows:
        try:
            records.append(read(row))
        except CorruptRowError as error:
            corrupt.append(error)
    return tuple(records), tuple(corrupt)


def json_object(value: object, field: str) -> dict[str, Any]:
    """Return a mapping as a dict, and ``None`` as an empty one.

    Raises:
        InvalidInputError: the value of this field is no mapping.
    """
    if value is None:
        return {}
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidInputError(field, f"must be a mapping, not {type(value).__name__}")
    return dict(value)
