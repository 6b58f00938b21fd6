"""The Redis backend keeps the contract, on one server and on a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from redis.asyncio import RedisCluster

from agent_persistence.backends.redis import RedisCheckpointer
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.testing import CheckpointerContract
from valkey_cluster import valkey_cluster

Open = Callable[..., Awaitable[RedisCheckpointer]]


@pytest_asyncio.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisCluster]:
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as port:
        async with RedisCluster(host="127.0.0.1", port=port) as client:
            yield client


class TestRedis(CheckpointerContract):
    backend = RedisCheckpointer

    @pytest_asyncio.fixture
    async def open_checkpointer(self, servers: EmbeddedServers) -> AsyncIterator[Open]:
        async with AsyncExitStack() as opened:

            async def open_checkpointer(user_id: str, *, namespace: str = "contract-a") -> RedisCheckpointer:
                made = RedisCheckpointer(url=servers.redis_url, user_id=user_id, namespace=namespace)
                return await opened.enter_async_context(made)

            yield open_checkpointer


class TestRedisCluster(CheckpointerContract):
    backend = RedisCheckpointer

    @pytest.fixture
    def open_checkpointer(self, cluster: RedisCluster) -> Open:
        async def open_checkpointer(user_id: str, *, namespace: str = "contract-a") -> RedisCheckpointer:
            return RedisCheckpointer(client=cluster, user_id=user_id, namespace=namespace)

        return open_checkpointer

    async def test_owners_are_spread_over_the_nodes(self, cluster: RedisCluster) -> None:
        for number in range(30):
            async with RedisCheckpointer(client=cluster, user_id=f"{number}", namespace="spread") as checkpointer:
                await checkpointer.save_state("t", {})

        held = [
            [key async for key in cluster.scan_iter("spread:*", target_nodes=node)] for node in cluster.get_primaries()
        ]
        assert len(held) == 3
        assert all(held)
