"""Watches writes of the host through the mapped classes, so that cached states follow them.

Seen are flushed objects and ORM-enabled ``insert()``, ``update()`` and ``delete()``. Writes that bypass the ORM (Core
statements on the table, text, the legacy bulk methods, an insert from a select) are not seen: report them with
``uow.states.touch``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Executable, Insert, Result, Update, bindparam, event, inspect, select
from sqlalchemy.orm import Mapper, ORMExecuteState, Session, object_session

from agent_persistence.models import StateMixin, ThreadMixin
from agent_persistence.models.base import table_of
from agent_persistence.records import TouchedState
from agent_persistence.sessions.commit_hooks import (
    CacheWatch,
    listen_to_commits,
    start_watch,
    touch,
    touch_written,
    watch_of,
)
from agent_persistence.sessions.thread_lock import select_and_lock

# A compiled INSERT names its parameters so, for one row and for several.
_THREAD_PARAMETER: Final = re.compile(r"thread_id(_m\d+)?")


def watch_session(session: Session, watch: CacheWatch) -> None:
    """Call the hooks of a watch around the commits of a session, from now on.

    Raises:
        InvalidInputError: the session is bound to another ``Persistence``.
    """
    if start_watch(session, watch) and not isinstance(session, WatchedSession):
        _listen(session)


class WatchedSession(Session):
    """A session whose class has the listeners: adding them to each session would cost ten microseconds apiece."""


# It never connects: only its listeners are looked at, which are those of every session.
_ANY_SESSION: Final = Session()


def observes_sessions() -> bool:
    """Whether the host has listeners on all sessions, which want to see every transaction."""
    told = _ANY_SESSION.dispatch
    return bool(
        told.after_begin
        or told.before_commit
        or told.after_commit
        or told.after_rollback
        or told.after_soft_rollback
        or told.after_transaction_create
        or told.after_transaction_end
        or told.do_orm_execute
    )


def _listen(session: Session | type[Session]) -> None:
    listen_to_commits(session)
    event.listen(session, "do_orm_execute", _before_statement)  # flushes are seen by the listeners of the mixins


@event.listens_for(StateMixin, "after_insert", propagate=True)
@event.listens_for(StateMixin, "after_update", propagate=True)
@event.listens_for(StateMixin, "after_delete", propagate=True)
def _after_state(_mapper: Mapper[Any], _connection: Connection, state: StateMixin[Any]) -> None:
    session, of = object_session(state), inspect(state)
    if session is not None:
        # Two threads where the host moved a state to another one; a new state has no identity yet.
        for thread_id in {of.dict.get("thread_id"), *(of.identity or ())[:1]} - {None}:
            touch_written(session, thread_id)


@event.listens_for(ThreadMixin, "before_delete", propagate=True)
def _before_deletion(_mapper: Mapper[Any], connection: Connection, thread: ThreadMixin[Any, Any]) -> None:
    session = object_session(thread)
    if session is not None and watch_of(session) is not None:
        table, [thread_id] = table_of(type(thread)), inspect(thread).identity
        _touch(session, connection.execute(select_and_lock(table.c, table.c.thread_id == thread_id)))


@event.listens_for(ThreadMixin, "before_update", propagate=True)
def _before_change(mapper: Mapper[Any], connection: Connection, thread: ThreadMixin[Any, Any]) -> None:
    """Withdraw the cached state of a thread that gets another owner: its previous owner must not read it any more."""
    if inspect(thread).attrs.user_id.history.has_changes():
        _before_deletion(mapper, connection, thread)


def _before_statement(execution: ORMExecuteState) -> None:
    mapper, writes = execution.bind_mapper, execution.is_insert or execution.is_update or execution.is_delete
    if mapper is None or not writes or watch_of(execution.session) is None:
        return
    if issubclass(mapper.class_, StateMixin):
        for thread_id in _threads_written(execution, mapper):
            touch_written(execution.session, thread_id)
    elif issubclass(mapper.class_, ThreadMixin) and not execution.is_insert:
        for rows in _rows_of(execution, mapper.class_, select_and_lock(mapper.class_)):
            _touch(execution.session, rows)


def _threads_written(execution: ORMExecuteState, mapper: Mapper[Any]) -> Iterator[Any]:
    """Yield the threads that a statement names, and those of the rows that it will change."""
    yield from (row["thread_id"] for row in _parameters(execution) if "thread_id" in row)
    yield from _threads_in_values(execution.statement, execution.session.get_bind(mapper).dialect)
    if not execution.is_insert:
        for rows in _rows_of(execution, mapper.class_, select(mapper.class_.thread_id).distinct()):
            yield from rows.scalars()


def _threads_in_values(statement: Executable, dialect: Dialect) -> Iterator[Any]:
    """Yield the threads in the ``values()`` of an INSERT or UPDATE."""
    if isinstance(statement, Insert):
        # An INSERT of many rows compiles only together with its rows; wanted are the values in the statement alone.
        statement = statement._annotate({"dml_strategy": "raw"})  # noqa: SLF001 - SQLAlchemy has no public way
    if isinstance(statement, Insert | Update):
        values = statement.compile(dialect=dialect).params.items()
        yield from (value for name, value in values if value is not None and _THREAD_PARAMETER.fullmatch(name))


def _rows_of(execution: ORMExecuteState, model: Any, statement: Any) -> Iterator[Result[Any]]:
    """Select the rows that an UPDATE or DELETE will change, by its condition; pending objects are flushed first."""
    where, parameters = getattr(execution.statement, "whereclause", None), _parameters(execution) or [{}]
    if where is None and isinstance(execution.parameters, list):
        # A bulk UPDATE by primary key names the threads; to be found out are their owners so far.
        where, parameters = model.thread_id == bindparam("thread_id"), [row for row in parameters if "user_id" in row]
    for row in parameters:
        found = statement if where is None else statement.where(where)
        yield execution.session.execute(found, row, bind_arguments=execution.bind_arguments)


def _parameters(execution: ORMExecuteState) -> Sequence[Mapping[str, Any]]:
    parameters = execution.parameters or []
    return [parameters] if isinstance(parameters, Mapping) else parameters


def _touch(session: Session, rows: Result[Any]) -> None:
    for row in rows:
        touch(session, TouchedState(row.thread_id, row.user_id))
        touch_written(session, row.thread_id)


_listen(WatchedSession)
