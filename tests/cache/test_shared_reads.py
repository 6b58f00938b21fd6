"""Of many readers who want the same state at once, one reads the table; nobody gets an older state than is right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import event

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import QUARANTINE, QUARANTINE_MS
from agent_persistence.encoding.exact_json import MAX_JSON_DEPTH
from agent_persistence.persistence import Persistence
from agent_persistence.records import StateRecord
from agent_persistence.settings import PersistenceSettings

Store = Persistence[str, str]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 2):
        value = [value]
    return {"deep": value}


@pytest_asyncio.fixture
async def thread_id(persistence: Store, user_id: str, redis: Redis) -> str:
    """A thread whose state is not in the cache."""
    thread = await persistence.threads.create(user_id=user_id)
    await persistence.states.put(thread.thread_id, nested(MAX_JSON_DEPTH), user_id=user_id)
    await redis.delete(state_key(persistence.cache.namespace, thread.thread_id, user_id))
    return thread.thread_id


@pytest_asyncio.fixture
async def other_process(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], persistence: Store
) -> AsyncIterator[Store]:
    """A second store on the same database and cache, as another process would have it."""
    settings = await settings_for(cache_namespace=persistence.settings.cache_namespace)
    async with Persistence[str, str](settings) as store:
        yield store


def selects_of(store: Store) -> list[str]:
    """The statements that a store sends from now on."""
    sent: list[str] = []
    event.listen(store.engine.sync_engine, "before_cursor_execute", lambda *statement: sent.append(statement[2]))
    return sent


def hold_reads(store: Store) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the first read of the table wait, once it has read, until it may go on."""
    reader: Any = store._transactions.state_reader  # noqa: SLF001 - behind the API
    read, has_read, proceed = reader.latest, asyncio.Event(), asyncio.Event()

    async def wait(thread_id: str, user_id: str) -> StateRecord[str] | None:
        reader.latest = read
        state: StateRecord[str] | None = await read(thread_id, user_id)
        has_read.set()
        await proceed.wait()
        return state

    reader.latest = wait
    return has_read, proceed


async def test_two_hundred_readers_of_a_cold_key_ask_the_table_once_a_process(
    persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    stores = (persistence, other_process)
    for store in stores:  # with their connections open, as after some minutes of work
        await asyncio.gather(*(store.states.get("another", user_id=user_id) for _ in range(100)))
    sent = [selects_of(store) for store in stores]

    read = await asyncio.gather(
        *(store.states.require(thread_id, user_id=user_id) for store in stores for _ in range(200))
    )

    assert [len(one) for one in sent] == [1, 1]
    assert all(state == read[0] for state in read)
    read[0].data["mine"] = True
    assert all("mine" not in state.data for state in read[1:])


async def test_of_the_readers_of_a_cold_key_one_fills_the_cache(
    persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    stores = (persistence, other_process)
    await asyncio.gather(*(store.states.get(thread_id, user_id=user_id) for store in stores for _ in range(50)))

    sent = selects_of(persistence)
    await persistence.states.get(thread_id, user_id=user_id)

    assert sum(store.cache.counts.fills for store in stores if store.cache) == 1
    assert sent == []


async def test_a_crowd_of_readers_leaves_the_cache_available(persistence: Store, user_id: str) -> None:
    threads = [await persistence.threads.create(user_id=user_id) for _ in range(200)]

    await asyncio.gather(*(persistence.states.get(thread.thread_id, user_id=user_id) for thread in threads))

    assert (await persistence.health()).cache == "up"


async def test_a_reader_after_a_write_does_not_share_a_read_from_before(
    persistence: Store, other_process: Store, thread_id: str, user_id: str, redis: Redis
) -> None:
    has_read, proceed = hold_reads(persistence)
    early = asyncio.create_task(persistence.states.require(thread_id, user_id=user_id))
    await asyncio.wait_for(has_read.wait(), 5)
    await other_process.states.put(thread_id, "new", user_id=user_id)
    # The new state is not to be had from there.
    await redis.delete(state_key(persistence.cache.namespace, thread_id, user_id))
    assert persistence.cache is not None
    missed = persistence.cache.counts.misses

    late = [asyncio.create_task(persistence.states.require(thread_id, user_id=user_id)) for _ in range(2)]
    while persistence.cache.counts.misses < missed + 2:  # they have looked, and wait for the table
        await persistence.cache.ping()
    proceed.set()

    assert (await early).data == nested(MAX_JSON_DEPTH)
    assert [state.data for state in await asyncio.gather(*late)] == ["new", "new"]
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "new"


async def test_a_reader_who_waits_gets_no_older_version_than_asked_for(
    persistence: Store, thread_id: str, user_id: str, redis: Redis
) -> None:
    """Meanwhile somebody puts an old state back, as a writer may who was overtaken while Redis was away."""
    cache = persistence.cache
    assert cache is not None
    key = state_key(cache.namespace, thread_id, user_id)
    await persistence.states.put(thread_id, "old", user_id=user_id)
    old = await redis.get(key)
    new = await persistence.states.put(thread_id, "new", user_id=user_id)
    await redis.set(key, QUARANTINE + bytes(16), px=QUARANTINE_MS)
    has_read, proceed = hold_reads(persistence)
    early = asyncio.create_task(persistence.states.get(thread_id, user_id=user_id))
    await asyncio.wait_for(has_read.wait(), 5)
    missed = cache.counts.misses

    late = asyncio.create_task(persistence.states.get(thread_id, user_id=user_id, min_version=new.version))
    while cache.counts.misses == missed:
        await cache.ping()
    await redis.set(key, old)
    proceed.set()

    assert await early == new
    assert await late == new
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "old"


async def test_a_reader_who_looks_for_long_shares_what_was_read_meanwhile(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when many look, in several batches, and somebody else is about to fill the cache."""
    cache = persistence.cache
    assert cache is not None
    await redis.set(state_key(cache.namespace, thread_id, user_id), QUARANTINE + bytes(16), px=QUARANTINE_MS)
    look, has_looked, proceed = cache.look, asyncio.Event(), asyncio.Event()

    async def look_for_long(thread_id: str, user_id: str, _operation: Any) -> Any:
        monkeypatch.setattr(cache, "look", look)
        found = await look(thread_id, user_id)
        has_looked.set()
        await proceed.wait()
        return found

    monkeypatch.setattr(cache, "look", look_for_long)
    slow = asyncio.create_task(persistence.states.require(thread_id, user_id=user_id))
    await asyncio.wait_for(has_looked.wait(), 5)
    sent = selects_of(persistence)

    quick = await persistence.states.require(thread_id, user_id=user_id)
    proceed.set()

    assert await slow == quick
    assert len(sent) == 1
    assert cache.loads._callers == {}  # noqa: SLF001 - nothing shows it


async def test_a_reader_that_is_cancelled_takes_nobody_down(persistence: Store, thread_id: str, user_id: str) -> None:
    has_read, proceed = hold_reads(persistence)
    readers = [asyncio.create_task(persistence.states.require(thread_id, user_id=user_id)) for _ in range(3)]
    await asyncio.wait_for(has_read.wait(), 5)

    readers[0].cancel()
    proceed.set()
    first, *others = await asyncio.gather(*readers, return_exceptions=True)

    assert isinstance(first, asyncio.CancelledError)
    assert [state.data for state in others if isinstance(state, StateRecord)] == [nested(MAX_JSON_DEPTH)] * 2
