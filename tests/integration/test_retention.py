"""Old states go: at each write, when asked, and by the sweeper."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_persistence.errors import InvalidInput
from agent_persistence.persistence import Persistence
from agent_persistence.repositories import retention
from agent_persistence.settings import PersistenceSettings

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]


async def thread_with_states(store: Persistence[Any, Any], user_id: Any, count: int) -> Any:
    async with store.begin(user_id=user_id) as uow:
        thread = await uow.threads.create()
        for number in range(count):
            await uow.states.put(thread.thread_id, number)
    return thread.thread_id


async def kept(store: Persistence[Any, Any], thread_id: Any, user_id: Any) -> list[Any]:
    return [state.data for state in await store.states.page(thread_id, user_id=user_id, limit=1000)]


async def test_every_write_leaves_at_most_the_newest_states(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(max_checkpoint_history=3)) as store:
        thread_id = await thread_with_states(store, user_id, 5)

        assert await kept(store, thread_id, user_id) == [4, 3, 2]


async def test_a_purge_goes_through_all_threads_in_batches_and_keeps_the_newest(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    threads = [await thread_with_states(any_persistence, any_user, count) for count in (1, 3, 5)]

    deleted = await any_persistence.purge(keep_last=2)

    assert deleted >= 1 + 3  # of other tests' threads in this database, there may be more
    assert [await kept(any_persistence, thread_id, any_user) for thread_id in threads] == [[0], [2, 1], [4, 3]]
    assert await any_persistence.purge(keep_last=2) == 0


@pytest.mark.slow
async def test_a_purge_of_more_threads_than_a_batch_reaches_all(
    persistence: Persistence[str, str], user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "THREADS_A_BATCH", 3)
    async with persistence.begin(user_id=user_id) as uow:
        threads = []
        for _ in range(10):
            thread = await uow.threads.create()
            threads.append(thread.thread_id)
            await uow.states.put(thread.thread_id, 1)
            await uow.states.put(thread.thread_id, 2)

    await persistence.purge(keep_last=1)

    for thread_id in threads:
        assert await kept(persistence, thread_id, user_id) == [2]


async def test_a_purge_passes_over_a_thread_that_a_writer_holds(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await thread_with_states(persistence, user_id, 3)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, 3)
        await asyncio.wait_for(persistence.purge(keep_last=1), timeout=5)

    assert await kept(persistence, thread_id, user_id) == [3, 2, 1, 0]
    await persistence.purge(keep_last=1)
    assert await kept(persistence, thread_id, user_id) == [3]


async def test_the_latest_state_and_its_cached_copy_outlive_a_purge(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await thread_with_states(persistence, user_id, 3)

    await persistence.purge(keep_last=1)

    assert (await persistence.states.require(thread_id, user_id=user_id)).data == 2
    assert (await persistence.states.require(thread_id, user_id=user_id, fresh=True)).data == 2


async def test_a_purge_that_would_keep_nothing_is_refused(persistence: Persistence[str, str]) -> None:
    with pytest.raises(InvalidInput, match="keep_last"):
        await persistence.purge(keep_last=0)


async def test_the_sweeper_prunes_what_was_written_under_other_settings(
    settings_for: SettingsFor, persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await thread_with_states(persistence, user_id, 4)
    settings = await settings_for(max_checkpoint_history=2, checkpoint_cleanup_interval=0.01)

    async with Persistence[str, str](settings) as store:
        async with asyncio.timeout(10):
            while len(await kept(store, thread_id, user_id)) > 2:  # noqa: ASYNC110 - the sweeper tells nobody
                await asyncio.sleep(0.01)

    assert await kept(persistence, thread_id, user_id) == [3, 2]
