"""Another database at the same address while processes live on: one that was restored and renamed, or an upgrade."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import create_async_engine

from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Store = Persistence[str, str]


@dataclass(frozen=True)
class Address:
    """The address of a database with a thread ``t``, and a copy that takes its place."""

    settings: PersistenceSettings
    server: str
    name: str

    async def lead_to_the_copy(self) -> None:
        connection = await asyncpg.connect(self.server)
        await connection.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        await connection.execute(
            f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{self.name}'"
        )
        await connection.execute(f"ALTER DATABASE {self.name} RENAME TO {self.name}_old")
        await connection.execute(f"ALTER DATABASE {self.name}_copy RENAME TO {self.name}")
        await connection.close()


@pytest_asyncio.fixture
async def address(make_database: Callable[[], Awaitable[str]], servers: Any) -> Address:
    url = await make_database()
    settings = PersistenceSettings(
        _env_file=None,
        database_url=url,
        redis_url=servers.redis_url,
        auto_migrate=True,
        cache_sweep_interval=3600,
        cache_timeout_ms=2000,
        cache_budget_ms=4000,
    )
    async with Store(settings) as store:
        await store.threads.create(thread_id="t", user_id="ann")
        await store.states.put("t", 1, user_id="ann")
    name = urlsplit(url).path[1:]
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    await connection.close()
    return Address(settings, servers.database_url, name)


@pytest_asyncio.fixture(params=["an engine of the store", "an engine of the host"])
async def living(request: pytest.FixtureRequest, address: Address) -> AsyncIterator[Store]:
    """A store that lives through the change."""
    database = address.settings.database
    assert database is not None
    engine = None
    if request.param == "an engine of the host":
        engine = create_async_engine(database.sqlalchemy_url, connect_args=database.connect_args)
    async with Store(address.settings, engine=engine) as store:
        assert await read(store) == 1
        yield store
    if engine is not None:
        await engine.dispose()


async def read(store: Store) -> Any:
    return (await store.states.require("t", user_id="ann")).data


async def test_what_a_living_process_writes_to_the_new_database_is_read_by_new_processes(
    address: Address, living: Store
) -> None:
    await address.lead_to_the_copy()
    async with Store(address.settings) as new:
        assert await read(new) == 1

        await living.states.put("t", 2, user_id="ann")
        await new.sweep()

        assert (await read(new), await read(living)) == (2, 2)


async def test_once_it_has_connected_a_living_process_reads_what_new_processes_write(
    address: Address, living: Store
) -> None:
    await address.lead_to_the_copy()
    async with Store(address.settings) as new:
        await living.threads.page(user_id="ann")

        await new.states.put("t", 2, user_id="ann")

        assert await read(living) == 2


async def test_a_process_that_only_reads_the_cache_notices_within_the_interval_of_sweeps(address: Address) -> None:
    async with Store(address.settings.model_copy(update={"cache_sweep_interval": 0.05})) as living:
        assert await read(living) == 1
        await address.lead_to_the_copy()
        async with Store(address.settings) as new:
            await new.states.put("t", 2, user_id="ann")

        async with asyncio.timeout(5):
            while await read(living) != 2:  # noqa: ASYNC110  # nothing tells when another process's value is seen
                await asyncio.sleep(0.01)


async def test_more_connections_to_the_same_database_change_nothing(living: Store) -> None:
    hits = (await living.health()).cache_counts["hits"]
    async with living.begin(user_id="ann") as one, living.begin(user_id="ann") as other:
        await one.threads.page()
        await other.threads.page()

    assert await read(living) == 1
    assert (await living.health()).cache_counts["hits"] == hits + 1
