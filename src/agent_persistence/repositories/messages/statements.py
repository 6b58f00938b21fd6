"""Statements on messages, compiled once for each set of models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

from sqlalchemy import ARRAY, Integer, Table, Text, any_, bindparam, cast, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.models.json_type import ExactJSON
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.locks import (
    locked_threads,
    new_rows,
    parameters_of,
    rows_of_locked,
    touched_threads,
)
from agent_persistence.repositories.messages.prepared import PreparedMessage
from agent_persistence.repositories.numbering import is_latest
from agent_persistence.repositories.rows import readable
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS

LIKE_ESCAPE: Final = "/"


def message_columns(message: Table) -> list[Any]:
    """Return the columns of a ``MessageRecord``."""
    return [
        message.c.thread_id,
        message.c.message_id,
        message.c.seq,
        message.c.role,
        message.c.content,
        message.c.tool_calls,
        message.c.tool_call_id,
        message.c.reasoning,
        message.c.extra,
        message.c.total_tokens,
        message.c.usages,
        message.c.meta,
        readable(message.c.created_at),
        readable(message.c.updated_at),
        message.c.aside,
    ]


@lru_cache(MODELS_AT_ONCE)
def append_messages(
    models: Models[Any, Any],
    *,
    with_ids: bool,
    touch_seconds: float,
    of_any_user: bool = False,
    waits: bool = True,
    one: bool = False,
) -> CompiledStatement:
    """Lock threads, set their ``updated_at`` and add messages, in one round trip; returns a row for each new message.

    Args:
        with_ids: whether the messages have ids; otherwise the database makes them.
        of_any_user: add to the threads of every owner.
        waits: ``False`` leaves out threads that another transaction has locked.
        one: it is one message.
    """
    table = table_of(models.Message)
    kinds = kinds_of_messages(models, with_ids=with_ids)
    rows = new_rows(models, kinds, one=one)
    locked = locked_threads(models, of_any_user=of_any_user, waits=waits, one=one)
    values = (
        select(locked.c.thread_id, *message_values(table, rows, kinds))
        .select_from(rows_of_locked(rows, locked, of_any_user=of_any_user))
        .order_by(rows.c.ordinal)
    )
    added = [
        table.c.thread_id,
        table.c.message_id,
        table.c.seq,
        table.c.created_at,
        table.c.updated_at,
    ]
    return CompiledStatement(
        insert(table)
        .from_select(["thread_id", *kinds], values, include_defaults=False)
        .add_cte(locked, touched_threads(models, locked, touch_seconds))
        # A repeated message must not be an error of the database, which would abort the transaction of every caller in
        # the batch.
        .on_conflict_do_nothing(index_elements=[table.c.thread_id, table.c.message_id])
        .returning(*added, is_latest(table, "seq"), *TRANSACTION_MARKS)
    )


def message_values(table: Table, rows: Any, names: Iterable[str]) -> list[Any]:
    """Return the columns of rows that are added to the table."""
    # The role is sent as text: for a parameter of an enum, asyncpg would first look up the type on each connection.
    return [cast(rows.c[name], table.c.role.type) if name == "role" else rows.c[name] for name in names]


def columns_of_messages(
    messages: Sequence[tuple[Any, Any, PreparedMessage[Any]]], *, with_ids: bool, one: bool = False
) -> dict[str, Any]:
    """Return the parameters of ``append_messages``, given messages with their threads and owners."""
    new = [message for _, _, message in messages]
    columns: dict[str, list[Any]] = {
        "thread_ids": [thread_id for thread_id, _, _ in messages],
        "owners": [None if owner is ANY_USER else owner for _, owner, _ in messages],
        "role": [str(message.columns.role) for message in new],
        "content": [message.columns.content for message in new],
        "tool_call_id": [message.columns.tool_call_id for message in new],
        "reasoning": [message.columns.reasoning for message in new],
        "total_tokens": [message.total_tokens for message in new],
        "aside": [message.aside for message in new],
    }
    for name in ("tool_calls", "usages", "meta", "extra"):
        columns[name] = [message.encoded[name] for message in new]
    if with_ids:
        columns["message_id"] = [message.message_id for message in new]
    return parameters_of(columns, one=one)


def kinds_of_messages(models: Models[Any, Any], *, with_ids: bool) -> dict[str, TypeEngine[Any]]:
    """Return the types of the columns that messages are given by."""
    kinds: dict[str, TypeEngine[Any]] = {
        "role": Text(),
        "content": Text(),
        "tool_calls": ExactJSON(),
        "tool_call_id": Text(),
        "reasoning": Text(),
        "total_tokens": Integer(),
        "usages": ExactJSON(),
        "meta": ExactJSON(),
        "extra": ExactJSON(),
        "aside": Text(),
    }
    return {"message_id": models.id_types.id.array_type().item_type, **kinds} if with_ids else kinds


@lru_cache(MODELS_AT_ONCE)
def page_of_messages(
    models: Models[Any, Any],
    *,
    backwards: bool,
    of_any_user: bool = False,
    searches: bool = False,
    asides: Literal["none", "named", "all"] = "none",
) -> CompiledStatement:
    """Read at most ``limit`` messages of the thread ``thread_id`` of ``owner`` that follow the position ``seq``.

    Args:
        backwards: read those before it, the nearest first.
        searches: only messages that contain ``text``, in any case.
        asides: also rows that are none of the conversation: those of the name ``aside``, or all.
    """
    message, thread = table_of(models.Message), table_of(models.Thread)
    position = bindparam("seq", type_=message.c.seq.type)
    conditions = [
        message.c.thread_id == bindparam("thread_id"),
        # By position, not by OFFSET: that would read and drop every row before the page, and shift when a row is
        # deleted.
        message.c.seq < position if backwards else message.c.seq > position,
    ]
    if not of_any_user:
        conditions.append(thread.c.user_id == bindparam("owner"))
    if asides == "none":
        conditions.append(message.c.aside.is_(None))
    elif asides == "named":
        conditions.append(message.c.aside.is_(None) | (message.c.aside == bindparam("aside", type_=Text())))
    if searches:
        conditions.append(message.c.content.icontains(bindparam("text", type_=Text()), escape=LIKE_ESCAPE))
    return CompiledStatement(
        select(*message_columns(message))
        .join(thread, thread.c.thread_id == message.c.thread_id)
        .where(*conditions)
        .order_by(message.c.seq.desc() if backwards else message.c.seq)
        .limit(bindparam("limit", type_=Integer()))
    )


def escaped(text: str) -> str:
    """Return a text with the wildcards of LIKE escaped."""
    for special in (LIKE_ESCAPE, "%", "_"):
        text = text.replace(special, LIKE_ESCAPE + special)
    return text


@lru_cache(MODELS_AT_ONCE)
def chosen_messages(models: Models[Any, Any], *, of_any_user: bool, one: bool = False) -> CompiledStatement:
    """Read the messages ``message_ids`` of the thread ``thread_id`` of ``owner``, in no order.

    Args:
        one: it is one id, not an array.
    """
    message, thread = table_of(models.Message), table_of(models.Thread)
    ids = _message_ids(models, one=one)
    return CompiledStatement(
        select(*message_columns(message))
        .join(thread, thread.c.thread_id == message.c.thread_id)
        .where(
            message.c.thread_id == bindparam("thread_id"),
            message.c.message_id == (ids if one else any_(ids)),
            true() if of_any_user else thread.c.user_id == bindparam("owner"),
        )
    )


@lru_cache(MODELS_AT_ONCE)
def change_message(models: Models[Any, Any], names: tuple[str, ...], *, of_any_user: bool) -> CompiledStatement:
    """Lock the thread ``thread_ids`` of ``owners``, set columns of its message ``message_ids``, and return it.

    Args:
        names: of the columns; the values are ``new_`` and the name.
    """
    table = table_of(models.Message)
    locked = locked_threads(models, of_any_user=of_any_user, waits=True, one=True)
    kinds = kinds_of_messages(models, with_ids=False)
    given = {name: bindparam(f"new_{name}", type_=kinds[name]) for name in names}
    values = {
        name: cast(value, table.c.role.type) if name == "role" else value  # see message_values
        for name, value in given.items()
    }
    return CompiledStatement(
        update(table)
        .where(table.c.thread_id == locked.c.thread_id, table.c.message_id == _message_ids(models, one=True))
        .values(values)
        .returning(*message_columns(table), *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def delete_message(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Lock the thread ``thread_ids`` of ``owners``, and delete its message ``message_ids``."""
    table = table_of(models.Message)
    locked = locked_threads(models, of_any_user=of_any_user, waits=True, one=True)
    return CompiledStatement(
        delete(table)
        .where(table.c.thread_id == locked.c.thread_id, table.c.message_id == _message_ids(models, one=True))
        .returning(table.c.thread_id, table.c.seq, *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def clear_messages(models: Models[Any, Any]) -> CompiledStatement:
    """Delete all messages of the locked thread ``thread_id``; one row with their number, if there were any."""
    table = table_of(models.Message)
    gone = delete(table).where(table.c.thread_id == bindparam("thread_id")).returning(table.c.thread_id, table.c.seq)
    rows = gone.cte("gone")
    counted = select(
        rows.c.thread_id, func.max(rows.c.seq).label("seq"), func.count().label("deleted"), *TRANSACTION_MARKS
    )
    return CompiledStatement(counted.group_by(rows.c.thread_id))


@lru_cache(MODELS_AT_ONCE)
def delete_messages(models: Models[Any, Any]) -> CompiledStatement:
    """Delete the messages ``message_id`` (arrays) of those of their threads that nobody has locked."""
    table = table_of(models.Message)
    locked = locked_threads(models, of_any_user=False, waits=False)
    rows = new_rows(models, {"message_id": models.id_types.id.array_type().item_type})
    ours = rows_of_locked(rows, locked, of_any_user=False)
    due = select(rows.c.thread_id, rows.c.message_id).select_from(ours).subquery("due")
    return CompiledStatement(
        delete(table)
        .where(table.c.thread_id == due.c.thread_id, table.c.message_id == due.c.message_id)
        .returning(table.c.thread_id, table.c.message_id, table.c.seq, *TRANSACTION_MARKS)
    )


def _message_ids(models: Models[Any, Any], *, one: bool) -> Any:
    kind = models.id_types.id.array_type().item_type
    return bindparam("message_ids", type_=kind if one else ARRAY(kind))
