"""What a caller waits for, at most: connections that died at rest, locks, COPY, a busy pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from connections import all_are_back
from hardening.hardening_servers import migrated_settings, settings_of
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine
from torture.proxy import Proxy, is_commit
from torture.servers import PostgreSQL

from agent_persistence import persistence as persistence_module
from agent_persistence import settings as settings_module
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.concurrency import time_limit
from agent_persistence.database import engine as engine_module
from agent_persistence.errors import CommitUnknownError, LockTimeoutError, StatementTimeoutError, UnavailableError
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.persistence import Persistence

Store = Persistence[Any, Any]
Open = Callable[..., AbstractAsyncContextManager[Store]]
USER = "ann"
CALLERS = 12
LARGE = [{"role": "user", "content": "x" * 20_000}] * 1_000


def is_a_write(sent: bytes) -> bool:
    """Whether a request commits: a COMMIT, or an INSERT that commits by itself, which never waits for locks."""
    commits_by_itself = b"INSERT INTO states" in sent and b"SKIP LOCKED" in sent
    return is_commit(sent) or b"INSERT INTO messages" in sent or commits_by_itself


@pytest_asyncio.fixture
async def proxy(postgresql: PostgreSQL) -> AsyncIterator[Proxy]:
    proxy = Proxy(postgresql.port, is_a_write)
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


# --- the outcome of a write whose reply does not come ---


async def saves(store: Store, thread_id: str) -> Any:
    return await store.states.put(thread_id, {"step": 1}, user_id=USER)


async def saves_alone(store: Store, thread_id: str) -> Any:
    return await store.states.put(thread_id, {"step": 1}, user_id=USER, expected_version=0)


async def appends(store: Store, thread_id: str) -> Any:
    return await store.messages.append(thread_id, {"role": "user", "content": "hi"}, user_id=USER)


WRITES = [saves, pytest.param(saves_alone, marks=pytest.mark.slow), pytest.param(appends, marks=pytest.mark.slow)]


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "_REPLY_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(settings_module, "SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 1.0)


@asynccontextmanager
async def on_a_hosts_engine(store: Store) -> AsyncIterator[Store]:
    """The same store on an engine without any limit of a client."""
    engine = create_async_engine(store.engine.url)
    try:
        async with Store(store.settings, engine=engine) as hosted:
            yield hosted
    finally:
        await engine.dispose()


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("call", WRITES)
async def test_a_write_whose_reply_is_lost_on_an_open_connection_is_settled_within_the_call(
    call: Callable[[Store, str], Any], open_store: Open, proxy: Proxy
) -> None:
    """On a host's engine nothing but the limit of the call ends the wait."""
    async with open_store(statement_timeout=1.0, retry_deadline=2.5) as store, on_a_hosts_engine(store) as hosted:
        thread_id = (await hosted.threads.create(user_id=USER)).thread_id
        loss = asyncio.create_task(proxy.lose_a_reply(10, silently=True))
        await asyncio.sleep(0)

        done = await call(hosted, thread_id)

        assert await loss
        stored = [
            *(await store.states.page(thread_id, user_id=USER)),
            *(await store.messages.page(thread_id, user_id=USER)),
        ]
        assert stored == [done]


@pytest.mark.slow
@pytest.mark.usefixtures("short_limits")
async def test_a_call_of_several_statements_whose_commit_gets_no_reply_late_in_its_call_is_settled_within_it(
    open_store: Open, proxy: Proxy
) -> None:
    """The wait for a reply alone would end after the call."""
    async with open_store(statement_timeout=2.0, retry_deadline=3.0) as store:
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        loss = asyncio.create_task(proxy.lose_a_reply(10, silently=True))

        async def save_late(uow: Any) -> Any:
            saved = await uow.states.put(thread_id, {"step": 1})
            await asyncio.sleep(1.3)
            return saved

        done = await store._transactions.write(save_late, user_id=USER)  # noqa: SLF001 - as a graph is saved alone

        assert await loss
        assert [*(await store.states.page(thread_id, user_id=USER))] == [done]


@pytest.mark.parametrize("call", WRITES)
async def test_a_write_without_time_to_ask_for_its_outcome_is_unknown(
    call: Callable[[Store, str], Any], open_store: Open, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "_REPLY_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(settings_module, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 0.0)

    async def go_silent() -> None:
        if await proxy.lose_a_reply(10, silently=True):
            proxy.stall()

    async with open_store(statement_timeout=1.0, retry_deadline=1.0) as store, on_a_hosts_engine(store) as hosted:
        thread_id = (await hosted.threads.create(user_id=USER)).thread_id
        loss = asyncio.create_task(go_silent())
        await asyncio.sleep(0)

        with pytest.raises(CommitUnknownError):
            await call(hosted, thread_id)
        await loss
        proxy.flow()


async def test_a_transaction_that_is_longer_than_the_server_allows_is_told_so_at_once(open_store: Open) -> None:
    async with open_store(transaction_timeout=0.3, idle_in_transaction_timeout=0.3) as store:
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        started = time.monotonic()

        with pytest.raises(StatementTimeoutError):
            await store.messages.append_many(thread_id, LARGE * 4, user_id=USER)
        with pytest.raises(StatementTimeoutError):
            async with store.begin(user_id=USER) as uow:
                await uow.messages.append_many(thread_id, LARGE * 4)

        assert time.monotonic() - started < 8


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("call", WRITES)
async def test_an_outage_that_ends_just_before_the_deadline_costs_no_error(
    call: Callable[[Store, str], Any], open_store: Open, proxy: Proxy
) -> None:
    async with open_store(statement_timeout=1.0, retry_deadline=3.0) as store:
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        proxy.refuse()
        asyncio.get_running_loop().call_later(2.3, lambda: asyncio.ensure_future(proxy.listen()))

        await call(store, thread_id)


@pytest.mark.usefixtures("short_limits")
async def test_a_read_that_joins_the_load_of_another_waits_as_long_as_its_own_call_may(
    open_store: Open, proxy: Proxy, servers: Any
) -> None:
    async with open_store(statement_timeout=1.0, retry_deadline=2.0, redis_url=servers.redis_url) as store:
        thread_id = (await store.threads.create(user_id=USER)).thread_id
        proxy.stall()

        first = asyncio.create_task(store.states.get(thread_id, user_id=USER))
        await asyncio.sleep(1.2)
        second = asyncio.create_task(store.states.get(thread_id, user_id=USER))
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            await first
        first_took = 1.2 + time.monotonic() - started
        proxy.flow()

        assert await second is None
        assert first_took < 2.0 + 0.5
        assert time.monotonic() - started < 2.0 + 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("short_limits")
async def test_a_call_whose_turn_does_not_come_ends_in_its_own_time(open_store: Open, proxy: Proxy) -> None:
    """The calls on a thread take turns. When its turn came, those of other threads got no reply, and held it up."""
    message = {"role": "user", "content": "hi"}
    async with open_store(statement_timeout=1.0, retry_deadline=2.0) as store:
        busy, other = [(await store.threads.create(user_id=USER)).thread_id for _ in range(2)]
        proxy.stall()

        async def seconds_of(thread_id: str, *messages: Any) -> float:
            started = time.monotonic()
            with pytest.raises((UnavailableError, CommitUnknownError)):
                await store.messages.append_many(thread_id, messages, user_id=USER)
            return time.monotonic() - started

        copied = [message] * 300  # which joins no batch
        calls = [asyncio.create_task(seconds_of(busy, *copied))]
        await asyncio.sleep(0.1)
        calls.append(asyncio.create_task(seconds_of(busy, message)))
        await asyncio.sleep(1.4)
        calls.append(asyncio.create_task(seconds_of(other, message)))
        took = await asyncio.gather(*calls)
        proxy.flow()

        assert max(took) < 2.0 + 0.5
        await store.messages.append(busy, message, user_id=USER)


# --- calls that are made of several, of which each has to wait ---


async def saves_by_a_checkpointer(store: Store, thread_id: str) -> None:
    await PostgreSQLCheckpointer(persistence=store, user_id=USER).save_state(thread_id, {})


async def saves_a_graph(store: Store, thread_id: str) -> None:
    checkpoint = empty_checkpoint()
    config = graph_config(thread_id)
    await PersistenceSaver(store, user_id=USER).aput(config, checkpoint, {}, checkpoint["channel_versions"])


async def looks_for_a_graph(store: Store, thread_id: str) -> None:
    await PersistenceSaver(store, user_id=USER).aget_tuple(graph_config(thread_id))


async def saves_a_graph_in_turn(store: Store, thread_id: str) -> None:
    saver, config = PersistenceSaver(store, user_id=USER), graph_config(thread_id)
    checkpoints = [empty_checkpoint() for _ in range(3)]
    await asyncio.gather(*(saver.aput(config, one, {}, one["channel_versions"]) for one in checkpoints))


def graph_config(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


@pytest.mark.slow
@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("call", [saves_by_a_checkpointer, saves_a_graph, looks_for_a_graph, saves_a_graph_in_turn])
async def test_a_call_of_several_statements_that_get_late_replies_or_none_has_one_time_limit(
    call: Callable[[Store, str], Any], open_store: Open, proxy: Proxy
) -> None:
    async with open_store(statement_timeout=1.0, retry_deadline=2.0) as store:
        await store.health()
        proxy.delay_seconds = 0.8
        started = time.monotonic()

        with pytest.raises((UnavailableError, CommitUnknownError)):
            await asyncio.gather(call(store, "new"), stalls_after(proxy, 1.7))

        assert time.monotonic() - started < 2.0 + 0.5
        proxy.delay_seconds = 0.0


async def stalls_after(proxy: Proxy, seconds: float) -> None:
    await asyncio.sleep(seconds)
    proxy.stall()
    asyncio.get_running_loop().call_later(4.0, proxy.flow)


async def test_a_sweep_on_a_connection_that_fell_silent_is_given_up_and_the_next_one_takes_another(
    open_store: Open, proxy: Proxy, postgresql: PostgreSQL, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence_module, "SWEEP_SECONDS", 0.5)
    async with open_store(redis_url=servers.redis_url, cache_sweep_interval=0.05) as store:
        await store.sweep()
        proxy.forget()
        direct = await asyncpg.connect(
            host="127.0.0.1", port=postgresql.port, user="postgres", database=store.engine.url.database
        )
        await direct.execute("INSERT INTO cache_outbox (thread_id, user_id) VALUES ('t', 'ann')")

        async with asyncio.timeout(3):
            while await direct.fetchval("SELECT count(*) FROM cache_outbox"):  # noqa: ASYNC110 - the sweep tells nobody
                await asyncio.sleep(0.05)

        await direct.close()


@pytest.mark.slow
@pytest.mark.usefixtures("short_limits")
async def test_a_new_connection_that_falls_silent_before_its_first_use_costs_no_more_than_the_call_has_left(
    open_store: Open, proxy: Proxy
) -> None:
    async with open_store(statement_timeout=1.0, retry_deadline=2.0) as store:
        await store.threads.page(user_id=USER)
        proxy.forget()  # the first attempt waits for a reply on the old connection

        def stall(_connection: Any, _record: Any) -> None:
            proxy.stall()

        event.listen(store.engine.sync_engine, "connect", stall, insert=True)
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            await store.threads.page(user_id=USER)
        took = time.monotonic() - started
        event.remove(store.engine.sync_engine, "connect", stall)
        proxy.flow()

        assert took < store.settings.call_seconds + 0.5
