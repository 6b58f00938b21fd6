"""One run at a time in a thread, across stores and processes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from agent_persistence import Persistence, PoolTimeoutError, RunInProgressError, ThreadNotFoundError
from agent_persistence.operations import run_claims


async def rows_of(store: Persistence[Any, Any], thread_id: Any) -> list[Any]:
    async with store.engine.connect() as connection:
        found = text("SELECT held_until > now() AS held FROM persistence_jobs WHERE job = :job")
        return [row.held for row in await connection.execute(found, {"job": f"run/{thread_id}"})]


async def change(store: Persistence[Any, Any], statement: str) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(text(statement))


async def test_one_run_at_a_time_has_a_thread(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    store = any_persistence
    thread_id = (await store.threads.create(user_id=any_user)).thread_id

    async with store.claim_run(thread_id, user_id=any_user):
        with pytest.raises(RunInProgressError) as refused:
            async with store.claim_run(thread_id, user_id=any_user):
                pass
        assert await rows_of(store, thread_id) == [True]

    assert refused.value.thread_id == thread_id
    assert await rows_of(store, thread_id) == []
    async with store.claim_run(thread_id, user_id=any_user):
        pass


async def test_a_claim_that_is_released_early_is_not_taken_from_the_next_run(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    async with persistence.claim_run(thread_id, user_id=user_id) as first:
        await first.release()
        second = await persistence.claim_run(thread_id, user_id=user_id).__aenter__()

    assert await rows_of(persistence, thread_id) == [True]
    await second.release()


async def test_of_many_claims_at_once_one_is_granted(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    all_asked = asyncio.Barrier(8)

    async def run() -> bool:
        try:
            async with persistence.claim_run(thread_id, user_id=user_id):
                await all_asked.wait()
                return True
        except RunInProgressError:
            await all_asked.wait()
            return False

    assert sum(await asyncio.gather(*(run() for _ in range(8)))) == 1


async def test_another_owners_thread_is_not_found_even_while_it_has_a_run(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    async with persistence.claim_run(thread_id, user_id=user_id):
        with pytest.raises(ThreadNotFoundError):
            async with persistence.claim_run(thread_id, user_id="somebody else"):
                pass
        assert await rows_of(persistence, thread_id) == [True]


async def test_more_runs_than_connections_go_on_at_once(persistence: Persistence[str, str], user_id: str) -> None:
    """A claim holds no connection, and no lock: the threads can be written to."""
    thread_ids = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(20)]
    assert len(thread_ids) > persistence.settings.pool_size + persistence.settings.max_overflow

    async with AsyncExitStack() as claims:
        for thread_id in thread_ids:
            await claims.enter_async_context(persistence.claim_run(thread_id, user_id=user_id))
        await persistence.messages.append(thread_ids[0], {"role": "user", "content": "hi"}, user_id=user_id)


async def test_the_claim_of_a_process_that_died_can_be_taken_over(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    async with persistence.claim_run(thread_id, user_id=user_id):
        # What is left of a process that died half a minute ago.
        await change(persistence, f"UPDATE persistence_jobs SET held_until = now() WHERE job = 'run/{thread_id}'")
        async with persistence.claim_run(thread_id, user_id=user_id):
            assert await rows_of(persistence, thread_id) == [True]
        # The end of the second claim leaves nothing, and the end of the first one must not end a third one.
        third = persistence.claim_run(thread_id, user_id=user_id)
        await third.__aenter__()

    assert await rows_of(persistence, thread_id) == [True]
    await third.__aexit__(None, None, None)


async def test_a_claim_is_renewed_and_its_loss_is_logged(
    persistence: Persistence[str, str],
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run_claims, "HELD_FOR", timedelta(seconds=0.5))
    monkeypatch.setattr(run_claims, "_RENEWED_EVERY", 0.05)
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    async with persistence.claim_run(thread_id, user_id=user_id):
        await asyncio.sleep(0.7)
        assert await rows_of(persistence, thread_id) == [True]
        assert not caplog.messages
        await change(persistence, f"UPDATE persistence_jobs SET holder = 'other' WHERE job = 'run/{thread_id}'")
        async with asyncio.timeout(5):
            while "another run has begun" not in caplog.text:  # noqa: ASYNC110  # a log has no event
                await asyncio.sleep(0.01)

    await change(persistence, f"DELETE FROM persistence_jobs WHERE job = 'run/{thread_id}'")


async def test_a_claim_ends_although_its_task_was_cancelled(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    claimed = asyncio.Event()

    async def run() -> None:
        async with persistence.claim_run(thread_id, user_id=user_id):
            claimed.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await claimed.wait()
    while not task.done():  # as anyio does: again and again, until the task is done
        task.cancel()
        await asyncio.sleep(0)

    async with asyncio.timeout(5):
        while await rows_of(persistence, thread_id):  # noqa: ASYNC110  # nor has a table
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_closing_a_store_ends_the_claims_of_its_runs(
    persistence: Persistence[str, str], user_id: str, caplog: pytest.LogCaptureFixture, is_cancelled: bool
) -> None:
    """A server that shuts down cancels its requests and closes the store at once; the threads are free then."""
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    claimed, ended = asyncio.Event(), asyncio.Event()
    closing: Persistence[str, str] = Persistence(persistence.settings)

    async def run() -> None:
        async with closing.claim_run(thread_id, user_id=user_id):
            claimed.set()
            await ended.wait()

    async with closing:
        task = asyncio.create_task(run())
        await claimed.wait()
        if is_cancelled:
            task.cancel()

    assert await rows_of(persistence, thread_id) == []
    ended.set()
    await asyncio.wait([task])
    assert task.cancelled() == is_cancelled
    assert not caplog.messages


async def test_a_claim_that_got_no_connection_does_not_wait_for_one_again(
    persistence: Persistence[str, str], user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    settings = persistence.settings.model_copy(update={"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.2})

    async with Persistence[str, str](settings) as small, small.begin(user_id=user_id) as holder:
        await holder.threads.get(thread_id)
        with pytest.raises(PoolTimeoutError):
            await small.claim_run(thread_id, user_id=user_id).__aenter__()

    assert not [one for one in caplog.records if "could not be ended" in one.getMessage()]
