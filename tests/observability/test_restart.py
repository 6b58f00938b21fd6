"""A restart of PostgreSQL and of Redis under load, seen as an operator sees it: by metrics, probes and the log."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import prometheus_client
import pytest
import pytest_asyncio
from debian.debian_redis import RedisServer
from fastapi import FastAPI
from hardening.hardening_servers import REPLY_LOST, LossyProxy, migrated_settings, settings_of
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from torture.servers import PostgreSQL

from agent_persistence import Persistence, UnitOfWork
from agent_persistence.integrations.fastapi import install
from agent_persistence.integrations.probes import probes
from agent_persistence.integrations.prometheus import PersistenceCollector
from agent_persistence.telemetry.identities import hashed

pytestmark = pytest.mark.slow

Store = Persistence[str, str]
CALLERS = 8
ABOUT = {"operation", "thread_id", "owner", "duration_ms", "batch"}


class Operator:
    """Asks an application what an operator's tools ask."""

    def __init__(self, store: Store) -> None:
        registry, app = CollectorRegistry(), FastAPI()
        registry.register(PersistenceCollector(store))
        install(app, lambda: store)
        probes(app, persistence=lambda: store)
        app.mount("/metrics", prometheus_client.make_asgi_app(registry))
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def status(self, probe: str) -> int:
        return (await self._client.get(probe)).status_code

    async def value(self, name: str, **labels: str) -> float:
        """The sum of the series with these labels."""
        text = (await self._client.get("/metrics/")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def sees(self, probe: str, status: int) -> None:
        """Wait until a probe answers so."""
        async with asyncio.timeout(20):
            while await self.status(probe) != status:  # noqa: ASYNC110 - as a probe does
                await asyncio.sleep(0.05)

    async def aclose(self) -> None:
        await self._client.aclose()


class Callers:
    """Callers who write and read all the time."""

    def __init__(self, store: Store, user_id: str) -> None:
        self._store, self._user_id = store, user_id
        self._ending = False
        self.rounds = 0

    async def work(self) -> None:
        thread = await self._store.threads.create(user_id=self._user_id)
        while not self._ending:
            await self._store.messages.append(thread.thread_id, {"role": "user", "content": "x"}, user_id=self._user_id)
            await self._store.states.put(thread.thread_id, {"n": self.rounds}, user_id=self._user_id)
            await self._store.states.get(thread.thread_id, user_id=self._user_id)
            rename = partial(self._rename, thread.thread_id)  # whose COMMIT leaves evidence
            await self._store.run(rename, user_id=self._user_id)
            self.rounds += 1

    async def _rename(self, thread_id: str, uow: UnitOfWork[str, str]) -> None:
        await uow.threads.update(thread_id, name=f"round {self.rounds}")

    async def go_on(self) -> None:
        """Wait for some more rounds."""
        enough = self.rounds + 2 * CALLERS
        async with asyncio.timeout(20):
            while self.rounds < enough:  # noqa: ASYNC110 - the callers have enough to do
                await asyncio.sleep(0.01)

    def end(self) -> None:
        self._ending = True


@pytest_asyncio.fixture
async def proxy(postgresql: PostgreSQL) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(postgresql) as found:
        yield found


@pytest_asyncio.fixture
async def store(postgresql: PostgreSQL, proxy: LossyProxy, valkey: RedisServer) -> AsyncIterator[Store]:
    direct = await migrated_settings(postgresql)
    assert direct.database is not None
    name = str(direct.database.sqlalchemy_url.database)
    cache = {"cache_timeout_ms": 50, "cache_budget_ms": 100, "cache_sweep_interval": 0.2}
    async with Store(settings_of(proxy.port, name, redis_url=valkey.unix_url, metrics=True, **cache)) as opened:
        yield opened


@pytest_asyncio.fixture
async def operator(store: Store) -> AsyncIterator[Operator]:
    found = Operator(store)
    yield found
    await found.aclose()


async def test_a_restart_is_seen_by_metrics_probes_and_log_and_by_no_caller(
    store: Store,
    operator: Operator,
    proxy: LossyProxy,
    postgresql: PostgreSQL,
    valkey: RedisServer,
    user_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "agent_persistence")
    callers = Callers(store, user_id)
    async with asyncio.TaskGroup() as group:  # an error to one of them fails the test
        for _ in range(CALLERS):
            group.create_task(callers.work())
        await callers.go_on()
        assert [await operator.status(probe) for probe in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]
        assert await operator.value("agent_persistence_retries_total") == 0

        async with proxy.losing_a_commit(REPLY_LOST, then_away=True):
            valkey.kill()
            await operator.sees("/readyz", 503)
        await postgresql.end(signal.SIGINT)
        assert await operator.status("/livez") == 200
        assert await operator.value("agent_persistence_retries_total", error_type="UnavailableError") > 0
        postgresql.start()
        await postgresql.answers()
        await proxy.come_back()
        await operator.sees("/readyz", 200)
        await callers.go_on()
        opened = await operator.value("agent_persistence_cache_breaker_open")
        valkey.start()
        async with asyncio.timeout(20):
            while await operator.value("agent_persistence_cache_breaker_open"):  # noqa: ASYNC110 - as a scrape does
                await asyncio.sleep(0.1)
        await callers.go_on()
        callers.end()

    assert opened == 1
    assert await operator.value("agent_persistence_cache_breaker_openings_total") >= 1
    assert await operator.value("agent_persistence_cache_unacknowledged_total") > 0
    settled = "agent_persistence_commits_settled_total"
    assert await operator.value(settled, outcome="committed") >= 1
    assert await operator.value(settled, outcome="unknown") == 0
    assert await operator.value("agent_persistence_queue_length") == 0
    assert await operator.value("db_client_connection_pending_requests") == 0
    done = "agent_persistence_operation_duration_seconds_count"
    assert await operator.value(done) == await operator.value(done, error_type="") > 0
    assert store.metrics().retries == {
        "UnavailableError": await operator.value("agent_persistence_retries_total", error_type="UnavailableError")
    }

    lines = lines_of(caplog, "operation.retried")
    assert len(lines) == sum(store.metrics().retries.values())
    assert all(line["attempt"] >= 2 and line["error_type"] == "UnavailableError" for line in lines)
    settlements = lines_of(caplog, "commit.settled")
    assert len(settlements) == sum(store.metrics().commits_settled.values())
    openings = lines_of(caplog, "cache.unavailable")
    assert len(openings) == await operator.value("agent_persistence_cache_breaker_openings_total")
    assert lines_of(caplog, "cache.available")[0]["seconds"] > 0
    for line in (*lines, *settlements, *openings):
        about = ABOUT & line.keys()
        assert about >= {"operation", "duration_ms", "batch"} or not about  # the sweeper's lines are about no operation
        assert line.get("owner", hashed(user_id)) == hashed(user_id)
    for found in (lines, settlements):  # a statement that callers of several threads share is about none of them
        assert any(line.keys() >= ABOUT - {"thread_id"} for line in found)


def lines_of(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if getattr(record, "event_name", "") == event]
