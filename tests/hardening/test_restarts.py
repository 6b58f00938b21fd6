"""Under load, the server crashes and ends connections: nobody is told, nothing is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hardening.hardening_servers import Store, crash, migrated_settings
from torture.servers import PostgreSQL

from agent_persistence.operations.unit_of_work import UnitOfWork

pytestmark = pytest.mark.slow

USER = "ada"
WRITERS = 8
RESTARTS = 3
TERMINATIONS = 10
CALLS_BETWEEN = 10


class Load:
    """Writers of one thread, and what they were told."""

    def __init__(self, store: Store, thread_id: str) -> None:
        self._store = store
        self._thread_id = thread_id
        self._told = asyncio.Condition()
        self.messages: dict[str, int] = {}
        self.states: set[int] = set()
        self.counted = 0
        self.ending = False

    async def work(self, writer: int) -> None:
        number = 0
        while not self.ending:
            number += 1
            text = f"{writer}:{number}"
            made = await self._store.messages.append(self._thread_id, {"role": "user", "content": text}, user_id=USER)
            self.messages[text] = made.seq
            state = await self._store.states.put(self._thread_id, text, user_id=USER)
            self.states.add(state.version)
            await self._store.run(self._count, user_id=USER)
            self.counted += 1
            assert await self._store.messages.get(self._thread_id, made.message_id, user_id=USER) == made
            async with self._told:
                self._told.notify_all()

    async def _count(self, uow: UnitOfWork[Any, Any]) -> None:
        """What would count twice, were it done twice; the lock keeps the writers apart."""
        await uow.threads.update(self._thread_id, name="counting")
        thread = await uow.threads.require(self._thread_id)
        await uow.threads.update(self._thread_id, meta={"count": thread.meta.get("count", 0) + 1})

    async def goes_on(self) -> None:
        """Wait until some more rounds were made."""
        async with self._told:
            enough = self.counted + CALLS_BETWEEN
            await self._told.wait_for(lambda: self.counted >= enough)


@pytest_asyncio.fixture
async def store(postgresql: PostgreSQL, servers: Any) -> AsyncIterator[Store]:
    settings = await migrated_settings(
        postgresql, redis_url=servers.redis_url, pool_size=WRITERS, max_overflow=0, lock_timeout=9, retry_deadline=30
    )
    async with Store(settings) as store:
        yield store


async def terminate_a_backend(server: PostgreSQL, store: Store) -> bool:
    database = store.engine.url.database
    victims = "SELECT pid FROM pg_stat_activity WHERE datname = $1 ORDER BY state = 'active' DESC, random() LIMIT 1"
    [row] = await server.fetch(f"SELECT pg_terminate_backend(({victims}))", database)
    return bool(row[0])


async def test_three_crashes_and_ten_ended_connections_cost_no_caller_anything(
    store: Store, postgresql: PostgreSQL
) -> None:
    thread_id = (await store.threads.create(user_id=USER)).thread_id
    load = Load(store, thread_id)

    async with asyncio.timeout(60), asyncio.TaskGroup() as writers:  # an error to one of them fails the test
        for writer in range(WRITERS):
            writers.create_task(load.work(writer))
        for fault in range(RESTARTS + TERMINATIONS):
            await load.goes_on()
            if fault % 4 == 2:
                await crash(postgresql)
            else:
                assert await terminate_a_backend(postgresql, store)
        await load.goes_on()
        load.ending = True

    messages = await rows_of(store, "SELECT content, seq FROM messages")
    assert sorted(map(tuple, messages)) == sorted(load.messages.items())
    assert {version for (version,) in await rows_of(store, "SELECT state_id FROM states")} == load.states
    thread = await store.threads.require(thread_id, user_id=USER)
    assert thread.meta == {"count": load.counted}


async def rows_of(store: Store, statement: str) -> list[Any]:
    async with store.engine.connect() as connection:
        return list(await connection.exec_driver_sql(statement))
