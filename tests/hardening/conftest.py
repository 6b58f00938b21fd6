"""Stores with short time limits, behind a proxy that a test can trap at any message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hardening.every_message import Store
from hardening.hardening_servers import migrated_settings, settings_of
from sqlalchemy.ext.asyncio import create_async_engine
from torture.proxy import Proxy, is_anything
from torture.servers import PostgreSQL

from agent_persistence import persistence as persistence_module
from agent_persistence import settings as settings_module
from agent_persistence.concurrency import time_limit
from agent_persistence.settings import PersistenceSettings


@pytest_asyncio.fixture
async def messages(postgresql: PostgreSQL) -> AsyncIterator[Proxy]:
    """The messages to PostgreSQL."""
    proxy = Proxy(postgresql.port, is_anything)
    await proxy.listen()
    yield proxy
    proxy.release()
    proxy.refuse()


@pytest_asyncio.fixture
async def messages_to_redis(servers: Any) -> AsyncIterator[Proxy]:
    """The messages to Redis."""
    # The server listens on a socket in the file system.
    proxy = Proxy(servers.redis_url.removeprefix("unix://").partition("?")[0], is_anything)
    await proxy.listen()
    yield proxy
    proxy.release()
    proxy.refuse()


@pytest_asyncio.fixture
async def short_limits(postgresql: PostgreSQL, messages: Proxy, monkeypatch: pytest.MonkeyPatch) -> PersistenceSettings:
    """Settings of a migrated database behind the proxy. The parts of limits that are no settings are short as well."""
    monkeypatch.setattr(settings_module, "_REPLY_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(settings_module, "SETTLE_SECONDS", 0.4)
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 0.4)
    monkeypatch.setattr(time_limit, "_GRACE_SECONDS", 0.1)

    direct = await migrated_settings(postgresql)
    assert direct.database is not None
    limits = {
        "statement_timeout": 0.4,
        "retry_deadline": 1.0,
        "connect_timeout": 0.4,
        "pool_timeout": 0.4,
        "checkpointer_cleanup_timeout": 1.0,
    }
    return settings_of(messages.port, str(direct.database.sqlalchemy_url.database), **limits)


@pytest_asyncio.fixture
async def limited(
    short_limits: PersistenceSettings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """A store with these limits; of the parameter ``host``, on an engine of the host without any limit of its own."""
    assert short_limits.database is not None
    is_hosted = getattr(request, "param", None) == "host"
    engine = create_async_engine(short_limits.database.sqlalchemy_url, pool_size=5) if is_hosted else None
    async with Store(short_limits, engine=engine) as store:
        monkeypatch.setattr(persistence_module, "CHECK_SECONDS", 0.0)  # only now: a busy machine may open it slowly
        yield store
    if engine is not None:
        await engine.dispose()
