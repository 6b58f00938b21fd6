"""The tables of the frameworks' own ``PgCheckpointer``, copied thread by thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    NullPool,
    TableClause,
    Text,
    cast,
    column,
    func,
    literal_column,
    select,
    table,
)
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from agent_persistence.database.driver_errors import translated
from agent_persistence.database_url import DatabaseUrl
from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.errors import InvalidInputError, ThreadExistsError
from agent_persistence.ids import IdTypes
from agent_persistence.integrations.checkpointing.json_escapes import to_storable
from agent_persistence.integrations.checkpointing.kept_times import Times
from agent_persistence.integrations.checkpointing.message_form import to_new_message
from agent_persistence.integrations.checkpointing.places import exact_id, message_key
from agent_persistence.integrations.checkpointing.thread_form import to_meta
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewThread
from agent_persistence.sessions.scope import Query

_THREADS_AT_ONCE: Final = 100
_NEEDED: Final = ("threads", "messages", "states")
_LEDGER: Final = "tool_executions"  # of Agentflow only


class Outcome(StrEnum):
    """What became of a thread."""

    COPIED = "copied"
    PRESENT = "present already"
    REFUSED = "refused"


class Copied(NamedTuple):
    """A thread that was dealt with.

    Attributes:
        reason: why it was refused.
    """

    thread_id: Any
    outcome: Outcome
    messages: int
    states: int
    reason: str | None = None


class _Thread(NamedTuple):
    new: NewThread[Any]
    owner: Any
    results: Mapping[str, Any]
    times: Times


async def copy_tables(
    source: DatabaseUrl, persistence: Persistence[Any, Any], *, schema: str
) -> AsyncGenerator[Copied, None]:
    """Copy each thread with its messages, states and tool results, in one transaction; what is there already stays.

    Args:
        source: the database that a ``PgCheckpointer`` wrote to.
        schema: where its tables are.

    Raises:
        InvalidInputError: there are no such tables.
        UnavailableError: one of the two databases went away.
    """
    async with _reading(source) as connection:
        tables = _Tables(connection, schema)
        await tables.check()
        last: Any = None
        while threads := await tables.threads_after(last):
            last = threads[-1].thread_id
            contents = await tables.contents([thread.thread_id for thread in threads])
            for thread in threads:
                yield await _copy(persistence, thread, contents[thread.thread_id])


async def _copy(persistence: Persistence[Any, Any], row: Any, content: Mapping[str, list[Any]]) -> Copied:
    messages, states = content["messages"], content["states"]
    try:
        thread = _made_of(row, content, persistence.models.id_types)

        async def add(uow: UnitOfWork[Any, Any]) -> None:
            await uow.threads.create_many([thread.new])
            await thread.times.keep(uow, persistence.models, thread.new.thread_id)
            for call_id, result in thread.results.items():
                await uow.tool_results.record(thread.new.thread_id, call_id, result)

        await persistence.run(add, user_id=thread.owner)
    except ThreadExistsError:
        return Copied(row.thread_id, Outcome.PRESENT, 0, 0)
    except InvalidInputError as refusal:
        return Copied(row.thread_id, Outcome.REFUSED, 0, 0, str(refusal))
    return Copied(row.thread_id, Outcome.COPIED, len(messages), len(states))


def _made_of(row: Any, content: Mapping[str, list[Any]], id_types: IdTypes[Any, Any]) -> _Thread:
    metadata = _json(row.meta) or {}
    run_id = metadata.pop("run_id", None)
    new: NewThread[Any] = NewThread(
        thread_id=exact_id(row.thread_id, id_types.id, "thread_id"),
        name=row.thread_name,
        meta=to_meta(metadata, run_id),
        messages=[to_new_message(_dump(message), id_types.id, None) for message in content["messages"]],
        states=[to_storable(_json(state.state_data)) for state in content["states"]],
    )
    results = {result.tool_call_id: to_storable(_json(result.result)) for result in content["results"]}
    said_at = {
        message_key(one.message_id, id_types.id): one.created_at for one in content["messages"] if one.created_at
    }
    times = Times(row.created_at, row.updated_at, said_at)
    return _Thread(new, exact_id(row.user_id, id_types.user, "user_id"), results, times)


def _dump(row: Any) -> dict[str, Any]:
    """A message as its framework would read it from the row."""
    return {
        "message_id": row.message_id,
        "role": row.role,
        "content": _blocks(row.content),
        "delta": False,
        "tools_calls": _json(row.tool_calls),
        "reasoning": row.reasoning,
        "timestamp": row.created_at and row.created_at.timestamp(),
        "metadata": _json(row.meta) or {},
        "usages": _json(row.usages),
        "raw": None,
        "parsed_content": None,
    }


def _blocks(content: str) -> list[Any]:
    try:
        found = decode_json(content)
    except ValueError:
        found = None
    blocks = found if isinstance(found, list) else [found]
    return blocks if all(map(_is_block, blocks)) else [{"type": "text", "text": content, "annotations": []}]


def _is_block(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("type"), str)


def _json(found: str | None) -> Any:
    """Read an object or a list; where a pool had a codec for JSON, it was written twice."""
    value = None if found is None else decode_json(found)
    try:
        return decode_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidInputError("row", "holds a text where an object belongs") from error


# --- Reading ---


class _Tables:
    """The old tables, in one snapshot."""

    def __init__(self, connection: AsyncConnection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def check(self) -> None:
        """Refuse a schema that no ``PgCheckpointer`` wrote to."""
        for name in _NEEDED:
            if not await self._has(name):
                raise InvalidInputError("schema", f"{self._schema} has no table {name}: no PgCheckpointer wrote to it")

    async def threads_after(self, last: Any) -> list[Any]:
        """Return the next threads, in the order of their ids."""
        plain = ("thread_id", "thread_name", "user_id", "created_at", "updated_at")
        threads = self._table("threads", *plain, "meta")
        columns = [*(threads.c[name] for name in plain), _as_text(threads.c.meta)]
        statement = select(*columns).order_by(threads.c.thread_id).limit(_THREADS_AT_ONCE)
        return await self._rows(statement if last is None else statement.where(threads.c.thread_id > last))

    async def contents(self, thread_ids: list[Any]) -> defaultdict[Any, defaultdict[str, list[Any]]]:
        """Return by thread what is in them."""
        found: defaultdict[Any, defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for name, rows in (
            ("messages", await self._messages(thread_ids)),
            ("states", await self._states(thread_ids)),
            ("results", await self._results(thread_ids)),
        ):
            for row in rows:
                found[row.thread_id][name].append(row)
        return found

    async def _messages(self, thread_ids: list[Any]) -> Iterable[Any]:
        plain = ("thread_id", "message_id", "content", "reasoning", "created_at")
        json = ("role", "tool_calls", "usages", "meta")
        messages = self._table("messages", *plain, *json)
        columns = [*(messages.c[name] for name in plain), *(_as_text(messages.c[name]) for name in json)]
        # Messages of one call have the same time: then the place of the row is all that is known of their order.
        return await self._rows(self._of(messages, columns, thread_ids).order_by("created_at", literal_column("ctid")))

    async def _states(self, thread_ids: list[Any]) -> Iterable[Any]:
        states = self._table("states", "thread_id", "state_id", "state_data")
        columns = [states.c.thread_id, _as_text(states.c.state_data)]
        return await self._rows(self._of(states, columns, thread_ids).order_by(states.c.state_id))

    async def _results(self, thread_ids: list[Any]) -> Iterable[Any]:
        ledger = self._table(_LEDGER, "thread_id", "tool_call_id", "result")
        if not await self._has(_LEDGER):
            return []
        columns = [ledger.c.thread_id, ledger.c.tool_call_id, _as_text(ledger.c.result)]
        return await self._rows(self._of(ledger, columns, thread_ids))

    async def _has(self, name: str) -> bool:
        [found] = await self._rows(select(func.to_regclass(f'"{self._schema}".{name}').is_not(None).label("has")))
        return bool(found.has)

    def _table(self, name: str, *columns: str) -> TableClause:
        return table(name, *(column(one) for one in columns), schema=self._schema)

    def _of(self, source: TableClause, columns: list[Any], thread_ids: list[Any]) -> Query:
        return select(*columns).where(source.c.thread_id.in_(thread_ids))

    async def _rows(self, statement: Any) -> list[Any]:
        with translated():
            return list((await self._connection.execute(statement)).all())


def _as_text(json: ColumnElement[Any]) -> ColumnElement[Any]:
    """JSON and enums as text: the driver would decode the one, and has to know the other."""
    return cast(json, Text).label(getattr(json, "name", None))


@asynccontextmanager
async def _reading(source: DatabaseUrl) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(
        source.sqlalchemy_url, connect_args=source.connect_args, poolclass=NullPool, hide_parameters=True
    )
    snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with translated():
            connection = await engine.connect()
        try:
            yield await connection.execution_options(**snapshot)
        finally:
            await connection.close()
    finally:
        await engine.dispose()
