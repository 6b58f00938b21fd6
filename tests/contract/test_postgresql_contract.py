"""The PostgreSQL backend keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio

from agent_persistence import migrate
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.settings import PersistenceSettings
from agent_persistence.testing import CheckpointerContract

Open = Callable[..., Awaitable[PostgreSQLCheckpointer]]


@pytest_asyncio.fixture(scope="module")
async def schemas(settings_for: Callable[..., Awaitable[PersistenceSettings]]) -> dict[str, PersistenceSettings]:
    """Settings for each namespace of the contract, with a schema for each."""
    found = {
        namespace: await settings_for(db_schema=namespace.replace("-", "_"), thread_touch_interval=0)
        for namespace in ("contract-a", "contract-b")
    }
    for settings in found.values():
        await migrate.upgrade(settings)
    return found


class TestPostgreSQL(CheckpointerContract):
    backend = PostgreSQLCheckpointer

    @pytest_asyncio.fixture
    async def open_checkpointer(self, schemas: dict[str, Any]) -> AsyncIterator[Open]:
        async with AsyncExitStack() as opened:

            async def open_checkpointer(user_id: str, *, namespace: str = "contract-a") -> PostgreSQLCheckpointer:
                made = PostgreSQLCheckpointer.from_settings(schemas[namespace], user_id=user_id)
                return await opened.enter_async_context(made)

            yield open_checkpointer
