"""A writer that is killed leaves a cache that is right."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import QUARANTINE
from agent_persistence.persistence import Persistence

WRITER = Path(__file__).with_name("doomed_writer.py")


@pytest.mark.parametrize(("moment", "outcome"), [("before COMMIT", "old"), ("after COMMIT", "new")])
async def test_a_writer_killed_around_its_commit_leaves_the_committed_state_to_readers(
    moment: str, outcome: str, persistence: Persistence[str, str], user_id: str, redis: Redis
) -> None:
    thread = await persistence.threads.create(user_id=user_id)
    await persistence.states.put(thread.thread_id, "old", user_id=user_id)
    key = state_key(persistence.cache.namespace, thread.thread_id, user_id)
    settings = persistence.settings
    assert settings.database_url is not None
    assert settings.redis_url is not None
    values = {
        "database_url": settings.database_url.get_secret_value(),
        "redis_url": settings.redis_url.get_secret_value(),
        "cache_namespace": settings.cache_namespace,
        "cache_timeout_ms": settings.cache_timeout_ms,
        "cache_budget_ms": settings.cache_budget_ms,
    }
    command = [str(WRITER), moment, thread.thread_id, user_id, json.dumps(values)]
    writer = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"standing still\n"

    writer.kill()
    await writer.wait()

    assert (await redis.get(key)).startswith(QUARANTINE)
    assert 0 < await redis.pttl(key) <= 10_000
    assert (await persistence.states.require(thread.thread_id, user_id=user_id)).data == outcome
    await redis.delete(key)  # what its time to live does
    for _ in range(2):
        assert (await persistence.states.require(thread.thread_id, user_id=user_id)).data == outcome
    assert (await redis.get(key)).startswith(b"V")
