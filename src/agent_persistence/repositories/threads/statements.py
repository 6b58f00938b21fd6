"""Statements on threads, compiled once for each set of models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import Boolean, Integer, Table, Text, bindparam, case, delete, func, null, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.repositories.locks import locked_threads, new_rows, rows_of_locked
from agent_persistence.repositories.messages.statements import LIKE_ESCAPE
from agent_persistence.repositories.rows import readable
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS


def thread_columns(thread: Table) -> list[Any]:
    """Return the columns of a ``ThreadRecord``, in the order of its fields."""
    return [
        thread.c.thread_id,
        thread.c.user_id,
        thread.c.thread_name,
        thread.c.meta,
        readable(thread.c.archived_at),
        readable(thread.c.created_at),
        readable(thread.c.updated_at),
    ]


@lru_cache(MODELS_AT_ONCE)
def one_thread(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Read the thread ``thread_id`` of ``owner``."""
    thread = table_of(models.Thread)
    return CompiledStatement(select(*thread_columns(thread)).where(_is_wanted(thread, of_any_user=of_any_user)))


@lru_cache(MODELS_AT_ONCE)
def lock_and_read(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Lock the thread ``thread_id`` of ``owner`` until the transaction ends, and read it as it is below the lock."""
    thread = table_of(models.Thread)
    locked = select(*thread_columns(thread), *TRANSACTION_MARKS).where(_is_wanted(thread, of_any_user=of_any_user))
    return CompiledStatement(locked.with_for_update(key_share=True))  # see select_and_lock


@lru_cache(MODELS_AT_ONCE)
def page_of_threads(
    models: Models[Any, Any],
    *,
    of_any_user: bool,
    archived: bool = False,
    continues: bool = False,
    searches: bool = False,
    filters: bool = False,
) -> CompiledStatement:
    """Read at most ``limit`` threads of ``owner``, the most recently active first.

    Args:
        archived: the archived threads instead of the others.
        continues: those that follow the thread ``last_id``, which was active at ``last_time``; where that is null,
            the thread's row holds the time.
        searches: only threads whose name contains ``text``, in any case.
        filters: only threads whose ``meta`` contains ``wanted``.
    """
    thread = table_of(models.Thread)
    conditions = [_is_owned(thread, of_any_user=of_any_user)]
    conditions.append(thread.c.archived_at.is_not(None) if archived else thread.c.archived_at.is_(None))
    if searches:
        conditions.append(thread.c.thread_name.icontains(bindparam("text", type_=Text()), escape=LIKE_ESCAPE))
    if filters:
        conditions.append(thread.c.meta.bool_op("@>")(bindparam("wanted", type_=thread.c.meta.type)))
    if continues:
        last_id = bindparam("last_id", type_=thread.c.thread_id.type)
        last = thread.alias("last")
        held = select(last.c.updated_at).where(last.c.thread_id == last_id, _is_owned(last, of_any_user=of_any_user))
        last_time = func.coalesce(bindparam("last_time", type_=thread.c.updated_at.type), held.scalar_subquery())
        # A comparison of rows, which the index serves; ties in updated_at are broken by the id.
        conditions.append(tuple_(thread.c.updated_at, thread.c.thread_id) < tuple_(last_time, last_id))
    return CompiledStatement(
        select(*thread_columns(thread))
        .where(*conditions)
        .order_by(thread.c.updated_at.desc(), thread.c.thread_id.desc())
        .limit(bindparam("limit", type_=Integer()))
    )


@lru_cache(MODELS_AT_ONCE)
def add_thread(models: Models[Any, Any], *, with_id: bool) -> CompiledStatement:
    """Add the thread of ``new_user_id``, and return it; no row if its id is taken.

    Args:
        with_id: whether ``new_thread_id`` is given; otherwise the database makes the id.
    """
    thread = table_of(models.Thread)
    names = ["user_id", "thread_name", "meta", *(["thread_id"] if with_id else [])]
    return CompiledStatement(
        insert(thread)
        .values({name: bindparam(f"new_{name}", type_=thread.c[name].type) for name in names})
        .on_conflict_do_nothing(index_elements=[thread.c.thread_id])  # a unique index of the host raises
        .returning(*thread_columns(thread), *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def change_thread(models: Models[Any, Any], names: tuple[str, ...], *, of_any_user: bool) -> CompiledStatement:
    """Set columns of the thread ``thread_id`` of ``owner``, and return it; no row if it does not exist.

    Args:
        names: of the columns; the values are ``new_`` and the name. ``new_archived_at`` is whether it is archived.
    """
    thread = table_of(models.Thread)
    is_archived = bindparam("new_archived_at", type_=Boolean())
    values = {
        "thread_name": bindparam("new_thread_name", type_=thread.c.thread_name.type),
        "meta": bindparam("new_meta", type_=thread.c.meta.type),
        "archived_at": case((is_archived, func.coalesce(thread.c.archived_at, func.now())), else_=null()),
    }
    return CompiledStatement(
        update(thread)
        .where(_is_wanted(thread, of_any_user=of_any_user))
        .values({name: values[name] for name in names})
        .returning(*thread_columns(thread), *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def change_threads(models: Models[Any, Any], names: tuple[str, ...]) -> CompiledStatement:
    """Set columns of those of the threads ``thread_ids`` of ``owners`` that nobody has locked, and return them.

    Args:
        names: of the columns and of the arrays of their values: of the name and of ``meta``.
    """
    thread = table_of(models.Thread)
    locked = locked_threads(models, of_any_user=False, waits=False)
    rows = new_rows(models, {name: Text() if name == "thread_name" else thread.c[name].type for name in names})
    ours = rows_of_locked(rows, locked, of_any_user=False)
    new = select(rows.c.thread_id.label("new_id"), *(rows.c[name] for name in names)).select_from(ours).subquery("ours")
    return CompiledStatement(
        update(thread)
        .where(thread.c.thread_id == new.c.new_id)
        .values({name: new.c[name] for name in names})
        .returning(*thread_columns(thread), *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def delete_thread(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Delete the thread ``thread_id`` of ``owner``, and return its id and its owner."""
    thread = table_of(models.Thread)
    return CompiledStatement(
        delete(thread)
        .where(_is_wanted(thread, of_any_user=of_any_user))
        .returning(thread.c.thread_id, thread.c.user_id, *TRANSACTION_MARKS)
    )


def _is_wanted(thread: Any, *, of_any_user: bool) -> Any:
    return (thread.c.thread_id == bindparam("thread_id")) & _is_owned(thread, of_any_user=of_any_user)


def _is_owned(thread: Any, *, of_any_user: bool) -> Any:
    return true() if of_any_user else thread.c.user_id == bindparam("owner")
