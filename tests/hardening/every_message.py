"""A call, disturbed at each message on its way: the server falls silent, the connection closes, or the backend ends.

The call answers in time, says truly whether it was committed, leaves no connection behind, and the next call works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
from connections import all_are_back
from torture.proxy import Link, Proxy
from torture.servers import PostgreSQL

from agent_persistence.errors import PersistenceError
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Store = Persistence[Any, Any]
USER = "ann"
HELLO = {"role": "user", "content": "hello"}
KINDS = ["silence", "close", "end"]
MOST_REQUESTS = 80
SLACK = 1.0
"""Seconds that a busy machine may take beside the time limits."""

latest: dict[str, int] = {}
"""The versions of threads' states before the call."""


def one_call(settings: PersistenceSettings) -> float:
    return settings.call_seconds


def one_unit_of_work(settings: PersistenceSettings) -> float:
    """A statement that waits for a connection and for its reply, COMMIT, and the question what became of it."""
    return settings.pool_timeout + 2 * settings.reply_seconds + settings.call_seconds


def a_run(settings: PersistenceSettings) -> float:
    return settings.retry_deadline + one_unit_of_work(settings)


@dataclass(frozen=True)
class Call:
    """A call and what it leaves in the database.

    Attributes:
        table: the table that it writes to.
        rows: how many rows it adds.
        seconds: the documented limit of its time.
        prepare: is done before, undisturbed.
        in_parts: whether it has several transactions; repeated after a failure, it completes the work.
    """

    make: Callable[[Store, str], Awaitable[Any]]
    table: str | None = None
    rows: int = 0
    seconds: Callable[[PersistenceSettings], float] = one_call
    prepare: Callable[[Store, str], Awaitable[Any]] | None = None
    in_parts: bool = False


async def rows(postgresql: PostgreSQL, store: Store, table: str | None) -> int:
    if table is None:
        return 0
    connection = await asyncpg.connect(
        host="127.0.0.1", port=postgresql.port, user="postgres", database=store.engine.url.database
    )
    try:
        return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await connection.close()


async def set_trap(kind: str, proxy: Proxy, postgresql: PostgreSQL, request: int) -> None:
    async def silence(_: Link) -> None:
        proxy.stall()

    async def close(link: Link) -> None:
        link.cut()

    async def end(_: Link) -> None:
        await postgresql.fetch(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    proxy.trap(request, {"silence": silence, "close": close, "end": end}[kind])


async def check(
    kind: str, call: Call, store: Store, proxy: Proxy, postgresql: PostgreSQL, *, closing_seconds: float = 0
) -> None:
    """Disturb a call at its first message, then at its second one, and so on, until it needs no more.

    Args:
        closing_seconds: what the call may take beside its limit, to close a connection.
    """
    for request in range(1, MOST_REQUESTS):
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        latest[thread_id] = (await store.states.put(thread_id, {"step": 0}, user_id=USER)).version
        if call.prepare is not None:
            await call.prepare(store, thread_id)
        await asyncio.sleep(0.05)  # pinned connections go back to the pool: each call begins alike
        before = await rows(postgresql, store, call.table)
        await set_trap(kind, proxy, postgresql, request)
        started, error = time.monotonic(), None
        limit = call.seconds(store.settings) + closing_seconds + SLACK
        try:
            async with asyncio.timeout(2 * limit):  # a call that hangs fails here, and not the whole run
                await call.make(store, thread_id)
        except PersistenceError as raised:
            error = raised
        took, came_by = time.monotonic() - started, proxy.requests >= request
        proxy.release()
        at = f"{kind} at request {request}: {error!r}"
        assert took < limit, f"{at}, after {took:.1f} s"
        await asyncio.sleep(0.1 if kind == "silence" else 0)  # what was held back arrives
        added = await rows(postgresql, store, call.table) - before
        assert added in _possible(call, error), f"{at}, {added} rows"
        if call.in_parts and error is not None:
            await call.make(store, thread_id)
            assert await rows(postgresql, store, call.table) - before == call.rows, at
        await store.threads.get(thread_id, user_id=USER)
        assert await all_are_back(store), at
        if not came_by:
            return
    raise AssertionError(f"it sends more than {MOST_REQUESTS} requests: none went undisturbed")


def _possible(call: Call, error: PersistenceError | None) -> set[int] | range:
    if error is None:
        return {call.rows}
    if call.in_parts:
        return range(call.rows + 1)
    return {"yes": {call.rows}, "no": {0}, "unknown": {0, call.rows}}[error.committed]
