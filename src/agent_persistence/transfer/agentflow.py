"""Copies the tables of the frameworks' ``PgCheckpointer``, a thread at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    select,
    table,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.database.driver_errors import translated
from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.encoding.json_escapes import to_storable
from agent_persistence.errors import ConflictError, InvalidInputError, ThreadExistsError
from agent_persistence.ids import IdTypes
from agent_persistence.integrations.checkpointing.conversion import thread_meta, to_new_message
from agent_persistence.integrations.checkpointing.run_config import exact_id, message_key
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewThread
from agent_persistence.sessions.scope import Query
from agent_persistence.transfer.source import UNREADABLE, connect_to_source, unreadable

_BATCH_SIZE: Final = 100
_REQUIRED_TABLES: Final = ("threads", "messages", "states")
_THREAD_ID: Final[ColumnElement[Any]] = column("thread_id")
_YEARS: Final = (
    literal_column("timestamptz '0001-01-02Z'", DateTime(timezone=True)),
    literal_column("timestamptz '9999-12-30Z'", DateTime(timezone=True)),
)
_TOOL_RESULTS: Final = "tool_executions"  # only Agentflow has this table


class CopyOutcome(StrEnum):
    """The outcome of copying a thread."""

    COPIED = "copied"
    PRESENT = "present already"
    REFUSED = "refused"


class CopiedThread(NamedTuple):
    """A thread of the old tables, and the outcome of copying it.

    Attributes:
        thread_id: as in the old tables.
        messages, states: how many were copied.
        reason: why the thread was refused.
    """

    thread_id: Any
    outcome: CopyOutcome
    messages: int = 0
    states: int = 0
    reason: str | None = None


class _Thread(NamedTuple):
    """A thread to be created; its times are ``None``, or absent from ``message_times``, where they are not known."""

    new: NewThread[Any]
    owner: Any
    tool_results: Mapping[str, Any]
    created_at: datetime | None
    updated_at: datetime | None
    message_times: Mapping[Any, datetime]


async def copy_tables(
    source: DatabaseUrl, persistence: Persistence[Any, Any], *, schema: str
) -> AsyncGenerator[CopiedThread, None]:
    """Copy each thread with its messages, states and tool results in one transaction; leave existing threads alone.

    The old tables are read in one snapshot: rows that are written during the copy are not seen.

    Args:
        source: the database that a ``PgCheckpointer`` wrote to.
        persistence: the open store to copy to.
        schema: the schema of the old tables.

    Yields:
        Each thread, when it is copied.

    Raises:
        InvalidInputError: the schema has no such tables.
        UnavailableError: the connection to one of the databases was lost.
    """
    # Threads, messages and states are read by several statements, which must see the same rows.
    snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    async with connect_to_source(source, **snapshot) as connection:
        tables = _Tables(connection, schema)
        await tables.check()
        last: Any = None
        # A batch takes one query a table, however many threads have no messages, states or results.
        while threads := await tables.threads_after(last):
            last = threads[-1].thread_id
            contents = await tables.contents([thread.thread_id for thread in threads])
            for thread in threads:
                yield await _copy(persistence, thread, contents[thread.thread_id])


# --- Writing ---


async def _copy(persistence: Persistence[Any, Any], row: Any, content: Mapping[str, list[Any]]) -> CopiedThread:
    try:
        thread = _converted(row, content, persistence.models.id_types)
        await persistence.run(partial(_add, models=persistence.models, thread=thread), user_id=thread.owner)
    except ThreadExistsError:
        return CopiedThread(row.thread_id, CopyOutcome.PRESENT)
    except (InvalidInputError, ConflictError) as refusal:
        return CopiedThread(row.thread_id, CopyOutcome.REFUSED, reason=str(refusal))
    except UNREADABLE as error:
        return CopiedThread(row.thread_id, CopyOutcome.REFUSED, reason=unreadable(error))
    return CopiedThread(row.thread_id, CopyOutcome.COPIED, len(content["messages"]), len(content["states"]))


async def _add(uow: UnitOfWork[Any, Any], *, models: Models[Any, Any], thread: _Thread) -> None:
    thread_id = thread.new.thread_id
    await uow.threads.create_many([thread.new])
    # By an update afterwards: the repositories leave the times of new rows to the database.
    await _set_times(uow, models, thread)
    for tool_call_id, result in thread.tool_results.items():
        await uow.tool_results.record(thread_id, tool_call_id, result)


async def _set_times(uow: UnitOfWork[Any, Any], models: Models[Any, Any], thread: _Thread) -> None:
    """Replace the times of the copy by the original ones, as far as they are known."""
    threads, messages, thread_id = table_of(models.Thread), table_of(models.Message), thread.new.thread_id
    used = [time for time in (thread.updated_at, *thread.message_times.values()) if time is not None]
    known = {"created_at": thread.created_at, "updated_at": max(used, default=None)}
    values = {name: time for name, time in known.items() if time is not None}
    rows = [{"id": message_id, "time": time} for message_id, time in thread.message_times.items()]
    is_message = (messages.c.thread_id == thread_id) & (messages.c.message_id == bindparam("id"))
    with translated():
        if values:
            await uow.session.execute(update(threads).where(threads.c.thread_id == thread_id).values(values))
        if rows:
            await uow.session.execute(update(messages).where(is_message).values(created_at=bindparam("time")), rows)


# --- Converting ---


def _converted(row: Any, content: Mapping[str, list[Any]], id_types: IdTypes[Any, Any]) -> _Thread:
    metadata = dict(_object(row.meta, "meta"))
    run_id = metadata.pop("run_id", None)
    if not isinstance(run_id, str | None):
        metadata, run_id = metadata | {"run_id": run_id}, None  # the application's own
    messages = content["messages"]
    new: NewThread[Any] = NewThread(
        thread_id=exact_id(row.thread_id, id_types.id, "thread_id"),
        name=row.thread_name,
        meta=thread_meta(metadata, run_id),
        messages=[to_new_message(_dump(message), id_types.id, None) for message in messages],
        states=[to_storable(_json(state.state_data, "state_data")) for state in content["states"]],
    )
    return _Thread(
        new,
        exact_id(row.user_id, id_types.user, "user_id"),
        {result.tool_call_id: to_storable(_json(result.result, "result")) for result in content["results"]},
        row.created_at,
        row.updated_at,
        {
            message_key(message.message_id, id_types.id): message.created_at
            for message in messages
            if message.created_at
        },
    )


def _dump(row: Any) -> dict[str, Any]:
    """Return the dump of the message that the framework would read from a row."""
    name = f"messages[{row.message_id}]"
    return {
        "message_id": row.message_id,
        "role": row.role,
        "content": _blocks(row.content),
        "delta": False,
        "tools_calls": _json(row.tool_calls, f"{name}.tool_calls"),
        "reasoning": row.reasoning,
        "timestamp": row.created_at and row.created_at.timestamp(),
        "metadata": _object(row.meta, f"{name}.meta"),
        "usages": _object(row.usages, f"{name}.usages") or None,
        "raw": None,
        "parsed_content": None,
    }


def _blocks(content: str | None) -> list[Any]:
    if content is None:
        return []
    try:
        decoded = decode_json(content)
    except (ValueError, RecursionError):
        decoded = None
    blocks = decoded if isinstance(decoded, list) else [decoded]
    return blocks if all(map(_is_block, blocks)) else [{"type": "text", "text": content, "annotations": []}]


def _is_block(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def _object(text: str | None, field: str) -> dict[str, Any]:
    found = _json(text, field)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInputError(field, f"must be a JSON object, not {type(found).__name__}")
    return found


def _json(text: str | None, field: str) -> Any:
    """Decode an object or a list; a pool with a codec for JSON has encoded it twice."""
    try:
        value = None if text is None else decode_json(text)
    except ValueError as error:
        raise InvalidInputError(field, "holds a number or a depth that Python cannot read") from error
    try:
        return decode_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidInputError(field, "holds text where a JSON object belongs") from error


# --- Reading ---


class _Tables:
    """The old tables, read through one connection."""

    def __init__(self, connection: AsyncConnection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def check(self) -> None:
        """Check that the schema has the tables of a ``PgCheckpointer``.

        Raises:
            InvalidInputError: one of them is missing.
        """
        for name in _REQUIRED_TABLES:
            if not await self._exists(name):
                raise InvalidInputError("schema", f"{self._schema} has no table {name}: no PgCheckpointer wrote to it")

    async def threads_after(self, last: Any) -> list[Any]:
        """Return the next rows of threads, in the order of their ids."""
        plain = ("thread_id", "thread_name", "user_id")
        # By key, not by OFFSET, which would read all threads before the batch again.
        selected = self._select("threads", plain, ("meta",), ("created_at", "updated_at"))
        statement = selected.order_by(_THREAD_ID).limit(_BATCH_SIZE)
        return await self._rows(statement if last is None else statement.where(last < _THREAD_ID))

    async def contents(self, thread_ids: list[Any]) -> defaultdict[Any, defaultdict[str, list[Any]]]:
        """Return the rows of messages, states and results, by thread id and then by these names."""
        found: defaultdict[Any, defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for name, rows in (
            ("messages", await self._messages(thread_ids)),
            ("states", await self._states(thread_ids)),
            ("results", await self._tool_results(thread_ids)),
        ):
            for row in rows:
                found[row.thread_id][name].append(row)
        return found

    async def _messages(self, thread_ids: list[Any]) -> list[Any]:
        plain = ("thread_id", "message_id", "content", "reasoning")
        statement = self._select("messages", plain, ("role", "tool_calls", "usages", "meta"), ("created_at",))
        # Messages of one call have the same time. Only the physical order of the rows tells their order then.
        ordered = statement.order_by(column("created_at"), literal_column("ctid"))
        return await self._rows(ordered.where(_THREAD_ID.in_(thread_ids)))

    async def _states(self, thread_ids: list[Any]) -> list[Any]:
        statement = self._select("states", ("thread_id",), ("state_data",)).order_by(column("state_id"))
        return await self._rows(statement.where(_THREAD_ID.in_(thread_ids)))

    async def _tool_results(self, thread_ids: list[Any]) -> list[Any]:
        if not await self._exists(_TOOL_RESULTS):
            return []
        statement = self._select(_TOOL_RESULTS, ("thread_id", "tool_call_id"), ("result",))
        return await self._rows(statement.where(_THREAD_ID.in_(thread_ids)))

    async def _exists(self, name: str) -> bool:
        regclass = func.to_regclass(f'"{self._schema}".{name}')
        [row] = await self._rows(select(regclass.is_not(None).label("exists")))
        return bool(row.exists)

    def _select(self, name: str, plain: Sequence[str], as_text: Sequence[str], times: Sequence[str] = ()) -> Query:
        # As text, for JSON and enums: SQLAlchemy would decode the one, and asyncpg would have to look up the other.
        columns = [*map(column, plain), *(cast(column(each), Text).label(each) for each in as_text)]
        # NULL for 'infinity' and for years that Python does not have, for which the driver would fail the whole result.
        columns += [case((column(each).between(*_YEARS), column(each)), else_=None).label(each) for each in times]
        return select(*columns).select_from(table(name, schema=self._schema))

    async def _rows(self, statement: Any) -> list[Any]:
        with translated():
            return list((await self._connection.execute(statement)).all())
