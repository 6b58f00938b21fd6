"""A database that stops to answer without closing its connections: closing a store takes its time limit, no longer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hardening.hardening_servers import migrated_settings
from torture.servers import PostgreSQL

from agent_persistence.errors import PersistenceError
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewItem

LIMIT = 1.0
GRACE = 0.5


@asynccontextmanager
async def hanging(server: PostgreSQL) -> AsyncIterator[None]:
    """Stop the server and every process of it, as a machine does that swaps."""
    rows = await server.fetch("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
    assert server.process is not None
    pids = [server.process.pid, *[row["pid"] for row in rows]]
    for pid in pids:
        _send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            _send(pid, signal.SIGCONT)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.mark.slow
@pytest.mark.parametrize("is_at_work", [True, False])
async def test_a_store_closes_in_time_while_the_database_hangs(postgresql: PostgreSQL, is_at_work: bool) -> None:
    settings = await migrated_settings(
        postgresql, checkpointer_cleanup_timeout=LIMIT, checkpoint_cleanup_interval=0.05, max_checkpoint_history=1
    )
    store = await Persistence[Any, Any](settings).__aenter__()
    thread_id = (await store.threads.create(user_id="ann")).thread_id
    await asyncio.gather(*[store.threads.get(thread_id, user_id="ann") for _ in range(5)])

    async with hanging(postgresql):
        calls = [
            lambda: store.states.put(thread_id, 1, user_id="ann"),
            lambda: store.states.get(thread_id, user_id="ann"),
            lambda: store.threads.update(thread_id, name="new", user_id="ann"),
            lambda: store.items.put_many([NewItem(namespace=("a",), key="k", value={})], user_id="ann"),
            lambda: store.items.search(user_id="ann"),
        ]
        work = [asyncio.create_task(call()) for call in calls if is_at_work]
        await asyncio.sleep(0.2)  # they are on their way, and the purge is
        started = time.monotonic()
        await store.aclose()
        took = time.monotonic() - started
        ended = await asyncio.gather(*work, return_exceptions=True)

    assert took <= LIMIT + GRACE
    assert all(isinstance(error, PersistenceError) for error in ended)
