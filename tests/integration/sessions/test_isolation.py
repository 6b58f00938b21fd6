"""Databases whose transactions are of another isolation by default: ours say what they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from agent_persistence import migrate
from agent_persistence.errors import InvalidInputError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

ISOLATION = text("SHOW transaction_isolation")


@pytest.mark.parametrize("default", ["repeatable read", "serializable"])
@pytest.mark.parametrize("engine_of", ["the store", "the host"])
async def test_every_transaction_of_ours_is_read_committed(
    make_database: Callable[[], Awaitable[str]], default: str, engine_of: str
) -> None:
    url = await make_database()
    settings = PersistenceSettings(_env_file=None, database_url=url)
    await migrate.upgrade(settings)
    connection = await asyncpg.connect(url)
    await connection.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} SET default_transaction_isolation = '{default}'")
    await connection.close()
    assert settings.database is not None
    engine = create_async_engine(settings.database.sqlalchemy_url, connect_args=settings.database.connect_args)

    async with Persistence[str, str](settings, engine=engine if engine_of == "the host" else None) as store:
        thread_id = (await store.threads.create(user_id="ann")).thread_id
        await store.states.put(thread_id, 1, expected_version=0, user_id="ann")
        async with store.begin(user_id="ann") as uow:
            found = [await uow.session.scalar(ISOLATION)]
            await uow.states.put(thread_id, 2, expected_version=1)

        async def save(uow: UnitOfWork[str, str]) -> None:
            found.append(await uow.session.scalar(ISOLATION))
            await uow.states.put(thread_id, 3, expected_version=2)

        await store.run(save, user_id="ann")
        async with AsyncSession(engine) as session:
            with pytest.raises(InvalidInputError, match="needs READ COMMITTED"):
                await store.bind(session, user_id="ann").states.put(thread_id, 4, expected_version=3)
        latest = await store.states.require(thread_id, user_id="ann")
    await engine.dispose()

    assert found == ["read committed", "read committed"]
    assert latest.data == 3
