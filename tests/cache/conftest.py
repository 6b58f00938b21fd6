"""Tests of the cache look behind the store, and change it: each has one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio
from connections import all_are_back

from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings


@pytest_asyncio.fixture
async def persistence(
    settings_for: Callable[..., Awaitable[PersistenceSettings]],
) -> AsyncIterator[Persistence[str, str]]:
    """A store with string ids and no keys in its cache."""
    async with Persistence[str, str](await settings_for()) as store:
        yield store
        assert await all_are_back(store)
