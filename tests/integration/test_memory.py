"""How much memory a large state takes at any moment, measured in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from agent_persistence import migrate
from agent_persistence.settings import PersistenceSettings

MEGABYTES = 100
LARGE_STATE = """
import asyncio, resource, sys
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

async def main(url):
    settings = PersistenceSettings(_env_file=None, database_url=url, max_json_bytes=1 << 28)
    state = {"chunks": [f"{place} {99_990 * 'x'}" for place in range(1000)]}
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


@pytest.mark.slow
async def test_a_state_of_100_mb_takes_four_times_its_size_at_most(make_database: Any) -> None:
    url = await make_database()
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=url))

    command = [sys.executable, "-c", LARGE_STATE, url]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    saving, reading = map(float, run.stdout.split())

    assert MEGABYTES < saving <= 4 * MEGABYTES
    assert reading <= 4 * MEGABYTES
