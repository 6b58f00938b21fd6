"""A store that is measured, for a test that counts what it alone did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from agent_persistence import Persistence, PersistenceSettings

Settings = Callable[..., Awaitable[PersistenceSettings]]


@pytest_asyncio.fixture
async def measured(settings_for: Settings) -> AsyncIterator[Persistence[str, str]]:
    """A store with durations, whose slow operations are those of a tenth of a second."""
    async with Persistence[str, str](await settings_for(metrics=True, slow_operation_ms=100)) as store:
        yield store


@pytest_asyncio.fixture
async def unmeasured(settings_for: Settings) -> AsyncIterator[Persistence[str, str]]:
    """A store as it is without any setting."""
    async with Persistence[str, str](await settings_for()) as store:
        yield store
