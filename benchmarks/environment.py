"""What a run ran on: processors and versions, and nothing that would name a machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import asyncpg
from redis.asyncio import Redis

from benchmarks.contender import Addresses

_PACKAGES = ("agent-persistence", "sqlalchemy", "asyncpg", "redis", "hiredis", "orjson", "pydantic", "uvloop")


async def describe(addresses: Addresses) -> dict[str, Any]:
    """Return processors, system and versions."""
    connection: Any = await asyncpg.connect(addresses.postgresql)
    server = connection.get_server_version()
    await connection.close()
    async with Redis.from_url(addresses.redis) as redis:
        info = await redis.info("server")
    return {
        "processors": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "postgresql": f"{server.major}.{server.minor}",
        "valkey": str(info.get("valkey_version") or info["redis_version"]),
        **{name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
