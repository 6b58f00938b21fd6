"""What a caller waits for, at most: connections that died at rest, locks, COPY, a busy pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from connections import all_are_back
from hardening.hardening_servers import migrated_settings, settings_of
from sqlalchemy import text
from torture.proxy import Proxy, is_anything
from torture.servers import PostgreSQL

from agent_persistence.database import engine as engine_module
from agent_persistence.errors import LockTimeoutError
from agent_persistence.persistence import Persistence

Store = Persistence[Any, Any]
Open = Callable[..., AbstractAsyncContextManager[Store]]
USER = "ann"
CALLERS = 12
LARGE = [{"role": "user", "content": "x" * 20_000}] * 1_000


@pytest_asyncio.fixture
async def proxy(postgresql: PostgreSQL) -> AsyncIterator[Proxy]:
    proxy = Proxy(postgresql.port, is_anything)
    await proxy.listen()
    yield proxy
    proxy.refuse()


@pytest.fixture
def open_store(postgresql: PostgreSQL, proxy: Proxy) -> Open:
    """Open a store behind the proxy, with these settings."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[Store]:
        direct = await migrated_settings(postgresql)
        assert direct.database is not None
        async with Store(settings_of(proxy.port, direct.database.sqlalchemy_url.database, **settings)) as store:
            yield store

    return opened


@pytest.mark.parametrize("batching", [True, False])
async def test_no_caller_pays_for_connections_that_a_firewall_forgot_while_they_were_idle(
    open_store: Open, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, batching: bool
) -> None:
    monkeypatch.setattr(engine_module, "_PING_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(engine_module, "_PING_SECONDS", 0.2)
    async with open_store(pool_size=5, batching=batching) as store:
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        await asyncio.gather(*(store.health() for _ in range(5)))
        await asyncio.sleep(0.05)
        proxy.forget()
        started = time.monotonic()

        await asyncio.gather(*(store.states.put(thread_id, {}, user_id=USER) for _ in range(10)))
        async with store.begin(user_id=USER) as uow:
            await uow.states.put(thread_id, {})

        assert time.monotonic() - started < 2
        assert await all_are_back(store)


async def test_every_caller_of_a_locked_thread_waits_for_the_lock_twice_and_no_longer(open_store: Open) -> None:
    async with open_store(lock_timeout=0.3) as store, store.engine.connect() as other:
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        await other.execute(text("SELECT FROM threads FOR UPDATE"))
        started = time.monotonic()

        results = await asyncio.gather(
            *(store.states.put(thread_id, {}, user_id=USER) for _ in range(CALLERS)), return_exceptions=True
        )

        assert {type(result) for result in results} == {LockTimeoutError}
        assert time.monotonic() - started < 2 * 0.3 + 1


async def test_a_copy_whose_backend_ends_in_the_middle_is_made_again(open_store: Open, postgresql: PostgreSQL) -> None:
    async with open_store() as store:
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        call = asyncio.create_task(store.messages.append_many(thread_id, LARGE, user_id=USER))
        ended: list[Any] = []
        while not ended and not call.done():
            ended = await postgresql.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'copy%' AND state = 'active'"
            )

        async with asyncio.timeout(10):
            made = await call

        assert ended
        assert [message.seq for message in made] == sorted(message.seq for message in made)
        assert await all_are_back(store)


async def test_a_busy_pool_is_not_taken_for_a_database_that_is_down(open_store: Open, proxy: Proxy) -> None:
    async with (
        open_store(pool_size=1, max_overflow=0, connect_timeout=1.0) as store,
        store.begin(user_id=USER) as uow,
    ):
        await uow.threads.create()
        started = time.monotonic()
        busy = await store.health()
        proxy.stall()
        silent = await store.health()
        took = time.monotonic() - started
        proxy.flow()

    assert (busy.database, silent.database) == ("up", "down")
    assert took < 2
