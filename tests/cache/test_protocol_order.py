"""The order that makes the cache right: row lock, quarantine acknowledged, COMMIT, publish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import event

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import QUARANTINE
from agent_persistence.persistence import Persistence
from recording import record

Store = Persistence[str, str]


@pytest_asyncio.fixture
async def log(persistence: Store) -> list[str]:
    """What the store does from now on: statements that lock or write, commits, acknowledged cache commands."""
    return record(persistence)


@pytest_asyncio.fixture
async def thread_id(persistence: Store, user_id: str) -> str:
    thread = await persistence.threads.create(user_id=user_id)
    await persistence.states.put(thread.thread_id, "first", user_id=user_id)
    return thread.thread_id


async def put(store: Store, thread_id: str, user_id: str) -> None:
    await store.states.put(thread_id, "new", user_id=user_id)


async def put_over_a_version(store: Store, thread_id: str, user_id: str) -> None:
    async with store.begin(user_id=user_id) as uow:
        latest = await uow.states.require(thread_id, fresh=True)
        await uow.states.put(thread_id, "new", expected_version=latest.version)


async def clear(store: Store, thread_id: str, user_id: str) -> None:
    await store.states.clear(thread_id, user_id=user_id)


async def delete_the_thread(store: Store, thread_id: str, user_id: str) -> None:
    await store.threads.delete(thread_id, user_id=user_id)


@pytest.mark.parametrize("change", [put, put_over_a_version, clear, delete_the_thread])
async def test_a_write_quarantines_after_its_last_statement_and_publishes_after_the_commit(
    change: Callable[[Store, str, str], Awaitable[None]],
    persistence: Store,
    thread_id: str,
    user_id: str,
    log: list[str],
) -> None:
    await change(persistence, thread_id, user_id)

    assert log[-4:] == ["write", "begin_write", "COMMIT", "publish"]
    assert log.count("begin_write") == log.count("publish") == 1


async def test_many_states_are_quarantined_in_one_round_trip(persistence: Store, user_id: str, log: list[str]) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        for _ in range(3):
            thread = await uow.threads.create()
            await uow.states.put(thread.thread_id, 1)

    assert log[-3:] == ["begin_write", "COMMIT", "publish"]


async def test_a_fill_reads_between_lease_and_store(persistence: Store, user_id: str, log: list[str]) -> None:
    thread = await persistence.threads.create(user_id=user_id)
    log.clear()

    await persistence.states.get(thread.thread_id, user_id=user_id)

    assert log == ["read", "lease", "select", "fill"]


async def test_a_commit_that_fails_after_the_quarantine_lifts_nothing_and_is_done_again(
    persistence: Store, thread_id: str, user_id: str, log: list[str]
) -> None:
    """When it fails nobody knows whether it was committed: the quarantine has to run out by itself."""

    def fail_once(connection: Any) -> None:
        log.append("COMMIT fails")
        event.remove(persistence.engine.sync_engine, "commit", fail_once)
        connection.invalidate()
        raise ConnectionResetError

    event.listen(persistence.engine.sync_engine, "commit", fail_once)

    await persistence.states.put(thread_id, "new", user_id=user_id)

    first_attempt, second_attempt = log[: log.index("COMMIT fails")], log[log.index("COMMIT fails") + 1 :]
    assert first_attempt[-2:] == ["begin_write", "COMMIT"]
    assert "abort" not in log
    assert second_attempt[-4:] == ["write", "begin_write", "COMMIT", "publish"]
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "new"


async def test_a_writer_cancelled_before_its_commit_lifts_its_quarantine(
    persistence: Store, thread_id: str, user_id: str, log: list[str], redis: Redis
) -> None:
    key = state_key(persistence.cache.namespace, thread_id, user_id)
    assert persistence.cache is not None
    before_commit, quarantined = persistence.cache.before_commit, asyncio.Event()

    async def stall_before_commit(quarantine: Any) -> None:
        await before_commit(quarantine)
        quarantined.set()
        await asyncio.Event().wait()

    persistence.cache.before_commit = stall_before_commit  # type: ignore[method-assign]  # to be there at that moment

    async def work() -> None:
        async with persistence.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, "new")

    writer = asyncio.create_task(work())
    await quarantined.wait()
    assert (await redis.get(key)).startswith(QUARANTINE)

    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer

    assert log[-2:] == ["begin_write", "abort"]
    assert await redis.get(key) is None


async def test_only_reading_touches_no_key(persistence: Store, thread_id: str, user_id: str, log: list[str]) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.get(thread_id)
        await uow.messages.append(thread_id, {"role": "user", "content": "hi"})

    assert "begin_write" not in log
