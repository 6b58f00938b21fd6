"""What a host writes through the mapped classes themselves, so that cached states hear of it.

Objects that a flush writes, and ORM-enabled ``insert()``, ``update()`` and ``delete()``. What passes the ORM by (Core
statements on the table, text, the legacy bulk methods, an insert from a select) is not seen: say it with
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
from agent_persistence.sessions.commit_hooks import touch, touch_written, watch_of
from agent_persistence.sessions.scope import Query

# The names of a compiled INSERT's parameters: of one row, and of several.
_THREAD_PARAMETER: Final = re.compile(r"thread_id(_m\d+)?")


def listen_to_statements(session: Session | type[Session]) -> None:
    """Have the ORM-enabled statements of a session, or of a class of sessions, seen. Flushes are seen without."""
    event.listen(session, "do_orm_execute", _before_statement)


@event.listens_for(StateMixin, "after_insert", propagate=True)
@event.listens_for(StateMixin, "after_update", propagate=True)
@event.listens_for(StateMixin, "after_delete", propagate=True)
def _after_state(_mapper: Mapper[Any], _connection: Connection, state: StateMixin[Any]) -> None:
    session, of = object_session(state), inspect(state)
    if session is not None:
        # Both where a host gave a state to another thread; a new one has no identity yet.
        for thread_id in {of.dict.get("thread_id"), *(of.identity or ())[:1]} - {None}:
            touch_written(session, thread_id)


@event.listens_for(ThreadMixin, "before_delete", propagate=True)
def _before_deletion(_mapper: Mapper[Any], connection: Connection, thread: ThreadMixin[Any, Any]) -> None:
    session = object_session(thread)
    if session is not None and watch_of(session) is not None:
        table, [thread_id] = table_of(type(thread)), inspect(thread).identity
        _touch(session, connection.execute(_lock(table.c).where(table.c.thread_id == thread_id)))


@event.listens_for(ThreadMixin, "before_update", propagate=True)
def _before_change(mapper: Mapper[Any], connection: Connection, thread: ThreadMixin[Any, Any]) -> None:
    """A thread that goes to another owner must not be shown to its owner so far any more."""
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
        for rows in _rows_of(execution, mapper.class_, _lock(mapper.class_)):
            _touch(execution.session, rows)


def _threads_written(execution: ORMExecuteState, mapper: Mapper[Any]) -> Iterator[Any]:
    """The threads that a statement names, and those of the rows that it picks."""
    yield from (row["thread_id"] for row in _parameters(execution) if "thread_id" in row)
    yield from _threads_in_values(execution.statement, execution.session.get_bind(mapper).dialect)
    if not execution.is_insert:
        for rows in _rows_of(execution, mapper.class_, select(mapper.class_.thread_id).distinct()):
            yield from rows.scalars()


def _threads_in_values(statement: Executable, dialect: Dialect) -> Iterator[Any]:
    """The threads that stand in the ``values()`` of an INSERT or UPDATE."""
    if isinstance(statement, Insert):
        # An INSERT of many rows could only be compiled with its rows at hand; only what is in the statement is wanted.
        statement = statement._annotate({"dml_strategy": "raw"})  # noqa: SLF001 - there is no public way to say so
    if isinstance(statement, Insert | Update):
        values = statement.compile(dialect=dialect).params.items()
        yield from (value for name, value in values if value is not None and _THREAD_PARAMETER.fullmatch(name))


def _rows_of(execution: ORMExecuteState, model: Any, statement: Query) -> Iterator[Result[Any]]:
    """Select what an UPDATE or DELETE is about to write, by its own condition; what waits to be flushed comes first."""
    where, parameters = getattr(execution.statement, "whereclause", None), _parameters(execution) or [{}]
    if where is None and isinstance(execution.parameters, list):
        # The keys of the rows are named, and with them the threads: what is to be found out is who owned them so far.
        where, parameters = model.thread_id == bindparam("thread_id"), [row for row in parameters if "user_id" in row]
    for row in parameters:
        found = statement if where is None else statement.where(where)
        yield execution.session.execute(found, row, bind_arguments=execution.bind_arguments)


def _parameters(execution: ORMExecuteState) -> Sequence[Mapping[str, Any]]:
    parameters = execution.parameters or []
    return [parameters] if isinstance(parameters, Mapping) else parameters


def _lock(thread: Any) -> Query:
    return select(thread.thread_id, thread.user_id).with_for_update(key_share=True)


def _touch(session: Session, rows: Result[Any]) -> None:
    for row in rows:
        touch(session, TouchedState(row.thread_id, row.user_id))
        touch_written(session, row.thread_id)
