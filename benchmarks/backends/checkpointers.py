"""The backends."""

from __future__ import annotations

from typing import Any, ClassVar

from redis.asyncio import Redis

from agent_persistence import Persistence
from agent_persistence.backends.memory import MemoryCheckpointer
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.backends.redis import RedisCheckpointer
from benchmarks.backends import OWNER, Backend
from benchmarks.contender import Addresses
from benchmarks.ours import settings_for


class PostgreSQL(Backend):
    """On a ``Persistence`` without a cache."""

    name: ClassVar[str] = "postgresql"

    async def open(self, addresses: Addresses) -> None:
        """Open it."""
        self.title = "agent-persistence: PostgreSQLCheckpointer"
        self.persistence: Persistence[Any, Any] = Persistence(settings_for(addresses))
        await self.persistence.__aenter__()
        self.checkpointer = PostgreSQLCheckpointer(user_id=OWNER, persistence=self.persistence)

    async def close(self) -> None:
        """Close both."""
        await super().close()
        await self.persistence.aclose()


class InRedis(Backend):
    """On the server that is otherwise a cache: it writes nothing to the disk."""

    name: ClassVar[str] = "redis"

    async def open(self, addresses: Addresses) -> None:
        """Make a client."""
        self.title = "agent-persistence: RedisCheckpointer"
        self.redis = Redis.from_url(addresses.redis)
        self.checkpointer = RedisCheckpointer(user_id=OWNER, client=self.redis, namespace="benchmark")

    async def close(self) -> None:
        """Close both."""
        await super().close()
        await self.redis.aclose()


class Memory(Backend):
    """In this process."""

    name: ClassVar[str] = "memory"

    async def open(self, addresses: Addresses) -> None:  # noqa: ARG002  # it needs no server
        """Make it."""
        self.title = "agent-persistence: MemoryCheckpointer"
        self.checkpointer = MemoryCheckpointer(user_id=OWNER)
