"""The floor: asyncpg in a transaction by hand, and the same statements on the driver connection of a host's session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import asyncpg
import orjson

from benchmarks import floor_sql as sql
from benchmarks.contender import POOL_SIZE, Addresses, Thread
from benchmarks.floor import MessageRow, columns_of, leave_as_it_is, message_row
from benchmarks.units import Units, Work, hosts_sessions

_JSON = ("tool_calls", "usages", "meta", "extra")


class ByHand(Units):
    """Owner check, lock and idempotent append in each statement; no round trip but BEGIN, the statements and COMMIT."""

    name: ClassVar[str] = "floor"

    async def open(self, addresses: Addresses) -> None:
        """Open a pool, and an engine as a host has it."""
        self.title = "asyncpg by hand"
        self.pool: Any = await asyncpg.create_pool(
            addresses.postgresql, min_size=POOL_SIZE, max_size=POOL_SIZE, init=_take_json_as_text, reset=leave_as_it_is
        )
        self.engine, self.sessions = hosts_sessions(addresses.sqlalchemy)

    async def close(self) -> None:
        """Close both."""
        await self.pool.close()
        await self.engine.dispose()

    async def create_thread(self, thread: Thread) -> None:
        """Insert a row."""
        await self.pool.execute(sql.CREATE_THREAD, *thread)

    async def in_begin(self, thread: Thread, work: Work) -> Any:  # noqa: ARG002  # each statement names the owner
        """Do it in a transaction."""
        async with self.pool.acquire() as connection, connection.transaction():
            return await work(connection)

    in_run = in_begin

    async def in_bind(self, thread: Thread, work: Work) -> Any:  # noqa: ARG002  # each statement names the owner
        """Let the session's transaction begin, which it does not before a statement of its own; go to the driver."""
        async with self.sessions() as session, session.begin():
            pooled: Any = await (await session.connection()).get_raw_connection()
            await pooled.dbapi_connection._start_transaction()  # noqa: SLF001  # a statement would be one more trip
            return await work(pooled.driver_connection)

    async def write(self, unit: Any, thread: Thread, message: dict[str, Any], state: Any) -> tuple[Any, Any]:
        """Two statements, in the order that a caller would have them."""
        appended = await unit.fetchrow(sql.APPEND, *thread, *_as_text(columns_of(message)))
        return appended, await unit.fetchrow(sql.SAVE_STATE, *thread, orjson.dumps(state).decode(), "{}")

    async def page(self, unit: Any, thread: Thread) -> Sequence[MessageRow]:
        """Read the newest messages and put them together again."""
        rows = await unit.fetch(sql.LAST_TWENTY, *thread)
        return [message_row(row) for row in reversed(rows)]

    async def state(self, thread: Thread) -> Any:
        """Read a row."""
        row = await self.pool.fetchrow(sql.READ_STATE, *thread)
        return row["state_data"]


def _as_text(columns: Sequence[Any]) -> list[Any]:
    return [orjson.dumps(value).decode() if isinstance(value, (dict, list)) else value for value in columns]


async def _take_json_as_text(connection: Any) -> None:
    """Take JSONB as SQLAlchemy's connections take it, so that the same statements run on either's."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + value.encode(),
        decoder=lambda value: orjson.loads(value[1:]),
    )
