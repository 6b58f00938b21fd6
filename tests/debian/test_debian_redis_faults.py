"""Whatever happens to Redis, callers see no error, and the cache comes back without a restart."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from agent_persistence.cache.keys import state_key
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from debian_redis import RedisServer

pytestmark = pytest.mark.needs_apt

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
Store = Persistence[str, str]
MARGIN_SECONDS = 0.2  # for the table, on a machine that has other things to do
BACK_SECONDS = 15.0  # the longest pause of the breaker twice, with jitter, a probe, and the sweep before it closes
PASSWORD = "canary"


@pytest_asyncio.fixture
async def store(settings_for: SettingsFor, redis_server: RedisServer) -> AsyncIterator[Store]:
    # Short enough to wait for, long enough for a busy machine not to be taken for a Redis that is down.
    limits = {"cache_timeout_ms": 250, "cache_budget_ms": 500}
    async with Persistence[str, str](await settings_for(redis_url=redis_server.unix_url, **limits)) as store:
        yield store


@pytest_asyncio.fixture
async def thread_id(store: Store, user_id: str) -> str:
    """A thread whose state is in the cache."""
    thread = await store.threads.create(user_id=user_id)
    await until_the_cache_answers(store, thread.thread_id, user_id)
    return thread.thread_id


@dataclass
class Weather:
    """What a test does to Redis, and how it ends that."""

    server: RedisServer
    client: Redis

    async def out_of_memory(self) -> None:
        await self.client.config_set("maxmemory", 1)

    async def memory_again(self) -> None:
        await self.client.config_set("maxmemory", 0)

    async def frozen(self) -> None:
        self.server.freeze()

    async def thawed(self) -> None:
        self.server.thaw()

    async def killed(self) -> None:
        self.server.kill()

    async def started(self) -> None:
        self.server.start()

    async def of_a_master_that_is_away(self) -> None:
        await self.client.config_set("replica-serve-stale-data", "no")
        await self.client.replicaof("127.0.0.1", "1")

    async def its_own_master(self) -> None:
        await self.client.replicaof("NO", "ONE")

    async def disconnected(self) -> None:
        await self.client.client_kill_filter(_type="normal", skipme=True)

    async def flushed(self) -> None:
        await self.client.flushall()

    async def nothing(self) -> None:
        pass


@pytest_asyncio.fixture
async def weather(redis_server: RedisServer) -> AsyncIterator[Weather]:
    async with Redis.from_url(redis_server.unix_url) as client:
        yield Weather(redis_server, client)


async def until_the_cache_answers(store: Store, thread_id: str, user_id: str) -> None:
    """Write and read until a read is a hit."""
    assert store.cache is not None
    deadline, hits = time.monotonic() + BACK_SECONDS, store.cache.counts.hits
    while store.cache.counts.hits == hits:
        assert time.monotonic() < deadline, "the cache did not come back"
        saved = await store.states.put(thread_id, "waiting", user_id=user_id)
        assert await store.states.get(thread_id, user_id=user_id, min_version=saved.version) == saved


async def write_and_read(store: Store, thread_id: str, user_id: str) -> None:
    """Write and read several times. Every read must be of the last write."""
    for step in range(5):
        saved = await store.states.put(thread_id, {"step": step}, user_id=user_id)
        assert await store.states.get(thread_id, user_id=user_id) == saved


async def duration(work: Awaitable[Any]) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        (Weather.out_of_memory, Weather.memory_again),
        (Weather.frozen, Weather.thawed),
        (Weather.killed, Weather.started),
        (Weather.of_a_master_that_is_away, Weather.its_own_master),
        (Weather.disconnected, Weather.nothing),
        (Weather.flushed, Weather.nothing),
    ],
    ids=lambda step: step.__name__,
)
async def test_every_read_is_right_and_the_cache_comes_back(
    fault: Callable[[Weather], Awaitable[None]],
    end: Callable[[Weather], Awaitable[None]],
    store: Store,
    weather: Weather,
    thread_id: str,
    user_id: str,
) -> None:
    await fault(weather)
    await write_and_read(store, thread_id, user_id)
    new = await store.threads.create(user_id=user_id)
    assert await store.states.get(new.thread_id, user_id=user_id) is None
    await end(weather)

    await until_the_cache_answers(store, thread_id, user_id)
    await write_and_read(store, thread_id, user_id)
    assert (await store.health()).cache == "up"


async def test_a_full_server_keeps_no_state_that_was_overwritten(
    store: Store, weather: Weather, thread_id: str, user_id: str, redis: Redis
) -> None:
    await weather.out_of_memory()

    await store.states.put(thread_id, "new", user_id=user_id)

    assert await redis.get(state_key(store.cache.namespace, thread_id, user_id)) is None
    assert (await store.states.require(thread_id, user_id=user_id)).data == "new"


async def test_writes_succeed_while_the_server_is_a_read_only_replica(
    store: Store, weather: Weather, thread_id: str, user_id: str
) -> None:
    """What it held before can be neither replaced nor deleted: a reader who must not see that says so."""
    await weather.client.replicaof("127.0.0.1", "1")

    saved = await store.states.put(thread_id, "new", user_id=user_id)
    new = await store.threads.create(user_id=user_id)
    first = await store.states.put(new.thread_id, "first", user_id=user_id)

    assert await store.states.get(thread_id, user_id=user_id, fresh=True) == saved
    assert await store.states.get(thread_id, user_id=user_id, min_version=saved.version) == saved
    assert await store.states.get(new.thread_id, user_id=user_id) == first
    await weather.its_own_master()
    await until_the_cache_answers(store, thread_id, user_id)


async def test_a_key_of_another_type_is_replaced_and_stops_nothing(
    store: Store, weather: Weather, thread_id: str, user_id: str
) -> None:
    saved = await store.states.put(thread_id, 1, user_id=user_id)
    other = await store.threads.create(user_id=user_id)
    key = state_key(store.cache.namespace, thread_id, user_id)
    await weather.client.delete(key)
    await weather.client.rpush(key, b"V")

    reads = [await store.states.get(thread_id, user_id=user_id) for _ in range(5)]

    assert reads == [saved] * 5
    assert store.cache is not None
    assert (store.cache.counts.unreadable, store.cache.counts.unavailable) == (1, 0)
    assert await weather.client.type(key) == b"string"
    await until_the_cache_answers(store, other.thread_id, user_id)
    await until_the_cache_answers(store, thread_id, user_id)


async def test_without_the_password_everything_works_from_the_table_and_with_it_from_the_cache(
    settings_for: SettingsFor, redis_server: RedisServer, user_id: str
) -> None:
    redis_server.kill()
    redis_server.start("--requirepass", PASSWORD)
    login = f"//:{PASSWORD}@"
    refused = await settings_for(redis_url=redis_server.tcp_url)
    admitted = [url.replace("//", login) for url in (redis_server.tcp_url, redis_server.unix_url)]

    async with Persistence[str, str](refused) as store:
        thread = await store.threads.create(user_id=user_id)
        await write_and_read(store, thread.thread_id, user_id)
        assert (await store.health()).cache == "down"

    for redis_url in admitted:
        async with Persistence[str, str](await settings_for(redis_url=redis_url)) as store:
            await until_the_cache_answers(store, thread.thread_id, user_id)


async def test_a_frozen_server_costs_a_request_its_budget_at_most(
    settings_for: SettingsFor, redis_server: RedisServer, user_id: str
) -> None:
    settings = await settings_for(redis_url=redis_server.unix_url, cache_timeout_ms=25, cache_budget_ms=50)
    async with Persistence[str, str](settings) as store:
        thread = await store.threads.create(user_id=user_id)
        await until_the_cache_answers(store, thread.thread_id, user_id)
        redis_server.freeze()

        reads = [await duration(store.states.get(thread.thread_id, user_id=user_id)) for _ in range(20)]
        writes = [await duration(store.states.put(thread.thread_id, 1, user_id=user_id)) for _ in range(20)]
        redis_server.thaw()

    assert max(reads) < 0.05 + MARGIN_SECONDS
    assert max(writes) < 2 * 0.05 + MARGIN_SECONDS
    assert statistics.median(reads) < 0.025  # it is left alone by then


async def test_a_server_that_is_down_from_the_start_is_found_once_it_is_up(
    settings_for: SettingsFor, redis_server: RedisServer, user_id: str
) -> None:
    redis_server.kill()

    async with Persistence[str, str](await settings_for(redis_url=redis_server.tcp_url)) as store:
        thread = await store.threads.create(user_id=user_id)
        await write_and_read(store, thread.thread_id, user_id)
        assert (await store.health()).cache == "down"
        redis_server.start()
        await until_the_cache_answers(store, thread.thread_id, user_id)


async def test_connections_that_are_killed_under_load_cost_no_error(
    store: Store, weather: Weather, user_id: str
) -> None:
    killer, *others = [(await store.threads.create(user_id=user_id)).thread_id for _ in range(8)]

    async def work(thread_id: str) -> None:
        for step in range(20):
            saved = await store.states.put(thread_id, step, user_id=user_id)
            assert await store.states.get(thread_id, user_id=user_id, min_version=saved.version) == saved
            if thread_id == killer:
                await weather.disconnected()

    await asyncio.gather(*map(work, (killer, *others)))

    await until_the_cache_answers(store, killer, user_id)
