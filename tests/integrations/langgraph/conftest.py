"""A checkpointer for each test, in the database of the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import pytest_asyncio

from agent_persistence import Persistence, PersistenceSettings, migrate
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver


@pytest.fixture
def saver(persistence: Persistence[str, str], user_id: str) -> PersistenceSaver:
    """A checkpointer of an owner who has nothing yet."""
    return PersistenceSaver(persistence, user_id=user_id)


@pytest.fixture
def config() -> dict[str, Any]:
    """The config of a new thread."""
    return {"configurable": {"thread_id": str(uuid7()), "checkpoint_ns": ""}}


@pytest_asyncio.fixture
async def sync_saver(settings_for: Any, user_id: str) -> AsyncIterator[PersistenceSaver]:
    """A checkpointer that opens its Persistence itself, when it is first called from a thread without a loop."""
    made = PersistenceSaver(Persistence(await settings_for()), user_id=user_id)
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads without an event loop."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture(scope="session")
def plain_settings(make_database: Callable[[], Awaitable[str]]) -> PersistenceSettings:
    """Settings of a database for tests that run event loops of their own."""

    async def make() -> PersistenceSettings:
        settings = PersistenceSettings(_env_file=None, database_url=await make_database())  # type: ignore[call-arg]  # pydantic-settings' own keyword
        await migrate.upgrade(settings)
        return settings

    return asyncio.run(make())
