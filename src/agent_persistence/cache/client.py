"""A Redis client as the guard needs it."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agent_persistence.cache.circuit_breaker import CALLS_AT_ONCE


def make_redis(url: str, *, timeout_seconds: float) -> Redis:
    """Make a client that gives up at once: bytes, no retries, short timeouts, a bounded pool.

    The library's own defaults retry for seconds (58 s against a server that hangs). The retry object must be the
    asyncio one: the synchronous one is taken without complaint and does nothing.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CALLS_AT_ONCE,
        timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )
    return Redis.from_pool(pool)
