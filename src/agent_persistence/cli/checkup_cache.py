"""The checks of ``doctor`` in Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    ClusterCrossSlotError,
    ClusterError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from agent_persistence.cache import make_redis
from agent_persistence.cache.client import CONNECT_SECONDS
from agent_persistence.cache.codec import HEAD_BYTES, VALUE
from agent_persistence.cache.keys import keys_pattern, state_key
from agent_persistence.cache.register import QUARANTINE, StateRegister, new_token
from agent_persistence.cli.finding import Finding, Level
from agent_persistence.cli.variables import given_variables
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

# An application gives up after PERSISTENCE_CACHE_TIMEOUT_MS; here a slow answer is measured, not missed.
_PATIENCE_SECONDS = 2.0
_ROUND_MS = 10_000
_OFF = "off: PERSISTENCE_REDIS_URL is not set, states are read from PostgreSQL"


async def examine_cache(settings: PersistenceSettings) -> list[Finding]:
    """Check the server with the commands of the cache, how fast it answers, and its policy for full memory."""
    if settings.redis_url is None:
        unread = "; REDIS_URL is set, and not read here" if "REDIS_URL" in given_variables() else ""
        return [Finding(Level.OK, "cache", f"{_OFF}{unread}")]
    redis = make_redis(settings.redis_url.get_secret_value(), timeout_seconds=_PATIENCE_SECONDS)
    try:
        connecting_ms = await _timed(_ping(redis))
        slowest_ms = await _round(StateRegister(redis), settings.cache_namespace)
        return [_speed(connecting_ms, slowest_ms, settings.cache_timeout_ms), await _memory(redis)]
    except (RedisError, OSError) as error:
        return [_failure(error, settings)]
    finally:
        await redis.aclose()


def _failure(error: Exception, settings: PersistenceSettings) -> Finding:
    detail = f"does not answer ({error}); states are read from PostgreSQL"
    remedy = "start the server, or correct PERSISTENCE_REDIS_URL"
    if isinstance(error, MovedError | ClusterError | ClusterCrossSlotError):
        detail = "is a node of a Redis Cluster, which has only some of the keys: nothing is cached"
        remedy = "set PERSISTENCE_REDIS_URL to a server that is not in cluster mode"
    elif isinstance(error, ReadOnlyError):
        detail = "is a replica, which takes no writes: nothing is cached"
        remedy = "set PERSISTENCE_REDIS_URL to the address of the primary"
    elif isinstance(error, NoPermissionError) or "ACL failure" in str(error):  # the latter from within a script
        detail = f"this user lacks rights ({error}): nothing is cached"
        remedy = f"redis-cli ACL SETUSER <user> ~{settings.cache_namespace}:* +@read +@write +@scripting +@connection"
    elif isinstance(error, ResponseError):
        detail, remedy = f"refuses a command of the cache ({error}): nothing is cached", "see the text of the server"
    return Finding(Level.FAIL, "cache", detail, remedy)


async def _round(register: StateRegister, namespace: str) -> float:
    """Do what reads and writes do, on two keys of ours; return how long the slowest step took, in milliseconds."""
    keys = [state_key(namespace, f"doctor-{uuid.uuid4()}", number) for number in range(2)]
    value, tokens = VALUE + b"0" * HEAD_BYTES, {key: new_token(QUARANTINE) for key in keys}
    try:
        started = time.perf_counter()
        lease = await register.lease(keys[0]) or b""
        steps = [(time.perf_counter() - started) * 1000]
        steps += [
            await _timed(register.fill(keys[0], lease, value, _ROUND_MS)),
            await _timed(register.read(keys[:1])),
            await _timed(register.read(keys)),
            await _timed(register.heads(keys)),
            await _timed(register.begin_write(tokens)),
            await _timed(register.publish([(key, token, value, _ROUND_MS) for key, token in tokens.items()])),
            await _timed(register.abort(tokens)),
            await _timed(register.scan(keys_pattern(namespace), 0)),
        ]
    finally:
        with suppress(RedisError, OSError):
            await register.invalidate(keys)
        await register.aclose()
    return max(steps)


async def _timed(step: Awaitable[object]) -> float:
    started = time.perf_counter()
    await step
    return (time.perf_counter() - started) * 1000


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


def _speed(connecting_ms: float, slowest_ms: float, limit_ms: int) -> Finding:
    detail = f"answers in {slowest_ms:.1f} ms, a new connection in {connecting_ms:.1f} ms"
    if slowest_ms > limit_ms:
        remedy = "raise PERSISTENCE_CACHE_TIMEOUT_MS, or move the cache nearer"
        return Finding(Level.WARN, "cache", f"{detail}; the limit is {limit_ms} ms", remedy)
    if connecting_ms > CONNECT_SECONDS * 1000:
        remedy = "move the cache nearer, or use a server that accepts connections faster"
        return Finding(Level.WARN, "cache", f"{detail}, which takes too long to be used", remedy)
    return Finding(Level.OK, "cache", detail)


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
