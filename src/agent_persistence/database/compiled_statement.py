"""Statements that SQLAlchemy compiles once: what meets the driver is their text and a tuple of arguments."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import ARRAY
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.types import TypeEngine

MODELS_AT_ONCE: Final = 64
"""For so many choices of models the compiled statements are kept."""

_DIALECT: Final = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its making untyped


class CompiledStatement:
    """One statement of the models, compiled for asyncpg.

    Building and compiling a statement costs a millisecond of CPU, finding it in SQLAlchemy's cache a tenth of that;
    this costs a microsecond a value.

    Args:
        statement: with a named ``bindparam`` for whatever differs from call to call.

    Attributes:
        statement: what was compiled.
        text: the SQL, with ``$1`` for the first argument.
    """

    def __init__(self, statement: Any) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self.statement = statement
        self.text = str(compiled)
        self._translated: dict[frozenset[tuple[str | None, str]], str] = {}
        binds = [compiled.binds[name] for name in compiled.positiontup]
        self._parameters = [(bind.key, bind.value, _writer(bind.type)) for bind in binds]
        columns = list(statement.exported_columns)
        self._make_row = partial(tuple.__new__, _row_class([str(column.name) for column in columns]))
        readers = [_processors(column.type).result_processor(_DIALECT, None) for column in columns]
        self._readers = [(place, read) for place, read in enumerate(readers) if read is not None]

    def translated(self, schemas: Mapping[str | None, str]) -> str:
        """The SQL for other schemas, as ``schema_translate_map`` names them."""
        key = frozenset(schemas.items())
        if key not in self._translated:
            options: dict[str, Any] = {"schema_translate_map": schemas, "render_schema_translate": True}
            self._translated[key] = str(self.statement.compile(dialect=_DIALECT, **options))
        return self._translated[key]

    def arguments(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Put the values in their places."""
        return tuple(
            [
                values.get(name, given) if write is None else write(values.get(name, given))
                for name, given, write in self._parameters
            ]
        )

    def rows(self, raw: Sequence[Iterable[Any]]) -> list[Any]:
        """Read what the driver returned, as the types of the columns say; a named tuple a row."""
        columns: list[Iterable[Any]] = list(zip(*raw, strict=True))  # by columns: half the time of going by rows
        if not columns:
            return []
        for place, read in self._readers:
            columns[place] = [None if value is None else read(value) for value in columns[place]]
        return list(map(self._make_row, zip(*columns, strict=True)))


def _writer(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """What turns a value into the driver's. SQLAlchemy's own for arrays looks for arrays in each item of them."""
    if not isinstance(kind, ARRAY):
        return _processors(kind).bind_processor(_DIALECT)
    write = _writer(kind.item_type)
    return None if write is None else lambda items: [write(item) for item in items]


def _processors(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return kind.dialect_impl(_DIALECT)


def _row_class(names: list[str]) -> Any:
    make_class: Any = namedtuple  # mypy wants to know the fields
    return make_class("Row", names)
