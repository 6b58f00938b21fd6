"""Callers who are cancelled at any moment: the work goes on, and neither the pool nor the server pays for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from connections import all_are_back
from hardening.hardening_servers import errors_of_the_driver
from sqlalchemy import event, text

from agent_persistence.concurrency.shielding import drain
from agent_persistence.errors import UnavailableError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

pytestmark = pytest.mark.no_cover

Store = Persistence[Any, Any]

SEED = 20261121
POOL_SIZE = 5
AT_ONCE = 20
LONGEST_DELAY = 0.03
SPARED = 0.1
"""How many callers are left alone, so that on the slowest machine some are told that they are done."""
HELLO = {"role": "user", "content": "hello"}


@pytest_asyncio.fixture
async def store(settings_for: Callable[..., Awaitable[Any]]) -> AsyncIterator[Store]:
    settings = await settings_for(pool_size=POOL_SIZE, max_overflow=0, pool_timeout=30, lock_timeout=9)
    async with Store(settings) as store:
        yield store


@contextmanager
def opened_connections(store: Store) -> Iterator[list[Any]]:
    opened: list[Any] = []

    def note(connection: Any, _record: Any) -> None:
        opened.append(connection)

    event.listen(store.engine.sync_engine, "connect", note)
    yield opened
    event.remove(store.engine.sync_engine, "connect", note)


@contextmanager
def complaints() -> Iterator[list[dict[str, Any]]]:
    """What the event loop would report: errors that nobody asked for, tasks that nobody awaited."""
    reports: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    try:
        yield reports
        gc.collect()
    finally:
        loop.set_exception_handler(before)


async def idle_in_transaction(store: Store) -> int:
    async with store.engine.connect() as connection:
        own = "datname = current_database() AND pid <> pg_backend_pid()"
        idle = text(f"SELECT count(*) FROM pg_stat_activity WHERE {own} AND state LIKE 'idle in transaction%'")
        return int((await connection.execute(idle)).scalar_one())


class Calls:
    """Calls of one owner, in a random mix, and what was reported done."""

    def __init__(self, store: Store, user_id: str, thread_id: str, random: Random) -> None:
        self._store = store
        self._owner = {"user_id": user_id}
        self._thread_id = thread_id
        self._random = random
        self._numbers = count()
        self.threads: set[str] = set()
        self.messages: set[str] = set()
        self.states: set[int] = set()
        self.counted = 0

    async def any(self) -> None:
        await self._random.choice([self.create, self.append, self.put, self.count, self.read])()

    async def create(self) -> None:
        self.threads.add((await self._store.threads.create(**self._owner)).thread_id)

    async def append(self) -> None:
        made = await self._store.messages.append(self._thread_id, HELLO, **self._owner)
        self.messages.add(made.message_id)

    async def put(self) -> None:
        self.states.add((await self._store.states.put(self._thread_id, next(self._numbers), **self._owner)).version)

    async def count(self) -> None:
        self.messages.add(await self._store.run(self._append_and_put, **self._owner))

    async def read(self) -> None:
        await self._store.messages.page(self._thread_id, limit=5, **self._owner)
        await self._store.states.get(self._thread_id, **self._owner)

    async def in_a_block(self) -> None:
        async with self._store.begin(**self._owner) as uow:
            message_id = await self._append_and_put(uow)
        self.messages.add(message_id)

    async def _append_and_put(self, uow: UnitOfWork[Any, Any]) -> str:
        made = await uow.messages.append(self._thread_id, HELLO)
        await uow.states.put(self._thread_id, next(self._numbers))
        return str(made.message_id)


async def cancel_at_random(call: Callable[[], Awaitable[None]], times: int, random: Random) -> None:
    """Make calls until so many of them were cancelled."""
    loop, cancelled = asyncio.get_running_loop(), 0
    while cancelled < times:
        tasks = [asyncio.ensure_future(call()) for _ in range(AT_ONCE)]
        for task in tasks:
            if random.random() > SPARED:
                loop.call_later(random.uniform(0, LONGEST_DELAY), task.cancel)
        await asyncio.wait(tasks)
        for task in tasks:
            if task.cancelled():
                cancelled += 1
            else:
                task.result()
        await drain(30)


@pytest.fixture
def random() -> Random:
    return Random(SEED)


@pytest_asyncio.fixture
async def calls(store: Store, user_id: str, random: Random) -> Calls:
    return Calls(store, user_id, (await store.threads.create(user_id=user_id)).thread_id, random)


async def assert_all_that_was_reported_done_is_there(store: Store, calls: Calls, user_id: str) -> None:
    async def stored(column: str, table: str) -> set[Any]:
        async with store.engine.connect() as connection:
            own = "thread_id IN (SELECT thread_id FROM threads WHERE user_id = :user_id)"
            rows = await connection.execute(text(f"SELECT {column} FROM {table} WHERE {own}"), {"user_id": user_id})
            return set(rows.scalars())

    assert calls.messages
    assert calls.messages <= await stored("message_id", "messages")
    assert calls.states <= await stored("state_id", "states")
    assert calls.threads <= await stored("thread_id", "threads")


@pytest.mark.slow
async def test_a_thousand_cancelled_callers_leave_nothing_behind(
    store: Store, calls: Calls, user_id: str, random: Random
) -> None:
    with opened_connections(store) as opened, complaints() as reports:
        await cancel_at_random(calls.any, 1000, random)

    assert await all_are_back(store)
    assert await idle_in_transaction(store) == 0
    assert len(opened) <= POOL_SIZE + 5
    assert reports == []
    await assert_all_that_was_reported_done_is_there(store, calls, user_id)


async def test_cancelled_blocks_leave_no_session_in_a_transaction_and_no_connection_in_use(
    store: Store, calls: Calls, user_id: str, random: Random
) -> None:
    await cancel_at_random(calls.in_a_block, 100, random)

    assert await all_are_back(store)
    assert await idle_in_transaction(store) == 0
    await assert_all_that_was_reported_done_is_there(store, calls, user_id)


async def test_a_caller_is_let_go_at_once_while_the_work_goes_on(store: Store, user_id: str) -> None:
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def work(uow: UnitOfWork[Any, Any]) -> None:
        reached.set()
        await may_go_on.wait()
        await uow.threads.create(name="made after all")

    caller = asyncio.create_task(store.run(work, user_id=user_id))
    await reached.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    may_go_on.set()
    await drain(10)

    assert (await store.threads.page(user_id=user_id)).items[0].name == "made after all"


async def test_an_attempt_that_fails_after_its_caller_left_is_the_last(store: Store, user_id: str) -> None:
    reached, may_go_on, attempts = asyncio.Event(), asyncio.Event(), 0

    async def work(_uow: UnitOfWork[Any, Any]) -> None:
        nonlocal attempts
        attempts += 1
        reached.set()
        await may_go_on.wait()
        raise UnavailableError("worth another try, if anybody waited")

    caller = asyncio.create_task(store.run(work, user_id=user_id))
    await reached.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    may_go_on.set()
    await drain(10)

    assert attempts == 1


async def test_closing_waits_for_the_work_of_callers_who_were_cancelled(
    settings_for: Callable[..., Awaitable[Any]], store: Store, user_id: str
) -> None:
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def work(uow: UnitOfWork[Any, Any]) -> None:
        reached.set()
        await may_go_on.wait()
        await uow.threads.create(name="made before the end")

    async with Store(await settings_for()) as closing:
        caller = asyncio.create_task(closing.run(work, user_id=user_id))
        await reached.wait()
        caller.cancel()
        asyncio.get_running_loop().call_soon(may_go_on.set)

    assert [thread.name for thread in await store.threads.page(user_id=user_id)] == ["made before the end"]


async def test_a_writer_who_timed_out_at_a_lock_does_not_come_back_over_a_newer_state(
    settings_for: Callable[..., Awaitable[Any]], user_id: str
) -> None:
    async with Store(await settings_for(lock_timeout=1.0)) as store:
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        async with store.begin(user_id=user_id) as holder:
            await holder.states.touch(thread_id)
            with errors_of_the_driver() as errors:
                late = asyncio.create_task(store.states.put(thread_id, "old", user_id=user_id))
                await until_as_many_wait_for_a_lock(store, 1)
                late.cancel()
                await until_as_many_wait_for_a_lock(store, 0)  # its first attempt is over

        await store.states.put(thread_id, "new", user_id=user_id)
        await drain(10)

        assert errors == ["LockNotAvailableError"]
        assert [state.data for state in await store.states.page(thread_id, user_id=user_id)] == ["new"]


async def until_as_many_wait_for_a_lock(store: Store, number: int) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(5), store.engine.connect() as connection:
        while (await connection.execute(waiting)).scalar_one() != number:
            await connection.rollback()


async def test_of_readers_who_gave_up_no_read_goes_on_while_the_database_is_away(
    user_id: str, unused_tcp_port: int
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/nowhere"
    store = Store(PersistenceSettings(_env_file=None, database_url=url))
    readers = [asyncio.create_task(store.threads.get("any", user_id=user_id)) for _ in range(10)]

    await asyncio.wait(readers, timeout=0.05)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)

    assert all(reader.cancelled() for reader in readers)
    async with asyncio.timeout(3):  # and not for as long as attempts may be made, which is 15 seconds
        await drain(10)
    await store.aclose()
