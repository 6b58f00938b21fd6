"""Statements that save checkpoints, compiled once for each set of models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    DateTime,
    LargeBinary,
    Text,
    and_,
    any_,
    bindparam,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.types import TypeEngine

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.repositories.locks import locked_threads, touched_threads, unnest
from agent_persistence.repositories.messages.statements import kinds_of_messages, message_values
from agent_persistence.repositories.numbering import is_latest
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS

NO_ROW: Final = 0
"""In place of the number of a namespace's last row, if it has none."""
_NO_BYTES: Final[Any] = literal_column("''::bytea", LargeBinary)
_NO_ROW: Final[Any] = literal_column("0", BigInteger)
_NOT_GIVEN: Final = frozenset(
    {"thread_id", "checkpoint_ns", "created_at", "refs"}
)  # as columns of an item of their own


@lru_cache(MODELS_AT_ONCE)
def lock_thread_and_parent(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Lock a thread, and return the references of one of its checkpoints, or null."""
    checkpoint = models.side_tables.graph.checkpoints
    locked = locked_threads(models, of_any_user=of_any_user, waits=True)
    is_parent = and_(
        checkpoint.c.thread_id == locked.c.thread_id,
        checkpoint.c.checkpoint_ns == bindparam("checkpoint_ns", type_=Text()),
        checkpoint.c.checkpoint_id == bindparam("parent_id", type_=Text()),
    )
    return CompiledStatement(
        select(locked.c.thread_id, checkpoint.c.refs).select_from(locked.outerjoin(checkpoint, is_parent))
    )


@lru_cache(MODELS_AT_ONCE)
def save_graphs(
    models: Models[Any, Any],
    *,
    touch_seconds: float,
    of_any_user: bool = False,
    waits: bool = True,
    mirrors: bool = False,
    one: bool = False,
) -> CompiledStatement:
    """Lock threads, set their ``updated_at``, and add rows of values and checkpoints; returns a row for each item.

    An item is a checkpoint with its values, or the writes of a task; of each thread there is one at most. Items that
    expect another ``updated_at`` of their thread, or another last row of their namespace, are not saved.

    Args:
        of_any_user: save to threads of any owner.
        waits: ``False`` leaves out threads that another transaction has locked.
        mirrors: add messages too, and save no item of which one exists already.
        one: it is one item, given as plain values. With arrays the server plans each execution anew, since it believes
            that ten items are usual: 0.5 ms.
    """
    tables = models.side_tables.graph
    values, checkpoint = tables.values, tables.checkpoints
    id_type, user_type = (one.array_type().item_type for one in (models.id_types.id, models.id_types.user))
    saved_columns = [one.name for one in checkpoint.c if one.name not in _NOT_GIVEN]
    time = DateTime(timezone=True)
    items = parameters(
        "item",
        {
            "thread_id": id_type,
            "owner": user_type,
            "checkpoint_ns": Text(),
            "expected_touch": time,
            "expected_last_no": BigInteger(),
            "parent_created_at": time,
            "claims": Boolean(),
            **{name: _plain(checkpoint.c[name].type) for name in saved_columns},
            "refs_head": LargeBinary(),
            "refs": LargeBinary(),
        },
        one=one,
    )
    rows = parameters(
        "new",
        {
            "thread_id": id_type,
            "written_at": Text(),
            "channel": Text(),
            "cells": LargeBinary(),
            "content": LargeBinary(),
        },
        numbered=True,
    )
    locked = locked_threads(models, of_any_user=of_any_user, waits=waits, one=one, also=("updated_at",))
    owns = true() if of_any_user else items.c.owner == locked.c.user_id
    messages, is_new = _messages(models, items) if mirrors else (None, true())
    chosen = (
        select(
            *items.c,
            locked.c.updated_at.label("touched_before"),
            last_no(models, items.c.thread_id, items.c.checkpoint_ns).scalar_subquery().label("last_no"),
        )
        .select_from(locked.join(items, (items.c.thread_id == locked.c.thread_id) & owns))
        .where(items.c.expected_touch.is_(None) | _is_as_expected(models, items, locked), is_new)
        .cte("chosen")
    )
    touched = touched_threads(models, chosen, touch_seconds, always=chosen.c.claims)
    names = ["channel", "cells", "content"]
    source = (
        select(chosen.c.thread_id, chosen.c.checkpoint_ns, rows.c.written_at, *[rows.c[name] for name in names])
        .select_from(chosen.join(rows, rows.c.thread_id == chosen.c.thread_id))
        .order_by(rows.c.ordinal)  # value_no is drawn in this order
    )
    added = (
        insert(values)
        .from_select(["thread_id", "checkpoint_ns", "checkpoint_id", *names], source, include_defaults=False)
        .returning(values.c.thread_id, values.c.value_no, is_latest(values, "value_no", "checkpoint_ns"))
        .cte("added")
    )
    as_bytes = func.string_agg(
        func.int8send(added.c.value_no), aggregate_order_by(_NO_BYTES, added.c.value_no), type_=LargeBinary()
    )
    as_array = func.array_agg(aggregate_order_by(added.c.value_no, added.c.value_no), type_=ARRAY(BigInteger()))
    numbers = (
        select(added.c.thread_id, as_array.label("numbers"), as_bytes.label("as_bytes"))
        .group_by(added.c.thread_id)
        .cte("numbers")
    )
    refs = chosen.c.refs_head.concat(func.coalesce(numbers.c.as_bytes, _NO_BYTES)).concat(chosen.c.refs)
    new = insert(checkpoint).from_select(
        ["thread_id", "checkpoint_ns", *saved_columns, "refs"],
        select(chosen.c.thread_id, chosen.c.checkpoint_ns, *[chosen.c[name] for name in saved_columns], refs)
        .select_from(chosen.outerjoin(numbers, numbers.c.thread_id == chosen.c.thread_id))
        .where(chosen.c.checkpoint_id.is_not(None)),
        include_defaults=False,
    )
    changes = {name: new.excluded[name] for name in (*saved_columns, "refs") if name != "checkpoint_id"}
    saved = (
        new.on_conflict_do_update(
            index_elements=list(checkpoint.primary_key.columns), set_={**changes, "created_at": func.now()}
        )
        .returning(checkpoint.c.thread_id)
        .cte("saved")
    )
    mirrored = [] if messages is None else [_added_messages(models, chosen, messages)]
    count = [
        select(func.count()).where(one.c.thread_id == chosen.c.thread_id).scalar_subquery().label("mirrored")
        for one in mirrored
    ]
    return CompiledStatement(
        select(
            chosen.c.thread_id,
            chosen.c.checkpoint_ns,
            chosen.c.checkpoint_id,
            chosen.c.touched_before,
            func.coalesce(touched.c.updated_at, chosen.c.touched_before, type_=time).label("touched_at"),
            chosen.c.last_no,
            numbers.c.numbers,
            func.now().label("created_at"),
            *count,
            *TRANSACTION_MARKS,
        )
        .select_from(
            chosen.outerjoin(touched, touched.c.thread_id == chosen.c.thread_id).outerjoin(
                numbers, numbers.c.thread_id == chosen.c.thread_id
            )
        )
        .add_cte(saved)
    )


def _messages(models: Models[Any, Any], items: Any) -> tuple[Any, Any]:
    """Return the messages to add as a table, and the condition that none of an item's messages exists."""
    kinds = kinds_of_messages(models, with_ids=True)
    rows = parameters("message", {"thread_id": models.id_types.id.array_type().item_type, **kinds}, numbered=True)
    message = table_of(models.Message).alias("known_message")
    known = select(message.c.seq).where(
        message.c.thread_id == rows.c.thread_id,
        message.c.message_id == rows.c.message_id,
        rows.c.thread_id == items.c.thread_id,
    )
    return rows, ~known.exists()


def _added_messages(models: Models[Any, Any], chosen: Any, rows: Any) -> Any:
    message, kinds = table_of(models.Message), kinds_of_messages(models, with_ids=True)
    source = (
        select(chosen.c.thread_id, *message_values(message, rows, kinds))
        .select_from(chosen.join(rows, rows.c.thread_id == chosen.c.thread_id))
        .order_by(rows.c.ordinal)
    )
    return (
        insert(message)
        .from_select(["thread_id", *kinds], source, include_defaults=False)
        # Added by another transaction since the statement began: the caller counts.
        .on_conflict_do_nothing(index_elements=[message.c.thread_id, message.c.message_id])
        .returning(message.c.thread_id, is_latest(message, "seq"))
        .cte("mirrored")
    )


def _is_as_expected(models: Models[Any, Any], items: Any, locked: Any) -> Any:
    """Return the condition that no other process has written to the namespace since this one did.

    The thread's ``updated_at`` decides: it is compared as it is below the lock, and each save without an expectation
    sets it. The rest is compared as it was when the statement began, for processes of the version before.
    """
    parent = models.side_tables.graph.checkpoints.alias("parent")
    created = select(parent.c.created_at).where(
        parent.c.thread_id == items.c.thread_id,
        parent.c.checkpoint_ns == items.c.checkpoint_ns,
        parent.c.checkpoint_id == items.c.parent_id,
    )
    return and_(
        items.c.expected_touch == locked.c.updated_at,
        items.c.expected_last_no.is_(None)
        | (items.c.expected_last_no == last_no(models, items.c.thread_id, items.c.checkpoint_ns).scalar_subquery()),
        items.c.parent_created_at.is_(None) | (items.c.parent_created_at == created.scalar_subquery()),
    )


def last_no(models: Models[Any, Any], thread_id: Any, namespace: Any) -> Any:
    """Select the number of the last row of a namespace, or 0."""
    row = models.side_tables.graph.values.alias("row")
    last = func.coalesce(func.max(row.c.value_no), _NO_ROW).label("last_no")
    return select(last).where(row.c.thread_id == thread_id, row.c.checkpoint_ns == namespace)


@lru_cache(MODELS_AT_ONCE)
def known_values(models: Models[Any, Any]) -> CompiledStatement:
    """Return the descriptions of stored values: those of channels from a row on, and those written at a checkpoint."""
    values = models.side_tables.graph.values
    wanted = parameters("wanted", {"channel": Text(), "first_no": BigInteger()})
    here = and_(
        values.c.thread_id == bindparam("thread_id", type_=values.c.thread_id.type),
        values.c.checkpoint_ns == bindparam("checkpoint_ns", type_=Text()),
    )
    later = and_(here, values.c.channel == wanted.c.channel, values.c.value_no >= wanted.c.first_no)
    chosen = [values.c.value_no, values.c.channel, values.c.cells]
    pending = and_(
        here,
        values.c.checkpoint_id == bindparam("parent_id", type_=Text()),
        values.c.channel == any_(bindparam("changed", type_=ARRAY(Text()))),
    )
    # UNION, not UNION ALL: a row that satisfies both conditions must come once.
    return CompiledStatement(
        select(*chosen).select_from(wanted.join(values, later)).union(select(*chosen).where(pending))
    )


def _plain(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return Text() if isinstance(kind, Text) else kind  # an array has no collation


def parameters(name: str, columns: dict[str, TypeEngine[Any]], *, numbered: bool = False, one: bool = False) -> Any:
    """Return rows of parameters as a table: one array a column, named ``<table>_<column>``; or one row of values."""
    if one:
        values = [bindparam(f"{name}_{column}", type_=kind).label(column) for column, kind in columns.items()]
        return select(*values).subquery(name)
    arrays = {column: bindparam(f"{name}_{column}", type_=ARRAY(kind)) for column, kind in columns.items()}
    return unnest(name, numbered=numbered, **arrays)
