"""A schema a tenant, chosen by the search path of a session: no tenant reads another one's cached state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Store = Persistence[str, str]
Ways = Callable[[Store], AbstractAsyncContextManager[UnitOfWork[str, str]]]
TO_B = text("SET LOCAL search_path = b")


@pytest_asyncio.fixture(scope="module")
async def settings(make_database: Callable[[], Awaitable[str]], servers: Any) -> PersistenceSettings:
    """Two tenants with a thread of the same id: tenant a in public, and tenant b."""
    url = await make_database()
    for schema, state in (("public", "of a"), ("b", "of b")):
        one = PersistenceSettings(_env_file=None, database_url=url, db_schema=schema, auto_migrate=True)
        async with Store(one) as store:
            await store.threads.create(thread_id="t", user_id="ann")
            await store.states.put("t", state, user_id="ann")
    return PersistenceSettings(
        _env_file=None, database_url=url, redis_url=servers.redis_url, cache_timeout_ms=2000, cache_budget_ms=4000
    )


@asynccontextmanager
async def in_the_transaction(store: Store) -> AsyncIterator[UnitOfWork[str, str]]:
    async with AsyncSession(store.engine) as session:
        await session.execute(TO_B)
        yield store.bind(session, user_id="ann")


@asynccontextmanager
async def after_bind(store: Store) -> AsyncIterator[UnitOfWork[str, str]]:
    async with AsyncSession(store.engine) as session:
        uow = store.bind(session, user_id="ann")
        await session.execute(TO_B)
        yield uow


@asynccontextmanager
async def as_the_transaction_begins(store: Store) -> AsyncIterator[UnitOfWork[str, str]]:
    async with AsyncSession(store.engine) as session:
        event.listen(session.sync_session, "after_begin", lambda _session, _begun, connection: connection.execute(TO_B))
        yield store.bind(session, user_id="ann")


@asynccontextmanager
async def by_an_engine_of_the_host(store: Store) -> AsyncIterator[UnitOfWork[str, str]]:
    engine = create_async_engine(store.engine.url, connect_args={"server_settings": {"search_path": "b"}})
    async with AsyncSession(engine) as session:
        yield store.bind(session, user_id="ann")
    await engine.dispose()


@asynccontextmanager
async def in_a_unit_of_work(store: Store) -> AsyncIterator[UnitOfWork[str, str]]:
    async with store.begin(user_id="ann") as uow:
        await uow.session.execute(TO_B)
        yield uow


@pytest.mark.parametrize(
    "way",
    [in_the_transaction, after_bind, as_the_transaction_begins, by_an_engine_of_the_host, in_a_unit_of_work],
)
async def test_a_session_with_the_search_path_of_a_tenant_reads_that_tenants_state(
    settings: PersistenceSettings, way: Ways
) -> None:
    async with Store(settings) as store:
        assert (await store.states.require("t", user_id="ann")).data == "of a"  # and fills the cache

        async with way(store) as uow:
            found = await uow.states.require("t")

    assert found.data == "of b"


async def test_with_a_schema_that_is_named_sessions_of_the_host_read_the_cache(settings: PersistenceSettings) -> None:
    async with Store(settings.model_copy(update={"db_schema": "public"})) as store:
        await store.states.require("t", user_id="ann")
        hits = (await store.health()).cache_counts["hits"]

        async with AsyncSession(store.engine) as session:
            found = await store.bind(session, user_id="ann").states.require("t")
        after = (await store.health()).cache_counts["hits"]

    assert (found.data, after - hits) == ("of a", 1)
