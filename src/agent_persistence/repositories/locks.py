"""Parts of statements that write to several threads: their rows, and the locks that order them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BindParameter,
    Table,
    any_,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.types import TypeEngine

from agent_persistence.models import Models


def new_rows(models: Models[Any, Any], columns: dict[str, TypeEngine[Any]], *, one: bool = False) -> Any:
    """The rows to write, as a table: one array a column, so the statement's text does not depend on how many there are.

    Beside the columns it has ``thread_id``, ``owner`` and ``place``.

    Args:
        one: it is one row, of plain values: half of what arrays of one cost the server.
    """
    parameters = {"thread_id": thread_ids(models, one=one), "owner": owners(models, one=one)}
    parameters |= {name: _parameter(name, kind, one=one) for name, kind in columns.items()}
    if one:
        values = [value.label(name) for name, value in parameters.items()]
        return select(*values, literal_column("1").label("place")).subquery("new")
    kinds = {"thread_id": _id_type(models), "owner": _owner_type(models), **columns}
    names = [column(name, kind) for name, kind in kinds.items()]
    return func.unnest(*parameters.values()).table_valued(*names, with_ordinality="place").render_derived(name="new")


def locked_threads(models: Models[Any, Any], thread: Table, *, of_anybody: bool, waits: bool, one: bool = False) -> CTE:
    """Lock the threads' rows until the transaction ends; those of other owners are not among them.

    Whatever numbers a statement draws below these locks are in the order of commits.

    Args:
        waits: ``False`` leaves out what somebody else has locked.
        one: as for ``new_rows``.
    """
    wanted, users = thread_ids(models, one=one), owners(models, one=one)
    owned = true() if of_anybody else thread.c.user_id == (users if one else any_(users))
    return (
        select(thread.c.thread_id, thread.c.user_id)
        .where(thread.c.thread_id == (wanted if one else any_(wanted)), owned)
        .with_for_update(key_share=True, skip_locked=not waits)
        .cte("locked")
    )


def touched_threads(thread: Table, locked: CTE, seconds: float) -> CTE:
    """Move ``updated_at``, at most once in so many seconds: it is indexed, so each move costs."""
    due = func.now() - timedelta(seconds=seconds)
    return (
        update(thread)
        .where(thread.c.thread_id == locked.c.thread_id, thread.c.updated_at <= due)
        .values(updated_at=func.now())
        .cte("touched")
    )


def rows_of_locked(rows: Any, locked: CTE, *, of_anybody: bool) -> Any:
    """Join the new rows to the locked threads that they belong to."""
    same = rows.c.thread_id == locked.c.thread_id
    return locked.join(rows, same if of_anybody else same & (rows.c.owner == locked.c.user_id))


def owner_of(locked: CTE) -> Any:
    """Whose the one locked thread is, as the column ``owner``."""
    return select(locked.c.user_id).scalar_subquery().label("owner")


def thread_ids(models: Models[Any, Any], *, one: bool) -> BindParameter[Any]:
    """The parameter ``thread_ids``."""
    return _parameter("thread_ids", _id_type(models), one=one)


def owners(models: Models[Any, Any], *, one: bool) -> BindParameter[Any]:
    """The parameter ``owners``; anything will do where anybody's threads are meant."""
    return _parameter("owners", _owner_type(models), one=one)


def values_of(columns: dict[str, list[Any]], *, one: bool) -> dict[str, Any]:
    """The parameters for ``new_rows``, of the columns of what is to be written."""
    return {name: values[0] for name, values in columns.items()} if one else columns


def _parameter(name: str, kind: TypeEngine[Any], *, one: bool) -> BindParameter[Any]:
    return bindparam(name, type_=kind if one else ARRAY(kind))


def _id_type(models: Models[Any, Any]) -> Any:
    return models.id_types.id.array_type().item_type


def _owner_type(models: Models[Any, Any]) -> Any:
    return models.id_types.user.array_type().item_type
