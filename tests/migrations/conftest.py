from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from migration_servers import postgres_server
from migration_testing import Database, with_database


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PERSISTENCE_", "ALEMBIC_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a PostgreSQL server: of the programs in ``TEST_POSTGRES_BIN``, else the embedded one."""
    if binaries := os.environ.get("TEST_POSTGRES_BIN"):
        with postgres_server(Path(binaries)) as url:
            yield url
    else:
        yield request.getfixturevalue("servers").database_url


@pytest_asyncio.fixture(scope="session")
async def reused_database(postgres: str) -> AsyncIterator[Database]:
    administrator = await asyncpg.connect(postgres)
    name = f"migrations_{os.getpid()}"
    await administrator.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield Database(with_database(postgres, name))
    await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await administrator.close()


@pytest_asyncio.fixture
async def database(reused_database: Database) -> AsyncIterator[Database]:
    """An empty database. It is emptied, not made anew: making one takes longer than most tests."""
    yield reused_database
    await reused_database.clear()
