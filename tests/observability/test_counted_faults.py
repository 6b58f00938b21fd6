"""Faults are counted as what they are, and each is a line in the log."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from debian.debian_redis import RedisServer
from hardening.hardening_servers import NEVER_ARRIVED, REPLY_LOST, LossyProxy, migrated_settings, settings_of
from torture.servers import PostgreSQL

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.telemetry.metrics import CacheMetrics

Store = Persistence[str, str]
Settings = Callable[..., Awaitable[PersistenceSettings]]


@pytest_asyncio.fixture
async def proxy(postgresql: PostgreSQL) -> AsyncIterator[LossyProxy]:
    """A way to PostgreSQL that loses a COMMIT."""
    async with LossyProxy(postgresql) as found:
        yield found


@pytest_asyncio.fixture
async def behind(postgresql: PostgreSQL, proxy: LossyProxy) -> AsyncIterator[Store]:
    """A store behind the proxy."""
    direct = await migrated_settings(postgresql)
    assert direct.database is not None
    async with Store(settings_of(proxy.port, str(direct.database.sqlalchemy_url.database))) as store:
        yield store


@pytest.mark.parametrize(
    ("fate", "outcome", "retries"),
    [(REPLY_LOST, "committed", {}), (NEVER_ARRIVED, "not committed", {"UnavailableError": 1})],
)
async def test_a_commit_without_reply_is_counted_by_what_became_of_it(
    behind: Store,
    proxy: LossyProxy,
    user_id: str,
    caplog: pytest.LogCaptureFixture,
    fate: str,
    outcome: str,
    retries: dict[str, int],
) -> None:
    with caplog.at_level(logging.INFO, "agent_persistence"):
        async with proxy.losing_a_commit(fate):
            await behind.threads.create(user_id=user_id)

    metrics = behind.metrics()
    assert {name: count for name, count in metrics.commits_settled.items() if count} == {outcome: 1}
    assert metrics.retries == retries
    events = [vars(record)["event_name"] for record in caplog.records if record.name == "agent_persistence"]
    assert events == ["commit.settled", *["operation.retried"] * len(retries)]


def cache_of(store: Store) -> CacheMetrics:
    cache = store.metrics().cache
    assert cache is not None
    return cache


async def test_writes_during_an_outage_of_redis_are_counted_until_they_are_swept(
    settings_for: Settings, valkey: RedisServer, user_id: str
) -> None:
    async with Store(await settings_for(redis_url=valkey.unix_url)) as store:
        thread = await store.threads.create(user_id=user_id)
        await store.sweep()  # what tests before this one have left
        before = cache_of(store).swept

        valkey.kill()
        await store.states.put(thread.thread_id, {}, user_id=user_id)
        assert cache_of(store).unacknowledged == 1
        valkey.start()
        while not await store.sweep():
            pass

    assert cache_of(store).swept == before + 1
    assert cache_of(store).outbox_age.count >= 1
