"""Servers from the distribution's packages. A test is skipped, and says what to install, where one is missing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from migrations.migration_servers import postgres_server
from redis.asyncio import Redis

from debian_redis import RedisServer

_OLDEST_POSTGRESQL = 15


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[str]:
    """The address of a PostgreSQL of the newest version that is installed."""
    versions = [int(folder.name) for folder in Path("/usr/lib/postgresql").glob("[0-9]*")]
    newest = max(versions, default=0)
    if newest < _OLDEST_POSTGRESQL:
        pytest.skip("no PostgreSQL of 15 or later in /usr/lib/postgresql: apt-get install postgresql")
    with postgres_server(Path(f"/usr/lib/postgresql/{newest}/bin")) as url:
        yield url


@pytest.fixture(scope="session")
def redis_program() -> str:
    """The path of Redis."""
    return installed("redis-server")


@pytest.fixture
def redis_server(redis_program: str, unused_tcp_port: int) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may treat as it likes."""
    server = RedisServer(redis_program, Path(tempfile.mkdtemp(prefix="ap-redis-")), unused_tcp_port)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder)


@pytest_asyncio.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of the test's own, to look behind the cache."""
    async with Redis.from_url(redis_server.unix_url) as client:
        yield client


@pytest.fixture(scope="session")
def pgbouncer_program() -> str:
    """The path of PgBouncer."""
    return installed("pgbouncer")


def installed(program: str) -> str:
    """Return the path of a program whose package has the same name, or skip the test."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is missing: apt-get install {program}")
    return path
