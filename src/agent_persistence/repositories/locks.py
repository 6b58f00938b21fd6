"""Parts of statements that write to threads: the row lock, the touch, and rows given as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BindParameter,
    ColumnElement,
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

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.errors import ThreadNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS
from agent_persistence.sessions.scope import Scope
from agent_persistence.sessions.thread_lock import select_and_lock


async def lock_thread(scope: Scope[IdT, UserIdT], thread_id: IdT) -> UserIdT:
    """Lock a thread of the owner until the transaction ends, and return who owns it.

    Raises:
        ThreadNotFoundError: the thread does not exist.
    """
    locked = await scope.lock(
        lock_one(scope.models, of_any_user=scope.is_any_user), thread_ids=thread_id, owners=scope.owner
    )
    if not locked:
        raise ThreadNotFoundError(thread_id)
    owner: UserIdT = locked[0].user_id
    return owner


async def nudge_thread(scope: Scope[IdT, Any], thread_id: IdT) -> None:
    """Move ``updated_at`` of a locked thread by a microsecond: processes that know its graph see that it was changed.

    The thread keeps its place in the list: only messages, states and checkpoints move it.
    """
    thread = scope.threads
    later = thread.c.updated_at + timedelta(microseconds=1)
    await scope.execute(update(thread).where(thread.c.thread_id == thread_id).values(updated_at=later))


def locked_thread(scope: Scope[IdT, Any], thread_id: IdT) -> CTE:
    """Return a CTE that locks a thread of the owner until the transaction ends; empty if there is none.

    A number that the statement draws below this lock follows the order of commits.
    """
    # A CTE, not a statement before: lock, touch and INSERT take one round trip. PostgreSQL never inlines a CTE that
    # locks rows.
    locked: CTE = select_and_lock(scope.threads.c, scope.thread_of(thread_id)).cte("locked")
    return locked


def locked_threads(
    models: Models[Any, Any], *, of_any_user: bool, waits: bool, one: bool = False, also: Sequence[str] = ()
) -> CTE:
    """Return a CTE that locks the threads ``thread_ids`` of ``owners`` until the transaction ends.

    Args:
        waits: ``False`` leaves out threads that another transaction has locked.
        one: as for ``new_rows``.
        also: more columns of the threads, with their values below the lock.
    """
    thread = table_of(models.Thread).c
    ids, users = thread_ids(models, one=one), owners(models, one=one)
    # Any of these owners may own it here; rows_of_locked then compares each row with the owner of its own thread.
    owned = true() if of_any_user else thread.user_id == (users if one else any_(users))
    is_wanted = thread.thread_id == (ids if one else any_(ids))
    locking = select_and_lock(thread, is_wanted, owned, skip_locked=not waits)
    locked: CTE = locking.add_columns(*[thread[name] for name in also]).cte("locked")
    return locked


def touched_threads(
    models: Models[Any, Any], locked: CTE, seconds: float, *, always: ColumnElement[bool] | None = None
) -> CTE:
    """Return a CTE that sets ``updated_at`` of the locked threads.

    At most once in so many seconds for the first thread of an owner's list: the column is indexed, so each change costs
    a new row version and index entries. For any other thread always, because the list shows the order.

    Args:
        always: a condition on which it is set in any case; the CTE then returns the changed threads.
    """
    thread = table_of(models.Thread)
    other = thread.alias("other")
    # One row at the end of the owner's index. EXISTS with a comparison of rows lost: it was planned as a scan of all.
    first = (
        select(other.c.thread_id)
        .where(other.c.user_id == thread.c.user_id, other.c.archived_at.is_(None))
        .order_by(other.c.updated_at.desc(), other.c.thread_id.desc())
        .limit(1)
        .correlate(thread)
        .scalar_subquery()
    )
    is_due = (thread.c.updated_at <= func.now() - timedelta(seconds=seconds)) | (thread.c.thread_id != first)
    touch = (
        update(thread)
        .where(thread.c.thread_id == locked.c.thread_id, is_due if always is None else is_due | always)
        # Not now(), the start of the transaction: a writer that waited for the lock would stay behind those before it.
        .values(updated_at=func.clock_timestamp())
    )
    return (touch if always is None else touch.returning(thread.c.thread_id, thread.c.updated_at)).cte("touched")


def touched_thread(scope: Scope[Any, Any], locked: CTE) -> CTE:
    """Return a CTE that sets ``updated_at`` of a locked thread; see ``touched_threads``."""
    return touched_threads(scope.models, locked, scope.options.touch_interval)


@lru_cache(MODELS_AT_ONCE)
def lock_one(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Lock the thread ``thread_ids`` of ``owners``, and return its owner."""
    thread = table_of(models.Thread).c
    is_owned = true() if of_any_user else thread.user_id == owners(models, one=True)
    locking = select_and_lock(thread, thread.thread_id == thread_ids(models, one=True), is_owned)
    return CompiledStatement(locking.add_columns(*TRANSACTION_MARKS))


@lru_cache(MODELS_AT_ONCE)
def lock_several(models: Models[Any, Any]) -> CompiledStatement:
    """Lock those of the threads ``thread_ids`` of ``owners`` that nobody else has locked, and return their ids."""
    locked = locked_threads(models, of_any_user=False, waits=False)
    wanted = unnest("wanted", thread_id=thread_ids(models), owner=owners(models))
    return CompiledStatement(select(locked.c.thread_id).select_from(rows_of_locked(wanted, locked, of_any_user=False)))


@lru_cache(MODELS_AT_ONCE)
def lock_and_touch(models: Models[Any, Any], *, touch_seconds: float, of_any_user: bool) -> CompiledStatement:
    """Lock the thread ``thread_ids`` of ``owners`` and set its ``updated_at``; returns its id, if there is one."""
    locked = locked_threads(models, of_any_user=of_any_user, waits=True, one=True)
    return CompiledStatement(select(locked.c.thread_id).add_cte(touched_threads(models, locked, touch_seconds)))


def unnest(name: str, *, numbered: bool = False, **arrays: ColumnElement[Any]) -> Any:
    """Return a table of rows given as one array a column, so that the SQL does not depend on their number.

    Args:
        name: names the table in the statement.
        numbered: add a column ``ordinal``, which counts the rows from 1.
        arrays: the array expressions by column name.
    """
    # VALUES with a parameter per value lost: each number of rows would be another text to parse and plan, and a
    # statement has at most 32,767 parameters.
    columns = [column(each, array.type.item_type) for each, array in arrays.items()]  # type: ignore[attr-defined]  # ARRAY
    ordinality = {"with_ordinality": "ordinal"} if numbered else {}
    return func.unnest(*arrays.values()).table_valued(*columns, **ordinality).render_derived(name=name)


def new_rows(models: Models[Any, Any], columns: dict[str, TypeEngine[Any]], *, one: bool = False) -> Any:
    """Return the rows to write as a table, with parameters named like its columns.

    Beside the columns it has ``thread_id`` and ``owner`` (of the parameters ``thread_ids`` and ``owners``), and
    ``ordinal``.

    Args:
        one: it is one row, given as plain values. Arrays of one cost the server twice as much.
    """
    parameters = {"thread_id": thread_ids(models, one=one), "owner": owners(models, one=one)}
    parameters |= {name: _parameter(name, kind, one=one) for name, kind in columns.items()}
    if one:
        # The columns are those of unnest, so the rest of the statement is the same for one row and for many.
        values = [value.label(name) for name, value in parameters.items()]
        return select(*values, literal_column("1").label("ordinal")).subquery("new")
    return unnest("new", numbered=True, **parameters)


def rows_of_locked(rows: Any, locked: CTE, *, of_any_user: bool) -> Any:
    """Join rows to the locked threads that they belong to."""
    same = rows.c.thread_id == locked.c.thread_id
    return locked.join(rows, same if of_any_user else same & (rows.c.owner == locked.c.user_id))


def owner_of(locked: CTE) -> Any:
    """Return the owner of the one locked thread, as the column ``owner``."""
    return select(locked.c.user_id).scalar_subquery().label("owner")


def thread_ids(models: Models[Any, Any], *, one: bool = False) -> BindParameter[Any]:
    """Return the parameter ``thread_ids``: an array, or one id."""
    return _parameter("thread_ids", _element(models.id_types.id), one=one)


def owners(models: Models[Any, Any], *, one: bool = False) -> BindParameter[Any]:
    """Return the parameter ``owners``: an array, or one owner; unused where threads of any user are meant."""
    return _parameter("owners", _element(models.id_types.user), one=one)


def parameters_of(columns: dict[str, list[Any]], *, one: bool) -> dict[str, Any]:
    """Return the parameters of ``new_rows``, given the values of each column."""
    return {name: values[0] for name, values in columns.items()} if one else columns


def _parameter(name: str, kind: TypeEngine[Any], *, one: bool) -> BindParameter[Any]:
    return bindparam(name, type_=kind if one else ARRAY(kind))


def _element(id_type: Any) -> Any:
    return id_type.array_type().item_type
