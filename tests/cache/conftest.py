"""Tests of the cache look behind the store, and change it: each has one of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from connections import all_are_back
from debian.debian_redis import RedisServer

from agent_persistence.embedded.binaries import valkey_binary
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


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    """A Valkey of the test's own, which it may treat as it likes."""
    server = RedisServer(str(valkey_binary()), Path(tempfile.mkdtemp(prefix="ap-valkey-")), port=0)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder)
