"""Checkpointers of both frameworks, on the servers of the run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from frameworks import NAMES, Framework, framework

from agent_persistence.embedded import EmbeddedServers
from agent_persistence.settings import PersistenceSettings

MakeCheckpointer = Callable[..., Any]


@pytest.fixture(params=NAMES)
def words(request: pytest.FixtureRequest) -> Framework:
    """Each framework."""
    return framework(request.param)


@pytest.fixture
def agentflow() -> Framework:
    """Agentflow, for calls that PyAgenity does not have."""
    return framework("agentflow")


@pytest_asyncio.fixture
async def address(settings_for: Callable[..., Awaitable[PersistenceSettings]], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a migrated database with string ids, with time for Redis to answer on a busy machine."""
    monkeypatch.setenv("PERSISTENCE_CACHE_TIMEOUT_MS", "2000")
    monkeypatch.setenv("PERSISTENCE_CACHE_BUDGET_MS", "4000")
    url = (await settings_for()).database_url
    assert url is not None
    return url.get_secret_value()


@pytest_asyncio.fixture
async def make(address: str, servers: EmbeddedServers) -> AsyncIterator[MakeCheckpointer]:
    """Make checkpointers of a framework at the addresses of the run, unless told otherwise."""
    made: list[Any] = []

    def make_one(words: Framework, ours: Any = None, **arguments: Any) -> Any:
        given = {"postgres_dsn": address, "redis_url": servers.redis_url, **arguments}
        made.append((ours or words.ours)(**{name: value for name, value in given.items() if value is not None}))
        return made[-1]

    yield make_one
    for one in made:
        await one.arelease()


@pytest.fixture
def config(user_id: str) -> dict[str, Any]:
    """A config with a new thread and a new user."""
    return {"thread_id": f"thread-{uuid.uuid4()}", "user_id": user_id}
