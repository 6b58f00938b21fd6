"""A store that is opened by its first use."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio import ConnectionPool, Redis

from agent_persistence.cache.named_values import LocalValues, NamedValues, RedisValues
from agent_persistence.integrations.checkpointing.host_pool import engine_over
from agent_persistence.integrations.checkpointing.store import CheckpointStore
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings


class LazyStore:
    """A store that is opened once, by its first use, in the event loop of that use; ``aclose`` closes it.

    Args:
        settings: addresses and limits.
        local: keeps drafts and values where no Redis is configured.
        ttl_seconds: the lifetime of drafts and values, unless a call names another.
        redis_options: for the connection pool of the client that is made of ``settings.redis_url``.
        pool: the host's ``asyncpg.Pool``, used in place of the database's address and not closed.
        redis: the host's client, used in place of Redis' address and not closed.
    """

    def __init__(
        self,
        settings: PersistenceSettings,
        local: LocalValues,
        *,
        ttl_seconds: float,
        redis_options: Mapping[str, Any],
        pool: Any = None,
        redis: Redis | None = None,
    ) -> None:
        self._settings = settings
        self._local = local
        self._ttl_seconds = ttl_seconds
        self._redis_options = redis_options
        self._pool = pool
        self._redis = redis
        self._store: CheckpointStore | None = None
        self._closing = AsyncExitStack()
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is a store to close."""
        return self._store is not None

    async def open(self) -> CheckpointStore:
        """Return the store, opened if it is not open yet; after an error, the next call tries again."""
        if self._store is None:
            async with self._lock:
                if self._store is None:
                    self._store = await self._open()
        return self._store

    async def aclose(self) -> None:
        """Close the store; the next ``open`` opens another one."""
        # The lock waits for an open() that runs: its connections must not stay behind.
        async with self._lock:
            self._store = None
            await self._closing.aclose()

    async def _open(self) -> CheckpointStore:
        # If a step fails, the stack closes the steps before it; if all succeed, aclose() does.
        async with AsyncExitStack() as stack:
            engine = None
            if self._pool is not None:
                engine = await engine_over(self._pool, self._settings)
                stack.push_async_callback(engine.dispose)
            redis = self._redis
            if redis is None and self._redis_options and self._settings.redis_url is not None:
                redis = _client(self._settings.redis_url.get_secret_value(), self._redis_options)
                stack.push_async_callback(redis.aclose)
            persistence = Persistence[Any, Any](self._settings, engine=engine, redis=redis)
            await stack.enter_async_context(persistence)
            self._closing = stack.pop_all()
        return store_over(persistence, self._local, ttl_seconds=self._ttl_seconds)


def store_over(persistence: Persistence[Any, Any], local: LocalValues, *, ttl_seconds: float) -> CheckpointStore:
    """Make a store over a ``Persistence``; it keeps drafts and values in Redis, or in ``local`` without a cache."""
    cache = persistence.cache
    values: NamedValues = local
    if cache is not None:
        values = RedisValues(cache, call_seconds=persistence.settings.cache_budget_ms / 1000)
    return CheckpointStore(persistence, values, ttl_seconds=ttl_seconds)


def _client(url: str, options: Mapping[str, Any]) -> Redis:
    # The cache stores bytes: a pool that decodes responses, as the options may ask for, could not read them.
    return Redis.from_pool(ConnectionPool.from_url(url, **{**options, "decode_responses": False}))
