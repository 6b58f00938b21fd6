"""What Redis could not be told of before a commit stands in the outbox, until somebody tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from debian.debian_redis import RedisServer
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import delete, event, insert, select, text

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import QUARANTINE
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from recording import record

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
Store = Persistence[str, str]
BACK_SECONDS = 7.0  # the breaker's longest pause with its jitter, and a probe


@pytest_asyncio.fixture
async def store(settings_for: SettingsFor, valkey: RedisServer) -> AsyncIterator[Store]:
    """A store on a Valkey of its own, and with nothing in its outbox."""
    # Short enough to wait for, long enough for a busy machine not to be taken for a Redis that is down.
    limits = {"cache_timeout_ms": 250, "cache_budget_ms": 500}
    async with Persistence[str, str](await settings_for(redis_url=valkey.unix_url, **limits)) as store:
        await clear_outbox(store)
        yield store
        await clear_outbox(store)


@pytest_asyncio.fixture
async def own_redis(valkey: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey.unix_url) as client:
        yield client


@pytest_asyncio.fixture
async def thread_id(store: Store, user_id: str) -> str:
    """A thread whose state is in the cache."""
    thread = await store.threads.create(user_id=user_id)
    async with asyncio.timeout(BACK_SECONDS):
        while store.cache is None or not store.cache.counts.hits:
            await store.states.put(thread.thread_id, "old", user_id=user_id)
            await store.states.get(thread.thread_id, user_id=user_id)
    await clear_outbox(store)  # a machine under load may have taken its time
    return thread.thread_id


@pytest.fixture
def key(store: Store, thread_id: str, user_id: str) -> bytes:
    return state_key(store.cache.namespace, thread_id, user_id)


async def clear_outbox(store: Store) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(delete(store.models.side_tables.outbox))


async def outbox(store: Store) -> list[tuple[str, str]]:
    table = store.models.side_tables.outbox
    async with store.engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(table.c.thread_id, table.c.user_id))]


def lose_a_quarantine(store: Store) -> None:
    """Let the next quarantine fail, as when Redis cannot be reached for a moment."""
    assert store.cache is not None
    register = store.cache._register  # noqa: SLF001 - behind the API
    begin_write = register.begin_write

    async def fail(_: Any) -> None:
        register.begin_write = begin_write
        raise RedisConnectionError

    register.begin_write = fail


# --- writing ---


@pytest.mark.parametrize(
    ("fault", "end"),
    [(RedisServer.kill, RedisServer.start), (RedisServer.freeze, RedisServer.thaw)],
    ids=["killed", "frozen"],
)
async def test_a_write_that_redis_cannot_be_told_of_succeeds_and_is_made_up_for_by_a_sweep(
    fault: Callable[[RedisServer], None],
    end: Callable[[RedisServer], None],
    store: Store,
    valkey: RedisServer,
    own_redis: Redis,
    thread_id: str,
    user_id: str,
    key: bytes,
) -> None:
    old = await own_redis.get(key)
    fault(valkey)

    await store.states.put(thread_id, "new", user_id=user_id)
    while_away = await store.states.require(thread_id, user_id=user_id)
    swept_while_away = await store.sweep()

    assert while_away.data == "new"
    assert swept_while_away == 0
    assert await outbox(store) == [(thread_id, user_id)]

    end(valkey)
    await own_redis.set(key, old)  # as a server would have it that could not be reached by this one process only
    async with asyncio.timeout(20):
        while await outbox(store):
            await store.sweep()  # or the store itself has, when it found that Redis is back

    assert (await own_redis.get(key)).startswith(QUARANTINE)
    assert (await store.states.require(thread_id, user_id=user_id)).data == "new"


async def test_a_full_server_loses_the_old_value_at_once(
    store: Store, own_redis: Redis, thread_id: str, user_id: str, key: bytes
) -> None:
    await own_redis.config_set("maxmemory-policy", "noeviction")
    await own_redis.config_set("maxmemory", 1)

    await store.states.put(thread_id, "new", user_id=user_id)

    assert await own_redis.get(key) is None
    assert (await store.states.require(thread_id, user_id=user_id)).data == "new"
    assert await store.sweep() == 1  # there is nothing left to withdraw


async def test_what_could_not_be_quarantined_is_not_published(store: Store, thread_id: str, user_id: str) -> None:
    log = record(store)
    lose_a_quarantine(store)

    await store.states.put(thread_id, "new", user_id=user_id)

    assert log[-3:] == ["write", "COMMIT", "invalidate"]  # the row of the outbox is in the transaction
    assert "publish" not in log
    assert await outbox(store) == [(thread_id, user_id)]


async def test_a_transaction_that_fails_takes_its_row_of_the_outbox_along(
    store: Store, own_redis: Redis, thread_id: str, user_id: str, key: bytes
) -> None:
    log, before = record(store), await own_redis.get(key)
    lose_a_quarantine(store)

    def fail_after_the_row_of_the_outbox(*statement: Any) -> None:
        if "INSERT INTO cache_outbox" in statement[2]:
            raise RuntimeError

    event.listen(store.engine.sync_engine, "after_cursor_execute", fail_after_the_row_of_the_outbox)
    with pytest.raises(RuntimeError):
        await store.states.put(thread_id, "new", user_id=user_id)

    assert log == ["write", "write"]  # the state, and the row of the outbox
    assert await outbox(store) == []
    assert await own_redis.get(key) == before


async def test_a_redis_that_was_away_is_believed_only_after_a_sweep(
    settings_for: SettingsFor, valkey: RedisServer, own_redis: Redis, user_id: str
) -> None:
    rarely = {"cache_timeout_ms": 250, "cache_budget_ms": 500, "cache_sweep_interval": 3600.0}
    async with Persistence[str, str](await settings_for(redis_url=valkey.unix_url, **rarely)) as store:
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        await store.states.put(thread_id, "old", user_id=user_id)
        assert store.cache is not None
        key = state_key(store.cache.namespace, thread_id, user_id)
        old = await own_redis.get(key)
        assert old is not None
        guard = store.cache._guard  # noqa: SLF001 - behind the API
        valkey.freeze()
        while guard.available:
            await store.states.put(thread_id, "new", user_id=user_id)
        valkey.thaw()
        await own_redis.set(key, old)  # none of the withdrawals that it was sent while frozen

        async with asyncio.timeout(BACK_SECONDS):
            while not guard.available:
                assert (await store.states.require(thread_id, user_id=user_id)).data == "new"

        assert (await store.states.require(thread_id, user_id=user_id)).data == "new"
        assert await outbox(store) == []


# --- sweeping ---


async def fill_outbox(store: Store, count: int) -> None:
    rows = [{"thread_id": str(number), "user_id": "ada"} for number in range(count)]
    async with store.engine.begin() as connection:
        await connection.execute(insert(store.models.side_tables.outbox), rows)


async def test_of_two_sweepers_at_once_each_takes_rows_of_its_own(store: Store) -> None:
    await fill_outbox(store, 150)
    assert store.cache is not None
    invalidate, taken, proceed = store.cache.invalidate, asyncio.Event(), asyncio.Event()

    async def wait(states: Any) -> bool:
        taken.set()
        await proceed.wait()
        return await invalidate(states)

    store.cache.invalidate = wait  # type: ignore[method-assign]  # to be there at that moment
    async with Persistence[str, str](store.settings) as other:
        sweeper = asyncio.create_task(store.sweep())
        await asyncio.wait_for(taken.wait(), 5)
        by_the_other = await other.sweep()
        proceed.set()
        by_the_first = await sweeper

    assert (by_the_first, by_the_other) == (100, 50)
    assert await outbox(store) == []


async def test_a_sweep_that_redis_does_not_answer_keeps_the_rows(store: Store, thread_id: str, user_id: str) -> None:
    lose_a_quarantine(store)
    await store.states.put(thread_id, "new", user_id=user_id)
    assert store.cache is not None
    register = store.cache._register  # noqa: SLF001 - behind the API
    invalidate = register.invalidate

    async def fail(_: Any) -> None:
        register.invalidate = invalidate
        raise RedisConnectionError

    register.invalidate = fail

    assert await store.sweep() == 0
    assert await outbox(store) == [(thread_id, user_id)]
    assert await store.sweep() == 1


async def test_a_sweep_that_loses_its_connection_before_it_can_roll_back_is_made_again(
    store: Store, thread_id: str, user_id: str
) -> None:
    lose_a_quarantine(store)
    await store.states.put(thread_id, "new", user_id=user_id)
    assert store.cache is not None
    invalidate, calls = store.cache.invalidate, 0

    async def fail_once(states: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls > 1:
            return await invalidate(states)
        sweeping = "datname = current_database() AND state = 'idle in transaction' AND query LIKE '%cache_outbox%'"
        async with store.engine.connect() as connection:
            ended = text(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {sweeping}")
            assert (await connection.execute(ended)).scalar_one()
        return False

    store.cache.invalidate = fail_once  # type: ignore[method-assign]  # to be there at that moment

    assert await store.sweep() == 1
    assert calls == 2
    assert await outbox(store) == []


async def test_an_open_store_sweeps_by_itself(settings_for: SettingsFor, store: Store, user_id: str) -> None:
    settings = await settings_for(redis_url=store.settings.redis_url, cache_sweep_interval=0.05)
    async with Persistence[str, str](settings) as sweeping:
        thread = await sweeping.threads.create(user_id=user_id)
        lose_a_quarantine(sweeping)
        await sweeping.states.put(thread.thread_id, "new", user_id=user_id)

        async with asyncio.timeout(5):
            while await outbox(sweeping):
                pass


async def test_a_store_without_a_cache_sweeps_nothing(settings_for: SettingsFor, store: Store) -> None:
    await fill_outbox(store, 1)

    async with Persistence[str, str](await settings_for(redis_url=None)) as uncached:
        assert await uncached.sweep() == 0

    assert len(await outbox(store)) == 1
