"""The checks of ``doctor`` in Redis."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from agent_persistence.cache import make_redis
from agent_persistence.cli.checkup import Finding, Level
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

# An application gives up after PERSISTENCE_CACHE_TIMEOUT_MS; here a slow answer is measured, not missed.
_PATIENCE_SECONDS = 2.0
_OFF = "off: PERSISTENCE_REDIS_URL is not set, states are read from PostgreSQL"


async def examine_cache(settings: PersistenceSettings) -> list[Finding]:
    """Check the server, how fast it answers, and its policy for full memory."""
    if settings.redis_url is None:
        return [Finding(Level.OK, "cache", _OFF)]
    redis = make_redis(settings.redis_url.get_secret_value(), timeout_seconds=_PATIENCE_SECONDS)
    try:
        await _ping(redis)
        return [await _speed(redis, settings.cache_timeout_ms), await _memory(redis)]
    except (RedisError, OSError) as error:
        detail = f"does not answer ({error}); states are read from PostgreSQL"
        return [Finding(Level.FAIL, "cache", detail, "start the server, or correct PERSISTENCE_REDIS_URL")]
    finally:
        await redis.aclose()


async def examine_values(persistence: Persistence[Any, Any]) -> list[Finding]:
    """Compare cached states with the database; both servers must be reachable."""
    if persistence.cache is None:
        return []
    audit = await persistence.audit_cache()
    if audit.stale_beyond_bound:
        stale = f"{audit.stale_beyond_bound} of {audit.checked} cached states are not what the database holds"
        remedy = (
            "set another PERSISTENCE_CACHE_NAMESPACE; "
            "agent-persistence optional add outside-writes, if others write the tables or restored them"
        )
        return [Finding(Level.FAIL, "cache values", stale, remedy)]
    if audit.unreadable:
        detail = f"{audit.unreadable} cannot be read and count as absent, {audit.checked} are what the database holds"
        remedy = "see who else writes to keys that begin with PERSISTENCE_CACHE_NAMESPACE in this Redis"
        return [Finding(Level.WARN, "cache values", detail, remedy)]
    return [Finding(Level.OK, "cache values", f"{audit.checked} are what the database holds")]


async def _speed(redis: Redis, limit_ms: int) -> Finding:
    started = time.perf_counter()
    await _ping(redis)
    took_ms = (time.perf_counter() - started) * 1000
    if took_ms > limit_ms:
        remedy = "raise PERSISTENCE_CACHE_TIMEOUT_MS, or move the cache nearer"
        return Finding(Level.WARN, "cache", f"answers in {took_ms:.1f} ms, the limit is {limit_ms} ms", remedy)
    return Finding(Level.OK, "cache", f"answers in {took_ms:.1f} ms")


async def _ping(redis: Redis) -> None:
    await redis.execute_command("PING")  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


async def _memory(redis: Redis) -> Finding:
    try:
        info: Mapping[str, Any] = await redis.info()
    except ResponseError:
        detail = "this user may not run INFO, so the server's maxmemory-policy is not known"
        return Finding(Level.WARN, "cache memory", detail, "set the policy to allkeys-lru")
    server = f"{_product(info)}, maxmemory-policy {info.get('maxmemory_policy')}"
    if info.get("maxmemory_policy") != "noeviction":
        return Finding(Level.OK, "cache memory", server)
    detail = f"{server}: once its memory is full it refuses writes, and nothing is cached any more"
    return Finding(Level.WARN, "cache memory", detail, "redis-cli CONFIG SET maxmemory-policy allkeys-lru")


def _product(info: Mapping[str, Any]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version')}"
