"""Parts of statements that write to several threads: their rows, and the locks that order them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ARRAY, CTE, BindParameter, Table, any_, bindparam, column, func, select, true, update
from sqlalchemy.types import TypeEngine

from agent_persistence.models import Models


def new_rows(models: Models[Any, Any], columns: dict[str, TypeEngine[Any]]) -> Any:
    """The rows to write, as a table: one array a column, so the statement's text does not depend on how many there are.

    Beside the columns it has ``thread_id``, ``owner`` and ``place``.
    """
    ids, users = thread_ids(models), owners(models)
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in columns.items()]
    names = [column("thread_id", _item_type(ids)), column("owner", _item_type(users))]
    names += [column(name, kind) for name, kind in columns.items()]
    return func.unnest(ids, users, *arrays).table_valued(*names, with_ordinality="place").render_derived(name="new")


def locked_threads(models: Models[Any, Any], thread: Table, *, of_anybody: bool, waits: bool) -> CTE:
    """Lock the threads' rows until the transaction ends; those of other owners are not among them.

    Whatever numbers a statement draws below these locks are in the order of commits.

    Args:
        waits: ``False`` leaves out what somebody else has locked.
    """
    owned = true() if of_anybody else thread.c.user_id == any_(owners(models))
    return (
        select(thread.c.thread_id, thread.c.user_id)
        .where(thread.c.thread_id == any_(thread_ids(models)), owned)
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


def thread_ids(models: Models[Any, Any]) -> BindParameter[Any]:
    """The parameter ``thread_ids``."""
    return bindparam("thread_ids", type_=models.id_types.id.array_type())


def owners(models: Models[Any, Any]) -> BindParameter[Any]:
    """The parameter ``owners``; anything will do where anybody's threads are meant."""
    return bindparam("owners", type_=models.id_types.user.array_type())


def _item_type(array: BindParameter[Any]) -> Any:
    kind: Any = array.type
    return kind.item_type
