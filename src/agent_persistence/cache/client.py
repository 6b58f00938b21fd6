"""The Redis client, configured for the circuit breaker."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agent_persistence.cache.circuit_breaker import CALLS_AT_ONCE


def make_redis(url: str, *, timeout_seconds: float) -> Redis:
    """Create a client that fails fast: short timeouts, no retries, a bounded pool; it returns bytes.

    redis-py's defaults retry for seconds (58 s against a server that hangs). The retry object must be the one of
    ``redis.asyncio``: the synchronous one is accepted and does nothing.

    Args:
        url: the address of the server.
        timeout_seconds: the limit for connecting, for each call, and for a connection from the pool.
    """
    # Blocking, because two circuit breakers share the client (cached states, named values), so more calls than
    # connections can arrive. The plain pool refuses those at once, which would count as failures of Redis.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CALLS_AT_ONCE,
        timeout=timeout_seconds,
        # The circuit breaker's limit comes first: it knows how long the event loop was busy.
        socket_timeout=3 * timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )
    return Redis.from_pool(pool)
