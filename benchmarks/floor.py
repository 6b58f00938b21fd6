"""The floor: asyncpg and redis-py by hand, tuned, with the same guarantees on the same tables as this package.

One statement and one round trip for each operation: it checks the owner, locks the thread, moves its activity, inserts
what is not there yet, and returns what the database decided. No query resets a connection, and JSON is written and read
by orjson.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

import asyncpg
import orjson
from redis.asyncio import Redis

from agent_persistence.ids import uuid7
from benchmarks import floor_sql as sql
from benchmarks.contender import POOL_SIZE, Addresses, Contender, Thread
from benchmarks.plain_orm import PlainOrm

_REDIS_CONNECTIONS = 1000
_MOST_TASKS = 256


class SavedRow(NamedTuple):
    """What the database says of a state."""

    version: int
    created_at: datetime
    updated_at: datetime


class MessageRow(NamedTuple):
    """A message as it was given, and what the database says of it."""

    message_id: str
    seq: int
    message: dict[str, Any]
    total_tokens: int
    usages: dict[str, Any]
    meta: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class Floor(Contender):
    """Hand-written asyncpg and redis-py."""

    name: ClassVar[str] = "floor"

    async def open(self, addresses: Addresses) -> None:
        """Connect all connections at once."""
        self.title = "asyncpg and redis-py by hand"
        self.pool: Any = await asyncpg.create_pool(
            addresses.postgresql, min_size=POOL_SIZE, max_size=POOL_SIZE, init=use_orjson, reset=leave_as_it_is
        )
        # A connection for every task: waiting for one of 16 costs a quarter of the rate.
        self.orm = PlainOrm(addresses.sqlalchemy)
        self.redis = Redis.from_url(addresses.redis, max_connections=_REDIS_CONNECTIONS)
        await asyncio.gather(*(self._ping() for _ in range(_MOST_TASKS)))

    async def _ping(self) -> None:
        """Open a connection, while others do."""
        await self.redis.get("nothing")

    async def close(self) -> None:
        """Close the connections."""
        await self.pool.close()
        await self.redis.aclose()
        await self.orm.close()

    async def create_thread(self, thread: Thread) -> None:
        """Insert a row."""
        await self.pool.execute(sql.CREATE_THREAD, *thread)

    async def save_state(self, thread: Thread, state: Any) -> SavedRow:
        """Save a state."""
        row = await self.pool.fetchrow(sql.SAVE_STATE, *thread, state, {})
        return SavedRow(*row)

    async def save_state_cached(self, thread: Thread, state: Any) -> SavedRow:
        """Save a state; the floor has no cache to keep."""
        return await self.save_state(thread, state)

    async def read_state(self, thread: Thread) -> Any:
        """Read the latest state."""
        row = await self.pool.fetchrow(sql.READ_STATE, *thread)
        return row["state_data"]

    async def read_state_fresh(self, thread: Thread) -> Any:
        """Read the latest state."""
        return await self.read_state(thread)

    async def warm(self, threads: Sequence[Thread]) -> None:
        """Put the states into Redis."""
        for thread in threads:
            await self.redis.set(f"floor:{thread.id}", orjson.dumps(await self.read_state(thread)))

    async def read_state_cached(self, thread: Thread) -> Any:
        """GET and decode."""
        value: Any = await self.redis.get(f"floor:{thread.id}")
        return orjson.loads(value)

    async def append_message(self, thread: Thread, message: dict[str, Any]) -> MessageRow:
        """Insert a message."""
        columns = columns_of(message)
        row = await self.pool.fetchrow(sql.APPEND, *thread, *columns)
        return appended(row, message)

    async def append_messages(self, thread: Thread, messages: Sequence[dict[str, Any]]) -> list[MessageRow]:
        """Insert messages by ``unnest``."""
        arrays = zip(*map(columns_of, messages), strict=True)
        rows = await self.pool.fetch(sql.APPEND_MANY, *thread, *arrays)
        return [appended(row, message) for row, message in zip(rows, messages, strict=True)]

    async def last_messages(self, thread: Thread) -> list[MessageRow]:
        """Read the newest messages and put them together again."""
        rows = await self.pool.fetch(sql.LAST_MESSAGES, *thread)
        return [message_row(row) for row in reversed(rows)]

    async def turn(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> Any:
        """The same three statements one after the other."""
        await self.read_state(thread)
        await self.append_messages(thread, messages)
        return await self.save_state(thread, state)

    async def read_versions(self, thread: Thread) -> list[Any]:
        """Read all states."""
        return [row["state_data"] for row in await self.pool.fetch(sql.READ_VERSIONS, thread.id)]

    async def read_state_entity(self, thread: Thread) -> Any:
        """Read by SQLAlchemy's ORM as it is usually written."""
        return await self.orm.latest_state(thread)

    async def read_message_entities(self, thread: Thread) -> Sequence[Any]:
        """Read by SQLAlchemy's ORM as it is usually written."""
        return await self.orm.last_messages(thread)


def columns_of(message: dict[str, Any]) -> tuple[Any, ...]:
    """Cut a message into columns; what the columns do not hold goes to ``extra``."""
    rest = message.keys() - {"role", "content", "tool_calls", "tool_call_id"}
    extra = {"set": {name: message[name] for name in rest}} if rest else None
    tool_calls, call_id = message.get("tool_calls"), message.get("tool_call_id")
    return str(uuid7()), message["role"], message["content"], tool_calls, call_id, None, 0, {}, {}, extra


def appended(row: Any, message: dict[str, Any]) -> MessageRow:
    """Put together what was given and what the database says of it."""
    return MessageRow(row[0], row[1], message, 0, {}, {}, row[2], row[3])


def message_row(row: Any) -> MessageRow:
    """Put a message together again."""
    seq, message_id, role, content, calls, call_id, reasoning, tokens, usages, meta, extra, created, updated = row
    message = {"role": role, "content": content}
    if calls is not None:
        message["tool_calls"] = calls
    if call_id is not None:
        message["tool_call_id"] = call_id
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    if extra:
        message.update(extra.get("set", {}))
    return MessageRow(message_id, seq, message, tokens, usages, meta, created, updated)


async def use_orjson(connection: Any) -> None:
    """Write and read JSONB by orjson."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda value: orjson.loads(value[1:]),
    )


async def leave_as_it_is(_connection: Any) -> None:
    """Nothing here changes a connection, so nothing needs to be reset."""
