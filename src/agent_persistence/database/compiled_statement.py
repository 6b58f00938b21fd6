"""Statements compiled once: SQL text and a tuple of arguments are all that reaches the driver."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final

from sqlalchemy import ARRAY, ClauseElement, Delete, Insert, Table, Update
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import TypeEngine

MODELS_AT_ONCE: Final = 64
"""How many sets of models keep their compiled statements (the size of each builder's ``lru_cache``)."""

_DIALECT: Final = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its constructor untyped


class CompiledStatement:
    """A statement compiled for asyncpg.

    Building and compiling a statement costs a millisecond of CPU, finding it in SQLAlchemy's cache a tenth of that;
    this costs a microsecond a value.

    Args:
        statement: has a named ``bindparam`` for each value that differs from call to call.

    Attributes:
        statement: the statement that was compiled.
        text: the SQL, with ``$1`` for the first argument.
    """

    def __init__(self, statement: Any) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self.statement = statement
        self.text = str(compiled)
        self._translated: dict[frozenset[tuple[str | None, str]], str] = {}
        binds = [compiled.binds[name] for name in compiled.positiontup]
        writers = {bind.key: _bind_processor(bind.type) for bind in binds}
        writers |= {name: _made(value, writers[name]) for name, value in _made_by_host(statement) if name in writers}
        self._parameters = [(bind.key, bind.value, writers[bind.key]) for bind in binds]
        columns = list(statement.exported_columns)
        # Past the class's own constructor, which takes a row apart into arguments and takes twice as long.
        self._make_row = partial(tuple.__new__, _row_class([str(column.name) for column in columns]))
        readers = [_dialect_type(column.type).result_processor(_DIALECT, None) for column in columns]
        self._readers = [(index, read) for index, read in enumerate(readers) if read is not None]

    @cached_property
    def summary(self) -> tuple[str, str]:
        """The SQL command and its table, as metrics name it."""
        return summary_of(self.statement)

    def translated(self, schemas: Mapping[str | None, str]) -> str:
        """Return the SQL for other schemas, given as in SQLAlchemy's ``schema_translate_map``."""
        key = frozenset(schemas.items())
        if key not in self._translated:
            options: dict[str, Any] = {"schema_translate_map": schemas, "render_schema_translate": True}
            self._translated[key] = str(self.statement.compile(dialect=_DIALECT, **options))
        return self._translated[key]

    def arguments(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the driver's arguments: the values by parameter name, or the parameters' defaults."""
        return tuple(
            [
                # A list first: tuple() of a generator takes half as long again.
                values.get(name, default) if write is None else write(values.get(name, default))
                for name, default, write in self._parameters
            ]
        )

    def rows(self, raw: Sequence[Iterable[Any]]) -> list[Any]:
        """Convert the driver's rows by the types of their columns, to named tuples."""
        # By columns, which takes half the time of going by rows: most columns need no conversion at all.
        columns: list[Iterable[Any]] = list(zip(*raw, strict=True))
        if not columns:
            return []
        for index, read in self._readers:
            columns[index] = [None if value is None else read(value) for value in columns[index]]
        return list(map(self._make_row, zip(*columns, strict=True)))


def summary_of(statement: Any) -> tuple[str, str]:
    """Return the SQL command and the table that a statement is about; the table is empty if there is none.

    A statement may have several parts: an INSERT counts more than the lock, the touch and the query around it.
    """
    parts = list(iterate(statement))
    for kind, command in ((Insert, "INSERT"), (Delete, "DELETE"), (Update, "UPDATE")):
        for part in parts:
            if isinstance(part, kind):
                return command, getattr(part.table, "name", "")
    return "SELECT", next((part.name for part in parts if isinstance(part, Table)), "")


def _bind_processor(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """Return what converts a value for the driver. SQLAlchemy's own for arrays looks for arrays in each item."""
    if not isinstance(kind, ARRAY):
        return _dialect_type(kind).bind_processor(_DIALECT)
    write = _bind_processor(kind.item_type)
    return None if write is None else partial(_each, write)


def _made_by_host(statement: Any) -> Iterator[tuple[str, Any]]:
    """Yield columns with a default or ``onupdate`` in Python, whose values SQLAlchemy would make at each execution."""
    makers: list[tuple[str, Any]] = []
    for part in iterate(statement):
        if isinstance(part, Update):
            makers += [(column.key, column.onupdate) for column in part.table.columns]
        elif isinstance(part, Insert) and part.select is None:  # ours from a SELECT name all of their columns
            makers += [(column.key, column.default) for column in part.table.columns]
    for name, maker in makers:
        value = getattr(maker, "arg", None)
        if value is not None and not isinstance(value, ClauseElement):  # SQL is in the statement's text
            yield name, value


def _made(value: Any, write: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Return what makes the argument of a column whose value is a constant or a function of the host's."""

    def make(_given: object) -> Any:
        # Without a context of SQLAlchemy, which only a function that asks for it needs.
        made = value(None) if callable(value) else value
        return made if write is None else write(made)

    return make


def _each(write: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [write(item) for item in items]


def _dialect_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return kind.dialect_impl(_DIALECT)


def _row_class(names: list[str]) -> Any:
    make_class: Any = namedtuple  # mypy wants to know the fields
    return make_class("Row", names)
