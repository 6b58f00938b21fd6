"""Statements for checkpoints, compiled once for each set of models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    LargeBinary,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    func,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.repositories.checkpoints.value_rows import LIGHT
from agent_persistence.repositories.locks import locked_threads, touched_threads, unnest
from agent_persistence.repositories.numbering import is_latest
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS


@lru_cache(MODELS_AT_ONCE)
def lock_and_touch_thread(models: Models[Any, Any], *, touch_seconds: float, of_any_user: bool) -> CompiledStatement:
    """Lock a thread, set its ``updated_at``, and return the references of one of its checkpoints, or null."""
    checkpoint, locked = models.side_tables.graph.checkpoints, _locked(models, of_any_user=of_any_user)
    is_parent = and_(
        checkpoint.c.thread_id == locked.c.thread_id,
        checkpoint.c.checkpoint_ns == bindparam("checkpoint_ns", type_=Text()),
        checkpoint.c.checkpoint_id == bindparam("parent_id", type_=Text()),
    )
    return CompiledStatement(
        select(locked.c.thread_id, checkpoint.c.refs)
        .select_from(locked.outerjoin(checkpoint, is_parent))
        .add_cte(touched_threads(models, locked, touch_seconds))
    )


@lru_cache(MODELS_AT_ONCE)
def add_values(models: Models[Any, Any], *, touch_seconds: float, of_any_user: bool) -> CompiledStatement:
    """Lock a thread, set its ``updated_at`` and add rows of values; returns no rows if there is no such thread."""
    values, locked = models.side_tables.graph.values, _locked(models, of_any_user=of_any_user)
    names = ("channel", "cells", "content")
    rows = _parameters("new", {"channel": Text(), "cells": LargeBinary(), "content": LargeBinary()}, numbered=True)
    same = ("checkpoint_ns", "checkpoint_id")
    chosen = (
        select(locked.c.thread_id, *[bindparam(name, type_=Text()) for name in same], *[rows.c[name] for name in names])
        .select_from(locked.join(rows, true()))
        .order_by(rows.c.ordinal)  # value_no is drawn in this order
    )
    return CompiledStatement(
        insert(values)
        .from_select(["thread_id", *same, *names], chosen, include_defaults=False)
        .add_cte(touched_threads(models, locked, touch_seconds))
        .returning(
            values.c.thread_id,
            values.c.value_no,
            values.c.created_at,
            is_latest(values, "value_no", "checkpoint_ns"),
            *TRANSACTION_MARKS,
        )
    )


@lru_cache(MODELS_AT_ONCE)
def save_checkpoint(models: Models[Any, Any]) -> CompiledStatement:
    """Add a checkpoint to a locked thread, or overwrite it."""
    checkpoint = models.side_tables.graph.checkpoints
    columns = [one for one in checkpoint.c if one.name != "created_at"]
    added = insert(checkpoint).values({one.name: bindparam(f"new_{one.name}", type_=one.type) for one in columns})
    changes = {one.name: added.excluded[one.name] for one in columns if not one.primary_key}
    return CompiledStatement(
        added.on_conflict_do_update(
            index_elements=list(checkpoint.primary_key.columns), set_={**changes, "created_at": func.now()}
        ).returning(
            checkpoint.c.thread_id,
            checkpoint.c.checkpoint_ns,
            checkpoint.c.checkpoint_id,
            checkpoint.c.created_at,
            *TRANSACTION_MARKS,
        )
    )


@lru_cache(MODELS_AT_ONCE)
def known_values(models: Models[Any, Any]) -> CompiledStatement:
    """Return the descriptions of stored values: those of channels from a row on, and those written at a checkpoint."""
    values = models.side_tables.graph.values
    wanted = _parameters("wanted", {"channel": Text(), "first_no": BigInteger()})
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


@lru_cache(MODELS_AT_ONCE)
def read_values(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Return the rows of values in ranges, and the rows that tasks wrote at checkpoints.

    Of the latter only those that may hold writes to the channels ``written_to``, unless that is null.
    """
    values = models.side_tables.graph.values
    names = (values.c.thread_id, values.c.checkpoint_ns)
    kinds: dict[str, TypeEngine[Any]] = {
        "thread_id": models.id_types.id.array_type().item_type,
        "checkpoint_ns": Text(),
    }
    spans = _parameters("span", {**kinds, "channel": Text(), "first_no": BigInteger(), "last_no": BigInteger()})
    pending = _parameters("pending", {**kinds, "checkpoint_id": Text()})
    chosen = [*names, values.c.value_no, values.c.checkpoint_id]
    chosen += [values.c.channel, values.c.cells, values.c.content]
    referred = (
        select(*chosen)
        .select_from(
            spans.join(
                values,
                and_(
                    *(name == spans.c[name.name] for name in names),
                    or_(spans.c.channel.is_(None), spans.c.channel == values.c.channel),
                    values.c.value_no.between(spans.c.first_no, spans.c.last_no),
                ),
            ).join(*_owned(models, values, of_any_user=of_any_user))
        )
        .add_columns(_constant("is_write", value=False))
    )
    # The caller's ids of threads are checked by the join with their owners, in the same statement.
    channels = bindparam("written_to", type_=ARRAY(Text()))
    written = (
        select(*chosen)
        .select_from(
            pending.join(
                values,
                and_(
                    *(name == pending.c[name.name] for name in names),
                    values.c.checkpoint_id == pending.c.checkpoint_id,
                ),
            ).join(*_owned(models, values, of_any_user=of_any_user))
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
    return CompiledStatement(union_all(referred, written))


def _constant(name: str, *, value: bool) -> Any:
    return (true() if value else ~true()).label(name)


def _locked(models: Models[Any, Any], *, of_any_user: bool) -> Any:
    return locked_threads(models, of_any_user=of_any_user, waits=True)


def _owned(models: Models[Any, Any], rows: Table, *, of_any_user: bool) -> tuple[Any, Any]:
    thread = table_of(models.Thread)
    same = thread.c.thread_id == rows.c.thread_id
    return thread, same if of_any_user else same & (thread.c.user_id == bindparam("owner", type_=thread.c.user_id.type))


def _parameters(name: str, columns: dict[str, TypeEngine[Any]], *, numbered: bool = False) -> Any:
    """Return rows of parameters as a table: one array a column, named ``<table>_<column>``."""
    arrays = {column: bindparam(f"{name}_{column}", type_=ARRAY(kind)) for column, kind in columns.items()}
    return unnest(name, numbered=numbered, **arrays)
