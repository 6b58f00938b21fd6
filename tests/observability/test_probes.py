"""Probes answer at once, whatever the pool, the database and Redis do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio
from debian.debian_redis import RedisServer
from fastapi import FastAPI
from hardening.hardening_servers import migrated_settings, settings_of
from torture.proxy import Proxy, is_anything
from torture.servers import PostgreSQL

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.database import probe
from agent_persistence.integrations.fastapi import install
from agent_persistence.integrations.probes import probes
from agent_persistence.operations import probes as probes_module

Store = Persistence[str, str]
Settings = Callable[..., Awaitable[PersistenceSettings]]


@pytest_asyncio.fixture
async def proxy(postgresql: PostgreSQL) -> AsyncIterator[Proxy]:
    """A way to PostgreSQL that a test can close."""
    found = Proxy(postgresql.port, is_anything)
    await found.listen()
    yield found
    found.release()
    found.refuse()


@pytest_asyncio.fixture
async def behind(postgresql: PostgreSQL, proxy: Proxy) -> AsyncIterator[Store]:
    """A store behind the proxy, whose probes forget after a moment."""
    direct = await migrated_settings(postgresql)
    assert direct.database is not None
    name = str(direct.database.sqlalchemy_url.database)
    async with Store(settings_of(proxy.port, name, connect_timeout=0.4, pool_timeout=0.4)) as store:
        yield store


async def answers(app: FastAPI, *paths: str) -> dict[str, int]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return {path: (await client.get(path)).status_code for path in paths}


async def test_a_store_that_is_not_open_is_neither_live_nor_ready(settings_for: Settings) -> None:
    store = Store(await settings_for())
    before = (store.started, store.live, (await store.readiness()).ready)
    async with store:
        during = (store.started, store.live, (await store.readiness()).ready)
    after = (store.live, (await store.readiness()).ready)

    assert before == (False, False, False)
    assert during == (True, True, True)
    assert after == (False, False)


async def test_the_routes_follow_the_application(settings_for: Settings) -> None:
    settings = await settings_for()
    app = FastAPI()
    install(app, lambda: Store(settings))
    probes(app, prefix="/internal")
    paths = ("/internal/livez", "/internal/readyz", "/internal/startupz")

    before = await answers(app, *paths)
    async with app.router.lifespan_context(app):
        during = await answers(app, *paths)
    after = await answers(app, *paths)

    assert before == after == dict(zip(paths, (200, 503, 503), strict=True))
    assert during == dict.fromkeys(paths, 200)
    assert paths[0] not in app.openapi()["paths"]


async def test_a_database_that_is_away_makes_a_store_unready_within_two_seconds(behind: Store, proxy: Proxy) -> None:
    assert (await behind.readiness()).ready
    began = time.monotonic()

    proxy.refuse()
    while (await behind.readiness()).ready:  # noqa: ASYNC110 - a probe is asked, as Kubernetes does
        await asyncio.sleep(0.05)

    assert time.monotonic() - began < 2
    assert behind.live
    assert (await behind.readiness()).database == "down"


async def test_a_busy_pool_is_no_outage(settings_for: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "FRESH_SECONDS", 0.5)
    async with Store(await settings_for(pool_size=1, max_overflow=0)) as store, AsyncExitStack() as held:
        await held.enter_async_context(store.engine.connect())
        await asyncio.sleep(0.5)  # nobody was answered since

        began = time.monotonic()
        readiness = await store.readiness()

        assert readiness.ready
        assert time.monotonic() - began < 0.5


async def test_many_probes_cost_one_statement_a_second(settings_for: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    usual = probe.answers

    async def counted(*args: Any, **kwargs: Any) -> bool:
        asked.append(time.monotonic())
        return await usual(*args, **kwargs)

    async with Store(await settings_for()) as store:
        await asyncio.sleep(0)
        monkeypatch.setattr(probes_module, "answers", counted)
        monkeypatch.setattr(store._sessions.connections, "answered_at", float("-inf"))  # noqa: SLF001
        await asyncio.gather(*(store.readiness() for _ in range(100)))
        await asyncio.gather(*(store.readiness() for _ in range(100)))

    assert len(asked) == 1


async def test_the_traffic_of_others_is_the_answer(
    settings_for: Settings, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(probes_module, "answers", refuse)
    async with Store(await settings_for()) as store:
        await store.threads.get("none", user_id=user_id)

        assert (await store.readiness()).ready


async def test_a_redis_that_is_away_is_said_and_is_no_outage(
    settings_for: Settings, valkey: RedisServer, user_id: str
) -> None:
    async with Store(await settings_for(redis_url=valkey.unix_url, cache_timeout_ms=50, cache_budget_ms=100)) as store:
        assert (await store.readiness()).cache == "up"
        valkey.kill()
        for _ in range(3):
            await store.states.get("none", user_id=user_id)

        readiness = await store.readiness()

    assert (readiness.ready, readiness.cache) == (True, "down")
    cache = store.metrics().cache
    assert cache is not None
    assert (cache.breaker_open, cache.openings) == (True, 1)


async def test_health_has_a_limit_of_its_own(behind: Store, proxy: Proxy) -> None:
    proxy.stall()
    began = time.monotonic()

    health = await behind.health(timeout_seconds=0.2)

    assert health.database == "down"
    assert time.monotonic() - began < 1
    proxy.release()
