"""The auditor finds what is stale, tells a delay from a fault, and takes neither for granted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import event, insert, text

from agent_persistence import CacheAudit
from agent_persistence.cache.keys import state_key
from agent_persistence.errors import InvalidInputError, UnavailableError
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
Store = Persistence[str, str]
SOON = 0.05  # seconds between two sweeps


@pytest_asyncio.fixture
async def persistence(settings_for: SettingsFor) -> AsyncIterator[Store]:
    """A store with nothing in its cache, whose stale values need not stand for long."""
    async with Persistence[str, str](await settings_for(cache_sweep_interval=SOON)) as store:
        yield store


async def cached_states(store: Persistence[Any, Any], user_id: Any, count: int) -> list[Any]:
    """Threads whose states are in the cache."""
    async with store.begin(user_id=user_id) as uow:
        threads = [(await uow.threads.create()).thread_id for _ in range(count)]
        for thread_id in threads:
            await uow.states.put(thread_id, 1)
    return threads


def key_of(store: Store, thread_id: str, user_id: str) -> bytes:
    return state_key(store.cache.namespace, thread_id, user_id)


async def run_sql(store: Store, statement: str, **values: Any) -> None:
    """Write the tables as somebody does who knows nothing of the cache."""
    async with store.engine.begin() as connection:
        await connection.execute(text(statement), values)


async def make_stale(store: Store, redis: Redis, thread_id: str, user_id: str) -> None:
    """Have the cache hold the state before the latest one."""
    key = key_of(store, thread_id, user_id)
    old = await redis.get(key)
    await store.states.put(thread_id, 2, user_id=user_id)
    await redis.set(key, old)


async def test_values_of_every_id_type_agree_with_the_database(
    id_pair: tuple[str, str], settings_for: SettingsFor, any_user: Any
) -> None:
    async with Persistence[Any, Any](await settings_for(*id_pair, cache_sweep_interval=SOON)) as store:
        await cached_states(store, any_user, 3)
        empty = await store.threads.create(user_id=any_user)
        await store.states.get(empty.thread_id, user_id=any_user)

        assert await store.audit_cache() == CacheAudit(4, 0, 0, 0)


async def test_ids_with_any_characters_are_found_again(persistence: Store) -> None:
    for thread_id in ("a:b", "100%", "ä/ö 😀", "%3A"):
        await persistence.threads.create(thread_id=thread_id, user_id="o:%:é")
        await persistence.states.put(thread_id, 1, user_id="o:%:é")

    assert await persistence.audit_cache() == CacheAudit(4, 0, 0, 0)


async def test_a_value_that_stays_stale_is_beyond_the_bound(persistence: Store, redis: Redis, user_id: str) -> None:
    stale, _ = await cached_states(persistence, user_id, 2)
    await make_stale(persistence, redis, stale, user_id)

    assert await persistence.audit_cache() == CacheAudit(checked=2, stale=1, stale_beyond_bound=1, unreadable=0)


async def test_a_value_that_a_sweep_withdraws_is_within_the_bound(
    persistence: Store, redis: Redis, user_id: str
) -> None:
    [stale] = await cached_states(persistence, user_id, 1)
    await make_stale(persistence, redis, stale, user_id)
    assert persistence.cache is not None
    heads, looks = persistence.cache.heads, 0

    async def tell_the_outbox_after_the_second_look(states: Any) -> list[bytes]:
        nonlocal looks
        looks += 1
        found = await heads(states)
        if looks == 3:  # once for the sample, twice to compare
            async with persistence.engine.begin() as connection:
                row = {"thread_id": stale, "user_id": user_id}
                await connection.execute(insert(persistence.models.side_tables.outbox), [row])
        return found

    persistence.cache.heads = tell_the_outbox_after_the_second_look  # type: ignore[method-assign]  # to be there at that moment

    assert await persistence.audit_cache() == CacheAudit(checked=1, stale=1, stale_beyond_bound=0, unreadable=0)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM threads WHERE thread_id = :thread_id",
        "DELETE FROM states WHERE thread_id = :thread_id",
        "UPDATE threads SET user_id = 'somebody else' WHERE thread_id = :thread_id",
    ],
)
async def test_a_state_that_is_gone_or_is_no_longer_its_owners_is_stale(
    statement: str, persistence: Store, user_id: str
) -> None:
    [thread_id] = await cached_states(persistence, user_id, 1)
    await run_sql(persistence, statement, thread_id=thread_id)

    assert await persistence.audit_cache() == CacheAudit(checked=1, stale=1, stale_beyond_bound=1, unreadable=0)


async def test_a_write_between_the_two_questions_is_no_fault(persistence: Store, user_id: str) -> None:
    [thread_id] = await cached_states(persistence, user_id, 1)
    assert persistence.cache is not None
    heads = persistence.cache.heads

    async def write_first(states: Any) -> list[bytes]:
        await persistence.states.put(thread_id, "new", user_id=user_id)
        return await heads(states)

    persistence.cache.heads = write_first  # type: ignore[method-assign]  # to be there at that moment

    assert await persistence.audit_cache() == CacheAudit(checked=1, stale=0, stale_beyond_bound=0, unreadable=0)


async def test_what_is_damaged_or_somebody_elses_is_counted_apart(
    persistence: Store, redis: Redis, user_id: str
) -> None:
    damaged, of_another_type, _ = await cached_states(persistence, user_id, 3)
    await redis.set(key_of(persistence, damaged, user_id), b"V and nothing else that could be read")
    await redis.delete(key_of(persistence, of_another_type, user_id))
    await redis.rpush(key_of(persistence, of_another_type, user_id), b"V")
    await redis.set(f"{persistence.cache.namespace}:state_cache:no-owner", b"V")

    assert await persistence.audit_cache() == CacheAudit(checked=1, stale=0, stale_beyond_bound=0, unreadable=3)


async def test_leases_and_quarantines_are_no_values(persistence: Store, redis: Redis, user_id: str) -> None:
    for thread_id, held in zip(await cached_states(persistence, user_id, 2), (b"L" * 17, b"W" * 17), strict=True):
        await redis.set(key_of(persistence, thread_id, user_id), held)

    assert await persistence.audit_cache() == CacheAudit(0, 0, 0, 0)


async def test_keys_of_other_namespaces_are_not_looked_at(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(cache_namespace="audited-a")) as other:
        await cached_states(other, user_id, 1)

    async with Persistence[str, str](
        await settings_for(cache_namespace="audited-[ab]*?", cache_sweep_interval=SOON)
    ) as store:
        await cached_states(store, user_id, 2)

        assert await store.audit_cache() == CacheAudit(2, 0, 0, 0)


async def test_no_more_than_the_sample_is_compared_by_a_statement_for_every_hundred(
    persistence: Store, user_id: str
) -> None:
    await cached_states(persistence, user_id, 120)
    sent: list[str] = []
    event.listen(persistence.engine.sync_engine, "before_cursor_execute", lambda *statement: sent.append(statement[2]))

    audit = await persistence.audit_cache(sample=101)

    assert audit == CacheAudit(101, 0, 0, 0)
    assert sum("max(" in statement for statement in sent) == 2


async def test_without_a_cache_nothing_is_checked(settings_for: SettingsFor) -> None:
    for redis_url in (None, "redis://127.0.0.1:1/0"):
        async with Persistence[str, str](await settings_for(redis_url=redis_url)) as store:
            assert await store.audit_cache() == CacheAudit(0, 0, 0, 0)


async def test_without_a_database_it_says_so(settings_for: SettingsFor, user_id: str, unused_tcp_port: int) -> None:
    settings = await settings_for(retry_deadline=0)
    async with Persistence[str, str](settings) as store:
        await cached_states(store, user_id, 1)
    nowhere = f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/none"
    unreachable = await settings_for(retry_deadline=0, database_url=nowhere, cache_namespace=settings.cache_namespace)

    store = Persistence[str, str](unreachable)
    with pytest.raises(UnavailableError):
        await store.audit_cache()
    await store.aclose()


@pytest.mark.parametrize("sample", [0, 100_001, True, 1.5])
async def test_a_sample_that_is_none_is_refused(sample: Any, persistence: Store) -> None:
    with pytest.raises(InvalidInputError, match="sample"):
        await persistence.audit_cache(sample)
