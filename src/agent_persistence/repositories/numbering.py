"""Numbers that a sequence gives to the rows of a thread: the greatest one is the latest row."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, Label, Table, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import dialect

_quote: Final = dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
_ZERO: Final = literal_column("0", Integer)
_ONE: Final = literal_column("1", Integer)


def is_latest(table: Table, number: str, *within: str) -> Label[int]:
    """Return a column for RETURNING: 1 for a row that became the latest of its thread; otherwise the statement fails.

    A sequence can be behind the rows: logical replication and data-only restores leave it where it was. The server
    compares, because a statement in autocommit is committed before a client could. Costs one probe of an index.

    Args:
        table: where the rows are inserted.
        number: the column that the sequence fills.
        within: columns that a thread's rows are numbered within.

    Raises:
        SequenceBehindError: (the statement) a row of the thread has a greater number.
    """
    # The subquery does not see the rows of this statement itself, so it can add several of a thread.
    earlier = table.alias("earlier")
    same = [earlier.c[name] == _new(table, name) for name in ("thread_id", *within)]
    latest = select(func.max(earlier.c[number])).where(*same).scalar_subquery()
    is_after = (_new(table, number) > latest).is_not(literal_column("false"))  # NULL: the first row of its thread
    # For no buckets the server raises 2201G, which nothing else does: ``driver_errors`` knows it.
    return func.width_bucket(_ZERO, _ZERO, _ONE, cast(is_after, Integer), type_=Integer).label("is_latest")


def _new(table: Table, name: str) -> ColumnElement[Any]:
    # As text: SQLAlchemy does not correlate a subquery of RETURNING with the table of the INSERT.
    return literal_column(f"{_quote(table.name)}.{_quote(name)}", table.c[name].type)
