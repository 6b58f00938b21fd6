"""An application's pool may let callers wait for longer than this package does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from agent_persistence import PersistenceSettings, PoolTimeoutError
from agent_persistence.database.pool_timeouts import limited_by_pool


async def test_a_caller_that_gives_up_on_an_exhausted_pool_is_told_of_it(
    settings_for: Callable[..., Awaitable[PersistenceSettings]],
) -> None:
    address = (await settings_for()).database_url
    assert address is not None
    url = make_url(address.get_secret_value()).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=30)

    async def limited(work: Awaitable[object]) -> None:
        with limited_by_pool(lambda: engine.sync_engine):
            await asyncio.wait_for(work, 0.01)

    async with engine.connect():
        with pytest.raises(PoolTimeoutError, match="application's engine"):
            await limited(engine.connect().start())
    with pytest.raises(TimeoutError):  # a statement that takes long has nothing to do with the pool
        await limited(asyncio.sleep(1))
    await engine.dispose()
