"""What the tests of the repositories share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Row, event, text

from agent_persistence.persistence import Persistence
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
T = TypeVar("T")

HELLO = {"role": "user", "content": "hello"}

Call = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Place:
    """A thread with a message and a state, or ids of what does not exist."""

    thread_id: Any
    message_id: Any
    version: int


# Each takes the three repositories of a unit of work, or the three facades, with what names the owner there.
async def forged() -> AsyncIterator[bytes]:
    yield b"forged"


async def all_of(pieces: AsyncIterable[bytes]) -> list[bytes]:
    return [piece async for piece in pieces]


CALLS: dict[str, Call] = {
    "threads.get": lambda store, place, **owner: store.threads.get(place.thread_id, **owner),
    "threads.require": lambda store, place, **owner: store.threads.require(place.thread_id, **owner),
    "threads.update": lambda store, place, **owner: store.threads.update(place.thread_id, name="stolen", **owner),
    "threads.archive": lambda store, place, **owner: store.threads.archive(place.thread_id, **owner),
    "threads.unarchive": lambda store, place, **owner: store.threads.unarchive(place.thread_id, **owner),
    "threads.delete": lambda store, place, **owner: store.threads.delete(place.thread_id, **owner),
    "messages.append": lambda store, place, **owner: store.messages.append(place.thread_id, HELLO, **owner),
    "messages.append_many": lambda store, place, **owner: store.messages.append_many(
        place.thread_id, [HELLO, HELLO], **owner
    ),
    "messages.get": lambda store, place, **owner: store.messages.get(place.thread_id, place.message_id, **owner),
    "messages.require": lambda store, place, **owner: store.messages.require(
        place.thread_id, place.message_id, **owner
    ),
    "messages.page": lambda store, place, **owner: store.messages.page(place.thread_id, **owner),
    "messages.update": lambda store, place, **owner: store.messages.update(
        place.thread_id, place.message_id, message={"role": "user", "content": "forged"}, **owner
    ),
    "messages.delete": lambda store, place, **owner: store.messages.delete(place.thread_id, place.message_id, **owner),
    "messages.pop": lambda store, place, **owner: store.messages.pop(place.thread_id, **owner),
    "messages.clear": lambda store, place, **owner: store.messages.clear(place.thread_id, **owner),
    "entities.get_thread": lambda store, place, **owner: store.entities.get_thread(place.thread_id, **owner),
    "entities.get_latest_state": lambda store, place, **owner: store.entities.get_latest_state(
        place.thread_id, **owner
    ),
    "entities.get_last_messages": lambda store, place, **owner: store.entities.get_last_messages(
        place.thread_id, **owner
    ),
    "states.put": lambda store, place, **owner: store.states.put(place.thread_id, "forged", **owner),
    "states.get": lambda store, place, **owner: store.states.get(place.thread_id, **owner),
    "states.require": lambda store, place, **owner: store.states.require(place.thread_id, **owner),
    "states.get_version": lambda store, place, **owner: store.states.get_version(
        place.thread_id, place.version, **owner
    ),
    "states.page": lambda store, place, **owner: store.states.page(place.thread_id, **owner),
    "states.put_stream": lambda store, place, **owner: store.states.put_stream(place.thread_id, forged(), **owner),
    "states.open_stream": lambda store, place, **owner: all_of(store.states.open_stream(place.thread_id, **owner)),
    "states.touch": lambda store, place, **owner: store.states.touch(place.thread_id, **owner),
    "states.clear": lambda store, place, **owner: store.states.clear(place.thread_id, **owner),
    "states.prune": lambda store, place, **owner: store.states.prune(
        place.thread_id, keep_last=1, older_than=datetime(2999, 1, 1, tzinfo=UTC), **owner
    ),
    "tool_results.get": lambda store, place, **owner: store.tool_results.get(place.thread_id, "call", **owner),
    "tool_results.record": lambda store, place, **owner: store.tool_results.record(
        place.thread_id, "call", "forged", **owner
    ),
}


async def run_sql(store: Persistence[Any, Any], statement: str, **parameters: Any) -> Sequence[Row[Any]]:
    """Do behind the package's back what it never does itself."""
    async with store.engine.begin() as connection:
        result = await connection.execute(text(statement), parameters)
        return result.all() if result.returns_rows else []


async def all_pages(read: Callable[..., Awaitable[Page[T]]], **arguments: Any) -> list[T]:
    """Follow ``page.after`` to the end of a list."""
    items: list[T] = []
    after: str | None = None
    for _ in range(100):
        page = await read(after=after, **arguments)
        items += page.items
        after = page.after
        if after is None:
            return items
    raise AssertionError("the list does not end")


@asynccontextmanager
async def counted_statements(store: Persistence[Any, Any]) -> AsyncIterator[list[str]]:
    """Collect the statements that reach the server."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(store.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(store.engine.sync_engine, "before_cursor_execute", note)


async def until_somebody_waits_for_a_lock(store: Persistence[Any, Any]) -> None:
    """Return once a session of this database stands in the queue for a row."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while not (await run_sql(store, waiting))[0][0]:
            pass
