"""Statements about states, compiled once for each choice of models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Table, bindparam, column, func, insert, literal_column, select, true

from agent_persistence.driver_statement import MODELS_AT_ONCE, DriverStatement
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.repositories.proofs import MARKS
from agent_persistence.repositories.rows import readable
from agent_persistence.repositories.thread_locks import (
    locked_threads,
    new_rows,
    owner_of,
    rows_of_locked,
    touched_threads,
)

_ONE: Final[Any] = literal_column("1")


def state_columns(state: Table) -> list[Any]:
    """What a ``StateRecord`` is made of."""
    return [
        state.c.thread_id,
        state.c.state_id,
        state.c.state_data,
        state.c.meta,
        readable(state.c.created_at),
        readable(state.c.updated_at),
    ]


@lru_cache(MODELS_AT_ONCE)
def latest_state(models: Models[Any, Any], *, of_anybody: bool) -> DriverStatement:
    """The latest state of ``thread_id``, if it is ``owner``'s."""
    state, thread = table_of(models.State), table_of(models.Thread)
    owns = true() if of_anybody else thread.c.user_id == bindparam("owner")
    return DriverStatement(
        select(*state_columns(state))
        .join(thread, thread.c.thread_id == state.c.thread_id)
        .where(state.c.thread_id == bindparam("thread_id"), owns)
        .order_by(state.c.state_id.desc())
        .limit(_ONE)
    )


@lru_cache(MODELS_AT_ONCE)
def latest_states(models: Models[Any, Any]) -> DriverStatement:
    """The latest state of each of ``thread_ids`` that is the one's of ``owners`` in the same place; and that place."""
    state, thread = table_of(models.State), table_of(models.Thread)
    ids, users = models.id_types.id.array_type(), models.id_types.user.array_type()
    wanted = (
        func.unnest(bindparam("thread_ids", type_=ids), bindparam("owners", type_=users))
        .table_valued(column("thread_id", ids.item_type), column("owner", users.item_type), with_ordinality="place")
        .render_derived(name="wanted")
    )
    latest = (
        select(*state_columns(state))
        .where(state.c.thread_id == wanted.c.thread_id)
        .order_by(state.c.state_id.desc())
        .limit(_ONE)
        .lateral("latest")
    )
    owned = (thread.c.thread_id == wanted.c.thread_id) & (thread.c.user_id == wanted.c.owner)
    return DriverStatement(select(wanted.c.place, latest).select_from(wanted.join(thread, owned).join(latest, true())))


@lru_cache(MODELS_AT_ONCE)
def save_states(
    models: Models[Any, Any], *, touch_seconds: float, of_anybody: bool = False, waits: bool = True
) -> DriverStatement:
    """Lock threads, move their activity and add states, in one round trip; a row comes back for each that was added.

    Args:
        of_anybody: add to one thread, whoever owns it, and say who does.
        waits: ``False`` leaves out threads that somebody else has locked.
    """
    state, thread = table_of(models.State), table_of(models.Thread)
    rows = new_rows(models, {"state_data": state.c.state_data.type, "meta": state.c.meta.type})
    locked = locked_threads(models, thread, of_anybody=of_anybody, waits=waits)
    values = (
        select(locked.c.thread_id, rows.c.state_data, rows.c.meta)
        .select_from(rows_of_locked(rows, locked, of_anybody=of_anybody))
        .order_by(rows.c.place)
    )
    owner = [owner_of(locked)] if of_anybody else []
    return DriverStatement(
        insert(state)
        .from_select(["thread_id", "state_data", "meta"], values, include_defaults=False)
        .add_cte(locked, touched_threads(thread, locked, touch_seconds))
        .returning(state.c.thread_id, state.c.state_id, state.c.created_at, state.c.updated_at, *owner, *MARKS)
    )
