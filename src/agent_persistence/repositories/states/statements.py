"""Statements on states, compiled once for each set of models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    LargeBinary,
    Table,
    Text,
    any_,
    bindparam,
    case,
    cast,
    delete,
    false,
    func,
    insert,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.types import TypeEngine

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.encoding.recent_states import RecentState
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.models.json_type import json_bytes
from agent_persistence.models.state_versions import state_versions
from agent_persistence.repositories.locks import (
    locked_threads,
    new_rows,
    owner_of,
    owners,
    rows_of_locked,
    thread_ids,
    touched_threads,
    unnest,
)
from agent_persistence.repositories.numbering import is_latest
from agent_persistence.repositories.rows import readable
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS

_ONE: Final[Any] = literal_column("1")


def state_columns(state: Table) -> list[Any]:
    """Return the columns from which ``whole_states`` makes a ``StateRecord``."""
    return [
        state.c.thread_id,
        state.c.state_id,
        json_bytes(state.c.state_data),
        state.c.base_id,
        state.c.stream_id,
        state.c.meta,
        readable(state.c.created_at),
        readable(state.c.updated_at),
    ]


def _latest_columns(state: Table, known: Any) -> list[Any]:
    """Return the columns from which ``latest_record`` makes a ``StateRecord``.

    Args:
        known: the parameters of ``known_states`` as columns: the contents of this version are left out. ``None`` leaves
            out what a change rests on, which costs every other row 20 us of the server.
    """
    columns = {each.name: each for each in state_columns(state)}
    if known is not None:
        is_known = _is_same_row(state, known.known_version, known.known_mark)
        columns["links"] = _links(state)
        for name in ("state_data", "links"):
            columns[name] = case((is_known.is_not(true()), columns[name])).label(name)
        columns["is_known"] = is_known.label("is_known")
    return list(columns.values())


def _links(state: Table) -> ColumnElement[Any]:
    """Return what a change rests on: the JSON of a whole version and of the changes since, the oldest first.

    Computed only for a row that is a change.
    """
    base, link = state.alias("base"), state.alias("link")
    # The recursion follows keys only; the contents are joined once afterwards, so that no step copies a state.
    chain = select(state.c.state_id, state.c.base_id).correlate(state).cte("chain", recursive=True, nesting=True)
    is_base = (base.c.thread_id == state.c.thread_id) & (base.c.state_id == chain.c.base_id)
    chain = chain.union_all(select(base.c.state_id, base.c.base_id).where(is_base).correlate(state))
    json = func.convert_to(cast(func.coalesce(link.c.patch, link.c.state_data), Text), "UTF8")
    links = (
        select(func.array_agg(aggregate_order_by(json, link.c.state_id), type_=ARRAY(LargeBinary)))
        .where(link.c.thread_id == state.c.thread_id, link.c.state_id == chain.c.state_id)
        .correlate(state)
        .scalar_subquery()
    )
    return case((state.c.base_id.is_not(None), links)).label("links")


def _is_same_row(state: Any, version: Any, mark: Any) -> Any:
    """Return the condition that a row is the version with this mark, whose contents are as they were saved."""
    return (state.c.state_id == version) & (state.c.mark == mark)


@lru_cache(MODELS_AT_ONCE)
def latest_state(models: Models[Any, Any], *, of_any_user: bool, knows: bool) -> CompiledStatement:
    """Read the latest state of the thread ``thread_id`` of ``owner``.

    Args:
        knows: also read what a change rests on, and leave out what the parameters of ``known_states`` name.
    """
    state, thread = table_of(models.State), table_of(models.Thread)
    owns = true() if of_any_user else thread.c.user_id == bindparam("owner")
    known = SimpleNamespace(**{name: bindparam(name, type_=kind) for name, kind in _KNOWN.items()})
    return CompiledStatement(
        select(*_latest_columns(state, known if knows else None))
        .join(thread, thread.c.thread_id == state.c.thread_id)
        .where(state.c.thread_id == bindparam("thread_id"), owns)
        .order_by(state.c.state_id.desc())
        .limit(_ONE)
    )


@lru_cache(MODELS_AT_ONCE)
def latest_states(models: Models[Any, Any], *, knows: bool) -> CompiledStatement:
    """Read the latest states of ``thread_ids``, each of the owner at the same index, and that index from 1.

    Args:
        knows: as in ``latest_state``; each parameter is an array.
    """
    state, thread = table_of(models.State), table_of(models.Thread)
    arrays = {name: bindparam(name, type_=ARRAY(kind)) for name, kind in _KNOWN.items()} if knows else {}
    wanted = unnest("wanted", numbered=True, thread_id=thread_ids(models), owner=owners(models), **arrays)
    latest = (
        select(*_latest_columns(state, wanted.c if knows else None))
        .where(state.c.thread_id == wanted.c.thread_id)
        .order_by(state.c.state_id.desc())
        .limit(_ONE)
        .lateral("latest")
    )
    owned = (thread.c.thread_id == wanted.c.thread_id) & (thread.c.user_id == wanted.c.owner)
    return CompiledStatement(
        select(wanted.c.ordinal, latest).select_from(wanted.join(thread, owned).join(latest, true()))
    )


_KNOWN: Final[dict[str, TypeEngine[Any]]] = {
    "known_version": BigInteger(),
    "known_mark": BigInteger(),
}


def known_states(states: Sequence[RecentState | None]) -> dict[str, list[Any]]:
    """Return the parameters that name the versions whose contents the caller has, as rows in the same state."""
    return {
        "known_version": [state and state.version for state in states],
        "known_mark": [state and state.mark for state in states],
    }


@lru_cache(MODELS_AT_ONCE)
def lock_to_compare(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Lock the thread ``thread_ids`` of ``owners``, and return the isolation level of the transaction."""
    locked = locked_threads(models, of_any_user=of_any_user, waits=True, one=True)
    isolation = func.current_setting("transaction_isolation").label("isolation")
    return CompiledStatement(select(locked.c.thread_id, isolation))


@lru_cache(MODELS_AT_ONCE)
def latest_version(models: Models[Any, Any]) -> CompiledStatement:
    """Read the latest version of ``thread_id``, or 0."""
    state = table_of(models.State)
    latest = func.coalesce(func.max(state.c.state_id), 0).label("version")
    return CompiledStatement(select(latest).where(state.c.thread_id == bindparam("thread_id")))


@lru_cache(MODELS_AT_ONCE)
def links_of_states(models: Models[Any, Any]) -> CompiledStatement:
    """Read ``versions`` of ``thread_ids`` and all versions that these rest on, with JSON as bytes."""
    state = table_of(models.State)
    versions = bindparam("versions", type_=ARRAY(BigInteger))
    wanted = unnest("wanted", thread_id=thread_ids(models), state_id=versions)
    key = [state.c.thread_id, state.c.state_id, state.c.base_id]
    first = state.join(wanted, (state.c.thread_id == wanted.c.thread_id) & (state.c.state_id == wanted.c.state_id))
    # The recursion follows keys only; the contents are joined once afterwards, so that no step copies a state.
    chain = select(*key).select_from(first).cte("chain", recursive=True)
    base = (state.c.thread_id == chain.c.thread_id) & (state.c.state_id == chain.c.base_id)
    chain = chain.union(
        select(*key).select_from(chain.join(state, base))
    )  # UNION: a version that several rest on is read once
    json = [func.convert_to(cast(state.c[name], Text), "UTF8").label(name) for name in ("state_data", "patch")]
    same = (state.c.thread_id == chain.c.thread_id) & (state.c.state_id == chain.c.state_id)
    return CompiledStatement(select(*key, *json).select_from(chain.join(state, same)))


@lru_cache(MODELS_AT_ONCE)
def save_states(
    models: Models[Any, Any],
    *,
    touch_seconds: float,
    changes: bool = False,
    of_any_user: bool = False,
    waits: bool = True,
    one: bool = False,
) -> CompiledStatement:
    """Lock threads, set their ``updated_at`` and add states, in one round trip; returns a row for each added state.

    Args:
        changes: some states are changes of another version; if that is not as it was, they are not added.
        of_any_user: add to one thread of any owner, and return the owner.
        waits: ``False`` leaves out threads that another transaction has locked.
        one: it is one state.
    """
    state = table_of(models.State)
    names = ["state_data", "meta", "mark", *(["patch", "base_id"] if changes else [])]
    # JSON goes as bytes: as text it would be decoded here and encoded by the driver, each a copy of the state.
    json = {"state_data", "patch"}
    columns: dict[str, Any] = {name: LargeBinary() if name in json else state.c[name].type for name in names}
    if changes:
        columns |= {"base_mark": BigInteger()}
    rows = new_rows(models, columns, one=one)
    locked = locked_threads(models, of_any_user=of_any_user, waits=waits, one=one)
    source = rows_of_locked(rows, locked, of_any_user=of_any_user)
    chosen = [_from_bytes(rows.c[name]) if name in json else rows.c[name] for name in names]
    values = select(locked.c.thread_id, *chosen).order_by(rows.c.ordinal)
    if changes:
        base = _locked_bases(state, locked, one=one)
        # Compared here, where the row is written, and not when the patch is made: between the two another process may
        # have pruned, restored or failed over.
        source = source.outerjoin(base, _is_base(base, rows))
        values = values.where(rows.c.base_id.is_(None) | base.c.state_id.is_not(None))
    owner = [owner_of(locked)] if of_any_user else []
    returned = [state.c.thread_id, state.c.state_id, state.c.created_at, state.c.updated_at, state.c.mark]
    return CompiledStatement(
        insert(state)
        .from_select(["thread_id", *names], values.select_from(source), include_defaults=False)
        .add_cte(locked, touched_threads(models, locked, touch_seconds))
        .returning(*returned, is_latest(state, "state_id"), *owner, *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def saved_states(models: Models[Any, Any]) -> CompiledStatement:
    """Look for states by their ``marks`` in ``thread_ids``, after the reply to ``save_states`` was lost.

    Returns a row for each mark: what ``save_states`` returned, or NULL; whether the state may have been deleted since,
    because others of the thread were in the last ``seconds``; and whether the server is a standby.

    Older states of a thread are deleted first: while one is left from before the INSERT (``after``), this one was not.
    """
    state, thread = table_of(models.State), table_of(models.Thread)
    marks, afters = (bindparam(name, type_=ARRAY(BigInteger)) for name in ("marks", "afters"))
    wanted = unnest("wanted", thread_id=thread_ids(models), mark=marks, after=afters)
    # A second more, for what the clocks of client and server run apart in the meantime.
    since = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, bindparam("seconds", type_=Double()) + 1)
    had_deletions = func.coalesce(thread.c.states_deleted_at.between(since, func.now()), false())
    older = state.alias("older")
    is_older = (older.c.thread_id == wanted.c.thread_id) & (older.c.state_id <= wanted.c.after)
    same = (state.c.thread_id == wanted.c.thread_id) & (state.c.mark == wanted.c.mark)
    return CompiledStatement(
        select(
            wanted.c.thread_id,
            state.c.state_id,
            state.c.created_at,
            state.c.updated_at,
            state.c.mark,
            (had_deletions & ~select(older.c.state_id).where(is_older).exists()).label("may_be_deleted"),
            func.pg_is_in_recovery().label("in_recovery"),
        ).select_from(wanted.outerjoin(thread, thread.c.thread_id == wanted.c.thread_id).outerjoin(state, same))
    )


def _from_bytes(utf8: ColumnElement[bytes]) -> ColumnElement[Any]:
    return cast(func.convert_from(utf8, "UTF8"), JSONB)


def _locked_bases(state: Table, locked: CTE, *, one: bool) -> CTE:
    """Return a CTE of the versions ``base_id`` of the locked threads, which stay until the transaction ends.

    Locked, because the snapshot may be older than the thread's lock: it still shows a base that was deleted while the
    statement waited, and the foreign key would refuse the change.
    """
    base = state.alias("base")
    base_ids = bindparam("base_id", type_=BigInteger() if one else ARRAY(BigInteger))
    is_wanted = (base.c.thread_id == locked.c.thread_id) & (base.c.state_id == (base_ids if one else any_(base_ids)))
    bases: CTE = (
        select(base.c.thread_id, base.c.state_id, base.c.mark)
        .select_from(locked.join(base, is_wanted))
        .with_for_update(read=True, key_share=True, of=base)
        .cte("bases")
    )
    return bases


def _is_base(base: Any, rows: Any) -> Any:
    """Return the condition that a version is the one that a row was compared to, and not rewritten since."""
    is_same = _is_same_row(base, rows.c.base_id, rows.c.base_mark)
    return (base.c.thread_id == rows.c.thread_id) & is_same


@lru_cache(MODELS_AT_ONCE)
def delete_due(models: Models[Any, Any], *, keeps: bool, ages: bool = False) -> CompiledStatement:
    """Delete states of the locked thread ``thread_id``; those that rest on them and stay are made whole first.

    Args:
        keeps: the ``keep`` newest stay; else none.
        ages: only states that were saved before the time ``before``.
    """
    state = table_of(models.State)
    thread_id = bindparam("thread_id", type_=state.c.thread_id.type)
    conditions = [state.c.thread_id == thread_id]
    if keeps:
        conditions.append(state.c.state_id <= newest_to_go(state, thread_id, bindparam("keep", type_=Integer())))
    if ages:
        conditions.append(state.c.created_at < bindparam("before", type_=state.c.created_at.type))
    doomed = select(state.c.thread_id, state.c.state_id).where(*conditions).cte("doomed")
    deleted: Any = delete_states(models, doomed)
    return CompiledStatement(deleted.returning(*TRANSACTION_MARKS))


def newest_to_go(states: Table, thread_id: Any, keep_last: Any) -> Any:
    """Return the newest version of a thread that is not among its last ones."""
    newer = states.alias()
    return (
        select(newer.c.state_id)
        .where(newer.c.thread_id == thread_id)
        .order_by(newer.c.state_id.desc())
        .offset(keep_last)
        .limit(1)
        .scalar_subquery()
    )


def delete_states(models: Models[Any, Any], doomed: Any) -> Any:
    """Return the DELETE of versions; those that rest on them and stay are made whole first.

    The caller has locked the threads by an earlier statement: this one must see every version. Their
    ``states_deleted_at`` tells a writer whose reply was lost that its state may be gone.

    Args:
        doomed: a CTE with ``thread_id`` and ``state_id`` of the versions to delete.
    """
    state, thread = table_of(models.State), table_of(models.Thread)
    also = doomed.alias("also")
    view = state_versions(state)
    whole = select(view.c.state_data).where(view.c.thread_id == state.c.thread_id, view.c.state_id == state.c.state_id)
    is_doomed = select(also.c.state_id).where(
        also.c.thread_id == state.c.thread_id, also.c.state_id == state.c.state_id
    )
    values = {
        "state_data": whole.scalar_subquery(),
        "base_id": None,
        "patch": None,
        "updated_at": state.c.updated_at,  # the state itself does not change
    }
    folded = (
        update(state)
        .where(state.c.thread_id == doomed.c.thread_id, state.c.base_id == doomed.c.state_id, ~is_doomed.exists())
        .values(values)
        .cte("folded")
    )
    noted = (
        update(thread)
        .where(thread.c.thread_id.in_(select(also.c.thread_id)))
        .values(states_deleted_at=func.clock_timestamp())
        .cte("noted")
    )
    due = (state.c.thread_id == doomed.c.thread_id) & (state.c.state_id == doomed.c.state_id)
    # One statement: both parts see the rows as they were, and the foreign key of bases is checked at its end.
    return delete(state).where(due).add_cte(folded, noted).returning(state.c.thread_id, state.c.state_id)
