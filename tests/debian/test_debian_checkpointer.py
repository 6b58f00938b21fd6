"""The Redis backend keeps the contract on the distribution's Redis."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from agent_persistence.backends.redis import RedisCheckpointer
from agent_persistence.testing import CheckpointerContract
from debian_redis import RedisServer

Open = Callable[..., Awaitable[RedisCheckpointer]]


@pytest.fixture(scope="module")
def redis_url(redis_program: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = RedisServer(redis_program, Path(tempfile.mkdtemp(prefix="ap-redis-")), port)
    server.start()
    yield server.unix_url
    server.kill()
    shutil.rmtree(server.folder)


@pytest.mark.needs_apt
class TestDebianRedis(CheckpointerContract):
    backend = RedisCheckpointer

    @pytest_asyncio.fixture
    async def open_checkpointer(self, redis_url: str) -> AsyncIterator[Open]:
        async with Redis.from_url(redis_url) as client:

            async def open_checkpointer(user_id: str, *, namespace: str = "contract-a") -> RedisCheckpointer:
                return RedisCheckpointer(client=client, user_id=user_id, namespace=namespace)

            yield open_checkpointer
