from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from torture.servers import PostgreSQL

from hardening_servers import own_postgresql


@pytest_asyncio.fixture(scope="session")
async def postgresql() -> AsyncIterator[PostgreSQL]:
    """A server that tests may crash, as long as they start it again."""
    async with own_postgresql() as server:
        yield server
