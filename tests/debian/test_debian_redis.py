"""The cache on the distribution's Redis: it understands every command, and holds the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import LEASE, QUARANTINE, QUARANTINE_MS, StateRegister, new_token
from agent_persistence.cache.state_cache import StateCache
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from debian_redis import RedisServer

pytestmark = pytest.mark.needs_apt

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
Store = Persistence[str, str]
KEY = b"key"
MINE, THEIRS = QUARANTINE + b"mine" * 4, QUARANTINE + b"them" * 4
LEASED = LEASE + b"held" * 4
OLD, CURRENT, NEW = (b"V%020d{}\n1\n{}" % version for version in (1, 2, 10))


@pytest.fixture(params=["unix", "tcp"])
def redis_url(request: pytest.FixtureRequest, redis_server: RedisServer) -> str:
    return redis_server.unix_url if request.param == "unix" else redis_server.tcp_url


@pytest_asyncio.fixture
async def shared(settings_for: SettingsFor, redis_url: str) -> PersistenceSettings:
    return await settings_for(redis_url=redis_url)


@pytest_asyncio.fixture
async def store(shared: PersistenceSettings) -> AsyncIterator[Store]:
    async with Persistence[str, str](shared) as store:
        yield store
        assert cache_of(store).counts.unavailable == 0


@pytest_asyncio.fixture
async def other_process(shared: PersistenceSettings) -> AsyncIterator[Store]:
    """A second store on the same database and cache, as another process would have it."""
    async with Persistence[str, str](shared) as store:
        yield store
        assert cache_of(store).counts.unavailable == 0


@pytest_asyncio.fixture
async def thread_id(store: Store, user_id: str) -> str:
    return (await store.threads.create(user_id=user_id)).thread_id


@pytest.fixture
def key(store: Store, thread_id: str, user_id: str) -> bytes:
    return state_key(store.cache.namespace, thread_id, user_id)


def cache_of(store: Store) -> StateCache:
    assert store.cache is not None
    return store.cache


def counted(store: Store) -> tuple[int, int, int]:
    counts = cache_of(store).counts
    return counts.hits, counts.misses, counts.fills


async def test_what_was_saved_is_a_hit_in_every_process(
    store: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    for step in range(3):
        saved = await store.states.put(thread_id, {"step": step}, user_id=user_id)

        assert await store.states.get(thread_id, user_id=user_id) == saved
        assert await other_process.states.get(thread_id, user_id=user_id) == saved

    assert counted(store) == counted(other_process) == (3, 0, 0)


async def test_a_miss_is_filled_for_the_next_reader(store: Store, thread_id: str, user_id: str, redis: Redis) -> None:
    saved = await store.states.put(thread_id, 1, user_id=user_id)
    await redis.flushall()

    reads = [await store.states.get(thread_id, user_id=user_id) for _ in range(3)]

    assert reads == [saved] * 3
    assert counted(store) == (2, 1, 1)


async def test_a_state_under_a_commit_is_read_from_the_table_and_not_filled(
    store: Store, other_process: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    old = await store.states.put(thread_id, "old", user_id=user_id)
    before_commit, seen = cache_of(store).before_commit, list[Any]()

    async def look_before_commit(quarantine: Any) -> None:
        await before_commit(quarantine)
        seen.append(await other_process.states.get(thread_id, user_id=user_id))
        seen.append(await redis.get(key))

    cache_of(store).before_commit = look_before_commit  # type: ignore[method-assign]  # to be there at that moment
    new = await store.states.put(thread_id, "new", user_id=user_id)

    assert seen[0] == old
    assert seen[1].startswith(QUARANTINE)
    assert await other_process.states.get(thread_id, user_id=user_id) == new
    assert counted(other_process) == (1, 1, 0)


async def test_a_rollback_after_the_quarantine_lifts_it(
    store: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    old = await store.states.put(thread_id, "old", user_id=user_id)
    before_commit = cache_of(store).before_commit

    async def fail_before_commit(quarantine: Any) -> None:
        await before_commit(quarantine)
        assert (await redis.get(key)).startswith(QUARANTINE)
        raise RuntimeError

    cache_of(store).before_commit = fail_before_commit  # type: ignore[method-assign]  # to be there at that moment
    with pytest.raises(RuntimeError):
        await store.states.put(thread_id, "new", user_id=user_id)

    assert await redis.get(key) is None
    assert await store.states.get(thread_id, user_id=user_id) == old
    assert counted(store) == (0, 1, 1)


async def test_of_many_readers_who_miss_at_once_one_fills(
    store: Store, other_process: Store, thread_id: str, user_id: str, redis: Redis
) -> None:
    saved = await store.states.put(thread_id, 1, user_id=user_id)
    await redis.flushall()

    readers = [process.states.get(thread_id, user_id=user_id) for process in (store, other_process) for _ in range(20)]
    reads = await asyncio.gather(*readers)

    assert reads == [saved] * 40
    assert cache_of(store).counts.fills + cache_of(other_process).counts.fills == 1


async def test_a_flush_between_lease_and_fill_leaves_the_key_empty(
    store: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    saved = await store.states.put(thread_id, 1, user_id=user_id)
    await redis.flushall()
    lease = await cache_of(store).lease(thread_id, user_id)
    assert lease is not None

    await redis.flushall()
    await cache_of(store).fill(thread_id, user_id, lease, saved)

    assert await redis.get(key) is None
    assert await store.states.get(thread_id, user_id=user_id) == saved
    assert counted(store) == (0, 1, 1)


async def test_scripts_that_the_server_forgot_are_loaded_again(
    store: Store, thread_id: str, user_id: str, redis: Redis
) -> None:
    for step in range(3):
        await redis.script_flush()
        saved = await store.states.put(thread_id, step, user_id=user_id)
        assert await store.states.get(thread_id, user_id=user_id) == saved

    assert counted(store) == (3, 0, 0)


@pytest.mark.parametrize(
    ("held", "left"),
    [
        (MINE, CURRENT),
        (THEIRS, THEIRS),
        (LEASED, None),
        (OLD, None),
        (CURRENT, CURRENT),
        (NEW, NEW),
        (None, None),
    ],
    ids=["mine", "another writer's", "a reader's", "older", "the same", "newer", "nothing"],
)
async def test_a_publish_replaces_its_own_quarantine_only(held: bytes | None, left: bytes | None, redis: Redis) -> None:
    if held is not None:
        await redis.set(KEY, held)

    async with aclosing(StateRegister(redis)) as register:
        await register.publish([(KEY, MINE, CURRENT, 60_000)])

    assert await redis.get(KEY) == left


async def test_leases_and_quarantines_run_out_by_themselves(redis: Redis) -> None:
    async with aclosing(StateRegister(redis)) as register:
        lease = await register.lease(b"leased")
        await register.begin_write({b"a": new_token(QUARANTINE), b"b": new_token(QUARANTINE)})

    assert lease is not None
    assert await StateRegister(redis).lease(b"leased") is None
    assert 0 < await redis.pttl(b"leased") <= 2_000
    assert all([QUARANTINE_MS - 5_000 < await redis.pttl(key) <= QUARANTINE_MS for key in (b"a", b"b")])
