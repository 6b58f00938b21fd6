"""Vectors of items: how they are checked, written and searched. Their table is optional."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ARRAY,
    REAL,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal,
    null,
    quoted_name,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.sql.functions import Function
from sqlalchemy.types import NullType

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.database.driver_errors import sqlstate_of
from agent_persistence.errors import DatabaseError, InvalidInputError, SchemaError
from agent_persistence.models import Models
from agent_persistence.records import ItemKey
from agent_persistence.repositories.items import places
from agent_persistence.repositories.items.parts import in_parts
from agent_persistence.repositories.items.statements import found_items, is_below, last_put_first
from agent_persistence.repositories.locks import unnest
from agent_persistence.sessions.scope import Query, Scope

_UNDEFINED_TABLE: Final = "42P01"
_OTHER_DIMENSIONS: Final = "22000"  # data_exception
_QUOTES: Final = PGDialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy's is untyped
_MISSING: Final = "the database keeps no vectors; run: agent-persistence optional add vectors --dims N"


class _Vector(NamedTuple):
    key: ItemKey
    place: int
    numbers: str


def check_vectors(vectors: object, field: str) -> tuple[str, ...]:
    """Return vectors as PostgreSQL reads arrays.

    Raises:
        InvalidInputError: they are no sequence of sequences of finite numbers.
    """
    if isinstance(vectors, str) or not isinstance(vectors, Sequence):
        raise InvalidInputError(field, f"must be a sequence of vectors, not {type(vectors).__name__}")
    return tuple(
        f"{{{','.join(map(repr, check_vector(one, f'{field}[{place}]')))}}}" for place, one in enumerate(vectors)
    )


def check_vector(vector: Any, field: str) -> list[float]:
    """Return the numbers of a vector.

    Raises:
        InvalidInputError: it is no sequence of finite numbers, or empty.
    """
    try:
        numbers = [float(number) for number in vector]
    except (TypeError, ValueError):
        raise InvalidInputError(field, "must be a sequence of numbers") from None
    if not numbers or not all(map(isfinite, numbers)):
        raise InvalidInputError(field, "is empty, or holds NaN or infinity")
    return numbers


async def write_vectors(scope: Scope[Any, Any], owner: Any, vectors: Mapping[ItemKey, Sequence[str]]) -> None:
    """Add the vectors of items that were put in this transaction, which took their former ones away."""
    statement = _add_vectors(scope.models)
    rows = [_Vector(key, place, one) for key, each in vectors.items() for place, one in enumerate(each)]
    with explained("vectors"):
        for part in in_parts(rows, size=lambda row: len(row.numbers)):
            await scope.fetch(
                statement,
                owner=owner,
                namespaces=[places.joined(row.key.namespace) for row in part],
                keys=[row.key.key for row in part],
                places=[row.place for row in part],
                vectors=[row.numbers for row in part],
            )


def nearest_items(
    models: Models[Any, Any], condition: ColumnElement[bool], near: Sequence[float], *, below: bool
) -> Query:
    """Select a page as ``found_items`` does, the nearest first, then items without vectors.

    Every vector of the owner below the namespace is compared: an approximate index would lose results behind the
    conditions, and 2,000 vectors of 1,536 numbers take 14 ms on a busy machine.
    """
    items, vectors = models.side_tables.items, _vectors(models)
    # A subquery, which is computed once and not for each row.
    wanted = select(_called(models, "opt_item_vector", literal(list(near), ARRAY(REAL())))).scalar_subquery()
    distance = func.min(_called(models, "opt_item_distance", vectors.c.embedding, wanted))
    owned = [vectors.c.user_id == bindparam("owner", type_=items.c.user_id.type)]
    nearest = (
        select(vectors.c.namespace, vectors.c.key, distance.label("distance"))
        .where(*owned, *([is_below(vectors)] if below else []))
        .group_by(vectors.c.namespace, vectors.c.key)
        .subquery("nearest")
    )
    same = (nearest.c.namespace == items.c.namespace) & (nearest.c.key == items.c.key)
    score = (1 - nearest.c.distance).label("score")
    found = found_items(models, condition, below=below).add_columns(score).outerjoin_from(items, nearest, same)
    return found.order_by(None).order_by(nearest.c.distance.asc().nulls_last(), *last_put_first(items))


@contextmanager
def explained(field: str) -> Iterator[None]:
    """Say what is wrong if the table of vectors is missing, or holds vectors of other dimensions.

    Args:
        field: names the vectors of the block.
    """
    try:
        yield
    except SchemaError as error:
        if error.__cause__ is None or sqlstate_of(error.__cause__) != _UNDEFINED_TABLE:
            raise
        raise SchemaError(_MISSING) from error
    except DatabaseError as error:
        if error.sqlstate != _OTHER_DIMENSIONS:
            raise
        raise InvalidInputError(field, "has other dimensions than the vectors of the database") from error


@lru_cache(MODELS_AT_ONCE)
def _add_vectors(models: Models[Any, Any]) -> CompiledStatement:
    vectors = _vectors(models)
    new = unnest(
        "new",
        namespace=bindparam("namespaces", type_=ARRAY(Text())),
        key=bindparam("keys", type_=ARRAY(Text())),
        place=bindparam("places", type_=ARRAY(Integer())),
        # As texts: unnest would take an array of arrays apart to its numbers.
        numbers=bindparam("vectors", type_=ARRAY(Text())),
    )
    made = _called(models, "opt_item_vector", cast(new.c.numbers, ARRAY(REAL())))
    rows = select(
        bindparam("owner", type_=vectors.c.user_id.type).label("user_id"),
        *(new.c.namespace, new.c.key, new.c.place, made.label("embedding")),
    )
    added = insert(vectors).from_select(list(vectors.c.keys()), rows, include_defaults=False)
    return CompiledStatement(added.returning(null().label("nothing")))


def _vectors(models: Models[Any, Any]) -> Table:
    items = models.side_tables.items
    names = ("user_id", "namespace", "key")
    # In a metadata of its own: Alembic would compare it otherwise.
    columns: list[Column[Any]] = [Column(name, items.c[name].type, primary_key=True) for name in names]
    columns += [Column("place", Integer, primary_key=True), Column("embedding", NullType())]
    return Table("opt_item_vectors", MetaData(), *columns, schema=items.schema)


def _called(models: Models[Any, Any], name: str, *arguments: ColumnElement[Any]) -> Any:
    schema = models.side_tables.items.schema
    # Quoted here: SQLAlchemy leaves the schema of a function without the quotes that a capital letter needs.
    within = "" if schema is None else f"{_QUOTES.quote_identifier(schema)}."
    return Function(quoted_name(f"{within}{name}", quote=False), *arguments)
