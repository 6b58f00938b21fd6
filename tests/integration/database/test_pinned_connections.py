"""Connections are kept between statements, and given back before anybody misses them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from connections import all_are_back
from sqlalchemy import event, text

from agent_persistence.concurrency import time_limit
from agent_persistence.concurrency.shielding import drain
from agent_persistence.concurrency.time_limit import EndsBy
from agent_persistence.database.connections import PinnedConnections
from agent_persistence.errors import PoolTimeoutError, UnavailableError
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
Store = Persistence[str, str]


@pytest_asyncio.fixture
async def store(settings_for: SettingsFor) -> AsyncIterator[Store]:
    """A store with one connection."""
    settings = await settings_for(pool_size=1, max_overflow=0, pool_timeout=3.0, redis_url=None)
    async with Store(settings) as store:
        yield store


@pytest.fixture
def pinned(store: Store) -> PinnedConnections:
    return PinnedConnections(store.engine, most=1, wait_seconds=0.2, reply_seconds=10)


def counted(store: Store, name: str) -> list[Any]:
    """What the pool does from now on."""
    seen: list[Any] = []
    event.listen(store.engine.sync_engine.pool, name, lambda *_: seen.append(name))
    return seen


async def test_reads_in_a_row_take_one_connection_once(store: Store, user_id: str) -> None:
    checkouts = counted(store, "checkout")

    for _ in range(20):
        await store.threads.page(user_id=user_id)

    assert len(checkouts) < 5  # a machine under load may take longer than a connection is kept
    assert await all_are_back(store)


async def test_a_lone_caller_gets_the_connection_that_was_returned_last(persistence: Store) -> None:
    """Of several that the pool keeps: it knows the statements, and was not idle long enough to be pinged."""
    engine, used = persistence.engine, set()
    async with engine.connect(), engine.connect(), engine.connect():
        pass
    for _ in range(3):
        async with engine.connect() as connection:
            used.add(await connection.scalar(text("SELECT pg_backend_pid()")))

    assert len(used) == 1


async def test_a_crowd_shares_the_connections_that_the_pool_keeps(settings_for: SettingsFor, user_id: str) -> None:
    async with Store(await settings_for(pool_size=2, max_overflow=5, redis_url=None)) as store:
        connects = counted(store, "connect")

        await asyncio.gather(*(store.threads.page(user_id=user_id) for _ in range(100)))

        assert len(connects) <= 2


async def test_a_crowd_of_readers_leaves_a_turn_to_units_of_work(store: Store, user_id: str) -> None:
    reading, served = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        while not served.is_set():
            await store.threads.page(user_id=user_id)
            reading.set()

    readers = [asyncio.create_task(read()) for _ in range(8)]
    await reading.wait()
    async with store.begin(user_id=user_id) as uow:
        made = await uow.threads.create()
    served.set()
    await asyncio.gather(*readers)

    assert await store.threads.get(made.thread_id, user_id=user_id) == made


async def test_who_waits_too_long_is_told_so(pinned: PinnedConnections) -> None:
    connection = await pinned.acquire()

    with pytest.raises(PoolTimeoutError):
        await pinned.acquire()

    pinned.release(connection)
    await pinned.aclose()


async def test_one_who_gives_up_waiting_takes_nothing_from_the_next(pinned: PinnedConnections) -> None:
    connection = await pinned.acquire()
    first, second = asyncio.create_task(pinned.acquire()), asyncio.create_task(pinned.acquire())
    await asyncio.sleep(0)

    pinned.release(connection)
    first.cancel()

    assert await second is connection
    pinned.release(connection)
    await pinned.aclose()


async def test_no_more_connections_are_kept_than_the_limit_however_many_units_of_work_end(
    settings_for: SettingsFor,
) -> None:
    async with Store(await settings_for(pool_size=2, redis_url=None)) as store:
        pinned = PinnedConnections(store.engine, most=1, wait_seconds=0.2, reply_seconds=10)
        for connection in [await pinned.take() for _ in range(2)]:
            pinned.give_back(connection)

        kept = await pinned.acquire()
        with pytest.raises(PoolTimeoutError):
            await pinned.acquire()

        pinned.release(kept)
        await pinned.aclose()
        assert await all_are_back(store)


async def test_a_connection_that_was_left_in_a_transaction_is_not_lent_again(
    store: Store, pinned: PinnedConnections
) -> None:
    connection = await pinned.acquire()
    await connection.begin()
    pinned.release(connection)

    other = await pinned.acquire()

    assert other is not connection
    pinned.release(other)
    await pinned.aclose()
    assert await all_are_back(store)


async def test_a_connection_that_the_server_ended_is_replaced(store: Store, user_id: str) -> None:
    made = await store.threads.create(user_id=user_id)
    await store.threads.get(made.thread_id, user_id=user_id)

    async with store.engine.connect() as connection:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        with pytest.raises(Exception, match="terminat|closed"):
            await connection.exec_driver_sql(ended)

    assert await store.threads.get(made.thread_id, user_id=user_id) == made


async def test_an_engine_that_is_disposed_of_leaves_no_connection_open_and_is_lent_from_again(
    settings_for: SettingsFor,
) -> None:
    async with Store(await settings_for(pool_size=2, redis_url=None)) as store:
        pinned = PinnedConnections(store.engine, most=2, wait_seconds=1, reply_seconds=10)
        early, late = await pinned.acquire(), await pinned.acquire()
        raw = (await late.connection.get_raw_connection()).driver_connection
        assert raw is not None
        pinned.release(early)

        await pinned.invalidate()
        await store.engine.dispose()
        pinned.release(late)
        after = await pinned.acquire()
        pinned.release(after)

        assert after not in {early, late}
        assert await all_are_back(store)
        async with asyncio.timeout(2):
            while not raw.is_closed():  # noqa: ASYNC110 - the driver tells nobody
                await asyncio.sleep(0)


async def test_a_connection_that_is_cut_between_two_steps_of_a_statement_is_a_lost_one(
    store: Store, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, cut = asyncpg.Connection._get_statement, []  # noqa: SLF001 - between its two steps

    async def prepare_and_be_cut(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
        statement = await prepare(self, query, *arguments, **named)
        if "FROM messages" in query and not cut:
            cut.append(query)
            self.terminate()
        return statement

    monkeypatch.setattr(asyncpg.Connection, "_get_statement", prepare_and_be_cut)

    page = await store.messages.page("t", user_id=user_id)

    assert cut
    assert list(page) == []


async def test_a_connection_is_cut_at_the_limit_of_the_call_that_uses_it_not_of_the_one_that_opened_it(
    pinned: PinnedConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 0.0)
    async with EndsBy(time.monotonic() + 0.3), pinned.use() as connection:
        opened = connection.connection

    async with pinned.use() as connection:
        assert connection.connection is opened
        await connection.execute(text("SELECT pg_sleep(0.6)"))

    with pytest.raises(UnavailableError):
        async with EndsBy(time.monotonic() + 0.3), pinned.use() as connection:
            await connection.execute(text("SELECT pg_sleep(5)"))


@pytest.mark.parametrize("by", ["a call", "a unit of work"])
async def test_a_connection_that_is_out_while_the_engine_is_disposed_of_is_closed_when_it_comes_back(
    store: Store, user_id: str, by: str
) -> None:
    opened: list[Any] = []
    event.listen(store.engine.sync_engine.pool, "connect", lambda connection, _record: opened.append(connection))
    await store.engine.dispose()
    event.listen(store.engine.sync_engine.pool, "connect", lambda connection, _record: opened.append(connection))
    if by == "a call":
        await store.threads.page(user_id=user_id)
        await store.engine.dispose()  # as a host does that knows of a failover
    else:
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.page()
            await store.engine.dispose()
    await store.threads.page(user_id=user_id)
    await drain(5)
    await asyncio.sleep(0.1)  # until connections that are idle have gone back

    assert opened
    assert opened[0].driver_connection.is_closed()
