"""Every call, and every message on its way: the server falls silent, the connection closes, or the backend ends there.

The call answers in time, says truly whether it was committed, leaves no connection behind, and the next call works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from connections import all_are_back
from hardening.hardening_servers import migrated_settings, settings_of
from torture.proxy import Link, Proxy, is_anything
from torture.servers import PostgreSQL

from agent_persistence import settings as settings_module
from agent_persistence.concurrency import time_limit
from agent_persistence.errors import PersistenceError
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage, NewThread

Store = Persistence[Any, Any]
USER = "ann"
HELLO = {"role": "user", "content": "hello"}
MANY = [{"role": "user", "content": "x" * 2_000}] * 300
MOST_REQUESTS = 60
SLACK = 1.0
"""Seconds that a busy machine may take beside the time limits."""


latest: dict[str, int] = {}
"""The versions of threads' states before the call."""


@dataclass(frozen=True)
class Call:
    """A call, the table that it writes to and how many rows."""

    make: Callable[[Store, str], Awaitable[Any]]
    table: str | None = None
    rows: int = 0


async def stream(store: Store, thread_id: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 100
        yield b"b" * 100

    await store.states.put_stream(thread_id, pieces(), user_id=USER)


async def unit_of_work(store: Store, thread_id: str) -> None:
    async with store.begin(user_id=USER) as uow:
        await uow.states.put(thread_id, {"step": 1})
        await uow.messages.append(thread_id, HELLO)


async def both(uow: Any, thread_id: str) -> None:
    await uow.states.put(thread_id, {"step": 1})
    await uow.messages.append(thread_id, HELLO)


async def tool_result(store: Store, thread_id: str) -> None:
    await store.tool_results.record(thread_id, str(time.monotonic_ns()), {"ok": True}, user_id=USER)


CALLS = {
    "states.put": Call(lambda store, at: store.states.put(at, {"step": 1}, user_id=USER), "states", 1),
    "states.put expected": Call(
        lambda store, at: store.states.put(at, {"step": 1}, user_id=USER, expected_version=latest[at]), "states", 1
    ),
    "states.put_stream": Call(stream, "states", 1),
    "states.get": Call(lambda store, at: store.states.get(at, user_id=USER)),
    "states.page": Call(lambda store, at: store.states.page(at, user_id=USER)),
    "messages.append": Call(lambda store, at: store.messages.append(at, HELLO, user_id=USER), "messages", 1),
    "messages.append with an id": Call(
        lambda store, at: store.messages.append(at, NewMessage(message=HELLO, message_id="m"), user_id=USER),
        "messages",
        1,
    ),
    "messages.append_many by COPY": Call(
        lambda store, at: store.messages.append_many(at, MANY, user_id=USER), "messages", len(MANY)
    ),
    "messages.page": Call(lambda store, at: store.messages.page(at, user_id=USER)),
    "threads.create": Call(lambda store, _: store.threads.create(user_id=USER), "threads", 1),
    "threads.create_many": Call(
        lambda store, _: store.threads.create_many([NewThread(messages=[HELLO], states=[1])] * 2, user_id=USER),
        "threads",
        2,
    ),
    "threads.update": Call(lambda store, at: store.threads.update(at, name="new", user_id=USER)),
    "threads.delete": Call(lambda store, at: store.threads.delete(at, user_id=USER), "threads", -1),
    "entities.get_thread": Call(lambda store, at: store.entities.get_thread(at, user_id=USER)),
    "tool_results.record": Call(tool_result, "tool_results", 1),
    "begin": Call(unit_of_work, "messages", 1),
    "run": Call(lambda store, at: store.run(lambda uow: both(uow, at), user_id=USER), "messages", 1),
    "purge": Call(lambda store, _: store.purge(keep_last=1)),
    "health": Call(lambda store, _: store.health()),
}


@pytest_asyncio.fixture
async def proxy(postgresql: PostgreSQL) -> AsyncIterator[Proxy]:
    proxy = Proxy(postgresql.port, is_anything)
    await proxy.listen()
    yield proxy
    proxy.release()
    proxy.refuse()


@pytest_asyncio.fixture
async def store(postgresql: PostgreSQL, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """A store with time limits as short as a test wants them."""
    monkeypatch.setattr(settings_module, "_REPLY_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(settings_module, "SETTLE_SECONDS", 0.4)
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 0.4)
    monkeypatch.setattr(time_limit, "_GRACE_SECONDS", 0.1)
    direct = await migrated_settings(postgresql)
    assert direct.database is not None
    name = str(direct.database.sqlalchemy_url.database)
    limits = {
        "statement_timeout": 0.4,
        "retry_deadline": 1.0,
        "connect_timeout": 0.4,
        "pool_timeout": 0.4,
        "checkpointer_cleanup_timeout": 1.0,
    }
    async with Store(settings_of(proxy.port, name, **limits)) as store:
        yield store


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


async def check(kind: str, name: str, store: Store, proxy: Proxy, postgresql: PostgreSQL) -> None:
    call = CALLS[name]
    for request in range(1, MOST_REQUESTS):
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        latest[thread_id] = (await store.states.put(thread_id, {"step": 0}, user_id=USER)).version
        await asyncio.sleep(0.05)  # pinned connections go back to the pool: each call begins alike
        before = await rows(postgresql, store, call.table)
        await set_trap(kind, proxy, postgresql, request)
        started, error = time.monotonic(), None
        try:
            await call.make(store, thread_id)
        except PersistenceError as raised:
            error = raised
        took, came_by = time.monotonic() - started, proxy.requests >= request
        proxy.release()
        limit = store.settings.call_seconds + (store.settings.call_seconds if name in ("run", "begin") else 0)
        assert took < limit + SLACK, f"{name}, {kind} at request {request}: {took:.1f} s, {error!r}"
        await asyncio.sleep(0.1 if kind == "silence" else 0)  # what was held back arrives
        added = await rows(postgresql, store, call.table) - before
        expected = {"yes": {call.rows}, "no": {0}, "unknown": {0, call.rows}}
        committed = "yes" if error is None else error.committed
        assert added in expected[committed], f"{name}, {kind} at request {request}: {added} rows, {error!r}"
        assert await store.threads.get(thread_id, user_id=USER) is not None or name == "threads.delete"
        assert await all_are_back(store)
        if not came_by:
            return
    raise AssertionError(f"{name} sends more than {MOST_REQUESTS} requests: none went undisturbed")


@pytest.mark.parametrize("name", ["states.put", "messages.append_many by COPY", "threads.create"])
async def test_a_call_ends_truly_and_in_time_when_its_connection_closes_at_any_message(
    name: str, store: Store, proxy: Proxy, postgresql: PostgreSQL
) -> None:
    await check("close", name, store, proxy, postgresql)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["silence", "close", "end"])
async def test_every_call_ends_truly_and_in_time_whatever_happens_at_any_message(
    kind: str, name: str, store: Store, proxy: Proxy, postgresql: PostgreSQL
) -> None:
    await check(kind, name, store, proxy, postgresql)


# --- Redis ---


REDIS_CALLS = {
    "states.put": lambda store, at: store.states.put(at, {"step": 1}, user_id=USER),
    "states.put expected": lambda store, at: store.states.put(
        at, {"step": 1}, user_id=USER, expected_version=latest[at]
    ),
    "states.get": lambda store, at: store.states.get(at, user_id=USER),
    "states.clear": lambda store, at: store.states.clear(at, user_id=USER),
    "threads.delete": lambda store, at: store.threads.delete(at, user_id=USER),
    "begin": unit_of_work,
    "health": lambda store, _: store.health(),
}
PATIENCE = 2.0
"""Seconds: the budget of a request, twice, and what a busy machine takes beside it."""


@pytest_asyncio.fixture
async def redis_proxy(servers: Any) -> AsyncIterator[Proxy]:
    # The server listens on a socket in the file system.
    proxy = Proxy(servers.redis_url.removeprefix("unix://").partition("?")[0], is_anything)
    await proxy.listen()
    yield proxy
    proxy.release()
    proxy.refuse()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "states.get" else pytest.mark.slow) for name in REDIS_CALLS]
)
@pytest.mark.parametrize("kind", ["silence", "close"])
async def test_no_message_to_redis_can_fail_a_call_or_hold_it_up(
    kind: str, name: str, redis_proxy: Proxy, postgresql: PostgreSQL
) -> None:
    cache = {"cache_timeout_ms": 50, "cache_budget_ms": 100, "cache_sweep_interval": 3_600}
    settings = await migrated_settings(postgresql, redis_url=f"redis://127.0.0.1:{redis_proxy.port}", **cache)
    for request in range(1, MOST_REQUESTS):
        async with Store(settings) as store:
            thread_id = (await store.threads.create(user_id=USER)).thread_id
            for step in range(2):  # connections to Redis are open, and the state is cached
                latest[thread_id] = (await store.states.put(thread_id, {"step": step}, user_id=USER)).version
                await store.states.get(thread_id, user_id=USER)
            await set_trap(kind, redis_proxy, postgresql, request)
            started = time.monotonic()

            await REDIS_CALLS[name](store, thread_id)

            took, came_by = time.monotonic() - started, redis_proxy.requests >= request
            redis_proxy.release()
            assert took < PATIENCE, f"{name}, {kind} at request {request}: {took:.1f} s"
            cached = await store.states.get(thread_id, user_id=USER)
            assert cached == await store.states.get(thread_id, user_id=USER, fresh=True)
        if not came_by:
            return
    raise AssertionError(f"{name} sends more than {MOST_REQUESTS} requests to Redis")
