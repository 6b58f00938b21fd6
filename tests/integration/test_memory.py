"""How much memory a large state takes at any moment, measured in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_persistence import migrate
from agent_persistence.settings import PersistenceSettings

MEGABYTES = 70
STREAMED_MEGABYTES = 40
# Not what getrusage says: that begins with what the process had that this one was forked from.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))

"""
LARGE_STATE = """
import asyncio, sys
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings


async def main(url):
    settings = PersistenceSettings(_env_file=None, database_url=url, max_json_bytes=1 << 28)
    state = {"chunks": [f"{place} {99_990 * 'x'}" for place in range(700)]}
    async with Persistence(settings) as store:
        thread_id = (await store.threads.create(user_id="ann")).thread_id
        await store.states.put(thread_id, 0, user_id="ann")
        before = peak()
        await store.states.put(thread_id, state, user_id="ann")
        print(peak() - before)
        del state
        await store.states.require(thread_id, user_id="ann", fresh=True)
        print(peak() - before)

asyncio.run(main(sys.argv[1]))
"""
STREAMED_STATE = """
import asyncio, hashlib, random, sys
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings


async def source(megabytes):
    for seed in range(megabytes):
        yield random.Random(seed).randbytes(1 << 20)

async def through(store, thread_id, megabytes):
    saved = await store.states.put_stream(thread_id, source(megabytes), user_id="ann")
    written, digest = peak(), hashlib.sha256()
    async for piece in store.states.open_stream(thread_id, user_id="ann"):
        digest.update(piece)
    assert digest.hexdigest() == saved.stream.sha256 and saved.stream.size == megabytes << 20
    return written, peak()

async def main(url, megabytes):
    async with Persistence(PersistenceSettings(_env_file=None, database_url=url)) as store:
        thread_id = (await store.threads.create(user_id="ann")).thread_id
        _, before = await through(store, thread_id, 2)
        written, read = await through(store, thread_id, megabytes)
        print(written - before, read - before)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory was used"),
]


async def test_a_state_of_70_mb_takes_four_times_its_size_at_most(make_database: Any) -> None:
    url = await make_database()
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=url))

    command = [sys.executable, "-c", PEAK + LARGE_STATE, url]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    saving, reading = map(float, run.stdout.split())

    assert MEGABYTES < saving <= 4 * MEGABYTES
    assert reading <= 4 * MEGABYTES


async def test_a_stream_of_40_mb_takes_a_few_chunks_of_memory(make_database: Any) -> None:
    url = await make_database()
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=url))

    command = [sys.executable, "-c", PEAK + STREAMED_STATE, url, str(STREAMED_MEGABYTES)]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    writing, reading = map(float, run.stdout.split())

    assert writing <= 10
    assert reading <= 10
