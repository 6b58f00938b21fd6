"""A store that is opened when it is first needed: at addresses, or over what the host has open already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import ConnectionPool, Redis

from agent_persistence.cache.named_values import LocalValues, NamedValues, RedisValues
from agent_persistence.integrations.checkpointing.borrowed_pool import engine_over
from agent_persistence.integrations.checkpointing.store import CheckpointStore
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a store is made of.

    Attributes:
        settings: addresses and limits.
        pool: the host's asyncpg pool, in place of the address.
        redis: the host's client, in place of the address.
        redis_options: for the pool of the client that is made of the address.
        local: where values are kept without Redis.
        ttl_seconds: for how long.
    """

    settings: PersistenceSettings
    pool: Any = None
    redis: Redis | None = None
    redis_options: Mapping[str, Any] = field(default_factory=dict)
    local: LocalValues
    ttl_seconds: int


class Opening:
    """Opens a store once, in the event loop that asks first, and closes what it opened."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opened: CheckpointStore | None = None
        self._closing = AsyncExitStack()
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._opened is not None

    async def store(self) -> CheckpointStore:
        """Return the store; whatever was wrong with opening it is tried again by the next call."""
        if self._opened is None:
            async with self._lock:
                if self._opened is None:
                    self._opened = await self._open()
        return self._opened

    async def close(self) -> None:
        """Close it; the next call opens it again."""
        async with self._lock:
            self._opened = None
            await self._closing.aclose()

    async def _open(self) -> CheckpointStore:
        source = self._source
        async with AsyncExitStack() as stack:
            engine = None
            if source.pool is not None:
                engine = await engine_over(source.pool, source.settings)
                stack.push_async_callback(engine.dispose)
            redis = source.redis
            if redis is None and source.redis_options and source.settings.redis_url is not None:
                redis = _client(source.settings.redis_url.get_secret_value(), source.redis_options)
                stack.push_async_callback(redis.aclose)
            persistence = Persistence[Any, Any](source.settings, engine=engine, redis=redis)
            await stack.enter_async_context(persistence)
            self._closing = stack.pop_all()
        return store_over(persistence, source.local, ttl_seconds=source.ttl_seconds)


def store_over(persistence: Persistence[Any, Any], local: LocalValues, *, ttl_seconds: int) -> CheckpointStore:
    """Make the store of a ``Persistence``: its values are where its cache is."""
    cache = persistence.cache
    values: NamedValues = local
    if cache is not None:
        values = RedisValues(cache, call_seconds=persistence.settings.cache_budget_ms / 1000)
    return CheckpointStore(persistence, values, ttl_seconds=ttl_seconds)


def _client(url: str, options: Mapping[str, Any]) -> Redis:
    """Make a client with the host's options; it must return bytes, whatever they say."""
    return Redis.from_pool(ConnectionPool.from_url(url, **{**options, "decode_responses": False}))
