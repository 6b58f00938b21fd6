"""A writer that is killed leaves a cache that is right."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import QUARANTINE
from agent_persistence.persistence import Persistence
from doomed_writer import write_until_killed

WRITER = Path(__file__).with_name("doomed_writer.py")
KILLS = 100
AT_ONCE = 4


def parameters_of(persistence: Persistence[str, str]) -> dict[str, Any]:
    """The settings of another process that is to share the cache."""
    settings = persistence.settings
    assert settings.database_url is not None
    assert settings.redis_url is not None
    return {
        "database_url": settings.database_url.get_secret_value(),
        "redis_url": settings.redis_url.get_secret_value(),
        "cache_namespace": settings.cache_namespace,
        "cache_timeout_ms": settings.cache_timeout_ms,
        "cache_budget_ms": settings.cache_budget_ms,
    }


@pytest.mark.parametrize(("moment", "outcome"), [("before COMMIT", "old"), ("after COMMIT", "new")])
async def test_a_writer_killed_around_its_commit_leaves_the_committed_state_to_readers(
    moment: str, outcome: str, persistence: Persistence[str, str], user_id: str, redis: Redis
) -> None:
    thread = await persistence.threads.create(user_id=user_id)
    await persistence.states.put(thread.thread_id, "old", user_id=user_id)
    key = state_key(persistence.cache.namespace, thread.thread_id, user_id)
    command = [str(WRITER), moment, thread.thread_id, user_id, json.dumps(parameters_of(persistence))]
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


@pytest.mark.slow
async def test_a_hundred_writers_killed_at_any_moment_leave_no_wrong_value(
    persistence: Persistence[str, str], user_id: str
) -> None:
    chance, context = random.Random(7), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agent_persistence"])  # a writer takes a tenth of the time to start

    async def kill_one() -> None:
        thread = await persistence.threads.create(user_id=user_id)
        acknowledged, told = context.Pipe(duplex=False)
        arguments = (parameters_of(persistence), thread.thread_id, user_id, told)
        writer = context.Process(target=write_until_killed, args=arguments)
        writer.start()
        told.close()
        assert await asyncio.to_thread(acknowledged.recv) == 0
        end = time.monotonic() + chance.uniform(0, 0.05)
        while time.monotonic() < end:  # readers fill the cache, as far as they may
            await persistence.states.require(thread.thread_id, user_id=user_id)

        writer.kill()
        await asyncio.to_thread(writer.join)

        last = 0
        while acknowledged.poll():
            try:
                last = acknowledged.recv()
            except EOFError:
                break
        found = [await persistence.states.require(thread.thread_id, user_id=user_id) for _ in range(3)]
        saved = await persistence.states.require(thread.thread_id, user_id=user_id, fresh=True)
        assert [state.data for state in found] == [saved.data] * 3
        assert last <= saved.data <= last + 1
        writer.close()
        acknowledged.close()

    for _ in range(KILLS // AT_ONCE):
        await asyncio.gather(*(kill_one() for _ in range(AT_ONCE)))
