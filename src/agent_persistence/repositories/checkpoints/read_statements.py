"""Statements that read checkpoints, compiled once for each set of models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    DateTime,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import BIT
from sqlalchemy.types import TypeEngine

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.repositories.checkpoints.compression import DELTA
from agent_persistence.repositories.checkpoints.statements import last_no, parameters
from agent_persistence.repositories.checkpoints.value_rows import LIGHT

_NAMES: Final = ("thread_id", "checkpoint_ns")
_RANGE: Final[dict[str, TypeEngine[Any]]] = {
    "channel": Text(),
    "first_no": BigInteger(),
    "last_no": BigInteger(),
    "is_whole": Boolean(),
}
_ONE: Final[Any] = literal_column("1")


@lru_cache(MODELS_AT_ONCE)
def read_checkpoint(models: Models[Any, Any], *, of_any_user: bool = False, latest: bool = True) -> CompiledStatement:
    """Return a checkpoint of a namespace, the latest one or ``checkpoint_id``, and rows of values.

    These are the rows that tasks wrote at it, the rows in ranges, unless the namespace is as it was known, and the rows
    that their deltas rest on. The row of the checkpoint is the one without a ``value_no``; if there is only the thread,
    it has no ``checkpoint_id``. It tells whether the namespace is unchanged, and whether the known checkpoint is there.
    """
    checkpoint, values = models.side_tables.graph.checkpoints, models.side_tables.graph.values
    thread, namespace = table_of(models.Thread), bindparam("checkpoint_ns", type_=Text())
    found = select(*checkpoint.c).where(
        checkpoint.c.thread_id == thread.c.thread_id, checkpoint.c.checkpoint_ns == namespace
    )
    if latest:
        found = found.order_by(checkpoint.c.checkpoint_id.desc()).limit(_ONE)
    else:
        found = found.where(checkpoint.c.checkpoint_id == bindparam("checkpoint_id", type_=Text()))
    # Lateral: of a plain outer join, all checkpoints of the namespace would be read and sorted.
    one = found.lateral("one")
    last = last_no(models, thread.c.thread_id, namespace).lateral("last")
    time = DateTime(timezone=True)
    known_id, known_at = bindparam("known_id", type_=Text()), bindparam("known_created_at", type_=time)
    same = and_(
        thread.c.updated_at.is_not_distinct_from(bindparam("known_touched_at", type_=time)),
        one.c.checkpoint_id.is_not_distinct_from(known_id),
        one.c.created_at.is_not_distinct_from(known_at),
        last.c.last_no == bindparam("known_last_no", type_=BigInteger()),
    )
    known = checkpoint.alias("known")
    has_known = exists().where(
        *(known.c[name] == value for name, value in zip(_NAMES, (thread.c.thread_id, namespace), strict=True)),
        known.c.checkpoint_id == known_id,
        known.c.created_at == known_at,
    )
    head = (
        select(
            *one.c,
            thread.c.user_id,
            thread.c.updated_at.label("touched_at"),
            last.c.last_no,
            same.label("is_unchanged"),
            has_known.label("has_known"),
        )
        .select_from(thread.outerjoin(one, true()).join(last, true()))
        .where(
            thread.c.thread_id == bindparam("thread_id", type_=thread.c.thread_id.type),
            true() if of_any_user else _is_owned(thread),
        )
        .cte("head")
    )
    written = (
        select(*_columns(values))
        .select_from(head.join(values, _is_written_at(values, head)))
        .add_columns(_constant("is_write", value=True))
    )
    spans = parameters("span", _RANGE)
    changed = head.join(spans, ~head.c.is_unchanged)
    ranged = _in_ranges(values, spans, changed.join(values, _is_within(values, spans, head)))
    rows = _with_bases(values, union_all(ranged, written)).cte("rows")
    only_of_rows = [one for one in rows.c if one.name not in head.c]
    return CompiledStatement(
        union_all(
            select(*head.c, *[_nothing(one) for one in only_of_rows]),
            select(*[rows.c[one.name] if one.name in rows.c else _nothing(one) for one in head.c], *only_of_rows),
        )
    )


@lru_cache(MODELS_AT_ONCE)
def read_values(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Return rows of values in ranges, rows that tasks wrote at checkpoints, and the rows that their deltas rest on.

    Of tasks' rows only those that may hold writes to the channels ``written_to``, unless that is null.
    """
    values = models.side_tables.graph.values
    pending = parameters("pending", {**_kinds(models), "checkpoint_id": Text()})
    channels = bindparam("written_to", type_=ARRAY(Text()))
    # The caller's ids of threads are checked by the join with their owners, in the same statement.
    written = (
        select(*_columns(values))
        .select_from(
            pending.join(values, _is_written_at(values, pending)).join(*_owned(models, values, of_any_user=of_any_user))
        )
        .where(
            or_(
                channels.is_(None),
                values.c.channel == any_(channels),
                # Small values of other channels lie in light rows. The length comes without reading the content.
                func.octet_length(values.c.content) <= LIGHT + 1,
            )
        )
        .add_columns(_constant("is_write", value=True))
    )
    spans = parameters("span", {**_kinds(models), **_RANGE})
    joined = spans.join(values, _is_within(values, spans, spans))
    joined = joined.join(*_owned(models, values, of_any_user=of_any_user))
    return CompiledStatement(_with_bases(values, union_all(_in_ranges(values, spans, joined), written)))


def _in_ranges(values: Table, spans: Any, joined: Any) -> Any:
    return (
        select(*_columns(values)[:-1], case((spans.c.is_whole, values.c.content)).label("content"))
        .select_from(joined)
        .add_columns(_constant("is_write", value=False))
    )


def _is_within(values: Table, spans: Any, namespace: Any) -> Any:
    return and_(
        *(values.c[name] == namespace.c[name] for name in _NAMES),
        or_(spans.c.channel.is_(None), spans.c.channel == values.c.channel),
        values.c.value_no.between(spans.c.first_no, spans.c.last_no),
    )


def _with_bases(values: Table, rows: Any) -> Any:
    """Add the rows that deltas rest on, in the same round trip: each delta written names one, behind mark and count."""
    found = rows.cte("found")
    base_no = cast(cast(func.concat("x", func.encode(func.substr(found.c.content, 3, 8), "hex")), BIT(64)), BigInteger)
    bases = (
        select(*_columns(values), _constant("is_write", value=False))
        .select_from(found.join(values, and_(*(values.c[name] == found.c[name] for name in _NAMES))))
        .where(func.substr(found.c.content, 1, len(DELTA)) == DELTA, values.c.value_no == base_no)
    )
    return union_all(select(found), bases)


def _is_written_at(values: Table, checkpoints: Any) -> Any:
    return and_(*(values.c[name] == checkpoints.c[name] for name in (*_NAMES, "checkpoint_id")))


def _columns(values: Table) -> list[Any]:
    return [values.c[name] for name in (*_NAMES, "value_no", "checkpoint_id", "channel", "cells", "content")]


def _kinds(models: Models[Any, Any]) -> dict[str, TypeEngine[Any]]:
    return {"thread_id": models.id_types.id.array_type().item_type, "checkpoint_ns": Text()}


def _nothing(column: Any) -> Any:
    return cast(null(), column.type).label(column.name)


def _constant(name: str, *, value: bool) -> Any:
    return (true() if value else ~true()).label(name)


def _owned(models: Models[Any, Any], rows: Table, *, of_any_user: bool) -> tuple[Any, Any]:
    thread = table_of(models.Thread)
    same = thread.c.thread_id == rows.c.thread_id
    return thread, same if of_any_user else same & _is_owned(thread)


def _is_owned(thread: Table) -> Any:
    return thread.c.user_id == bindparam("owner", type_=thread.c.user_id.type)
