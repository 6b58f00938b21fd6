"""Old states go: at each write, when asked, and by the sweeper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from agent_persistence import migrate
from agent_persistence.errors import InvalidInputError
from agent_persistence.operations import purging
from agent_persistence.operations.purging import Purging
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.maintenance.jobs import Job
from agent_persistence.repositories.states import retention
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
    with pytest.raises(InvalidInputError, match="keep_last"):
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


# --- what goes ---


async def saved_days_ago(store: Persistence[Any, Any], thread_id: Any, days: dict[int, int]) -> None:
    """Let versions of a thread look as old as that, the oldest given by 0."""
    states = (await store.states.page(thread_id, user_id=ANY_USER, limit=1000)).items[::-1]
    async with store.engine.begin() as connection:
        for place, age in days.items():
            await connection.execute(
                text("UPDATE states SET created_at = now() - make_interval(days => :age) WHERE state_id = :version"),
                {"age": age, "version": states[place].version},
            )


async def test_a_purge_by_age_leaves_the_young_and_the_latest(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    mixed, old, young = [await thread_with_states(any_persistence, any_user, 3) for _ in range(3)]
    await saved_days_ago(any_persistence, mixed, {0: 40, 1: 31})
    await saved_days_ago(any_persistence, old, {0: 40, 1: 40, 2: 40})
    month_ago = datetime.now(UTC) - timedelta(days=30)

    await any_persistence.purge(older_than=month_ago)

    threads = (mixed, old, young)
    assert [await kept(any_persistence, thread, any_user) for thread in threads] == [[2], [2], [2, 1, 0]]


async def test_a_purge_by_age_and_number_deletes_what_both_say(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await thread_with_states(persistence, user_id, 4)
    await saved_days_ago(persistence, thread_id, {0: 40, 1: 40, 2: 40})

    await persistence.purge(keep_last=3, older_than=datetime.now(UTC) - timedelta(days=30))

    assert await kept(persistence, thread_id, user_id) == [3, 2, 1]


async def test_a_purge_of_one_owner_leaves_those_of_others(
    any_persistence: Persistence[Any, Any], any_user: Any, any_ids: Any
) -> None:
    mine = await thread_with_states(any_persistence, any_user, 4)
    another_user = any_ids.user()
    others = await thread_with_states(any_persistence, another_user, 4)

    counted = await any_persistence.purge(keep_last=1, user_id=any_user, dry_run=True)
    untouched = await kept(any_persistence, mine, any_user)
    deleted = await any_persistence.purge(keep_last=1, user_id=any_user)

    assert (counted, untouched, deleted) == (3, [3, 2, 1, 0], 3)
    assert await kept(any_persistence, mine, any_user) == [3]
    assert await kept(any_persistence, others, another_user) == [3, 2, 1, 0]


async def test_a_dry_run_counts_by_number_and_age_what_a_purge_deletes(
    two_stores: tuple[Persistence[Any, Any], Persistence[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "THREADS_A_BATCH", 2)
    store, _ = two_stores
    for count in (1, 3, 5):
        await saved_days_ago(store, await thread_with_states(store, "ann", count), {0: 40})
    month_ago = datetime.now(UTC) - timedelta(days=30)

    by_number = await store.purge(keep_last=2, dry_run=True)
    by_age = await store.purge(older_than=month_ago, dry_run=True)

    assert (by_number, by_age) == (4, 2)
    assert (await store.purge(older_than=month_ago), await store.purge(keep_last=2)) == (2, 2)


async def test_a_purge_of_an_owner_of_another_type_is_refused(persistence: Persistence[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="user_id"):
        await persistence.purge(keep_last=1, user_id=7)  # type: ignore[arg-type]  # that is the point


async def test_a_purge_before_a_time_without_a_zone_is_refused(persistence: Persistence[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="older_than"):
        await persistence.purge(older_than=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


async def test_many_states_go_in_several_transactions_and_what_stays_is_whole(
    persistence: Persistence[str, str], user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STATES_A_BATCH", 7)
    thread = await persistence.threads.create(user_id=user_id)
    steps: list[str] = []
    for number in range(30):
        steps.append(f"{number} {1000 * 'x'}")
        await persistence.states.put(thread.thread_id, {"steps": list(steps)}, user_id=user_id)

    assert await persistence.purge(keep_last=3) >= 27

    assert await kept(persistence, thread.thread_id, user_id) == [{"steps": steps[:count]} for count in (30, 29, 28)]


async def test_streamed_states_go_by_their_size(
    persistence: Persistence[str, str], user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await persistence.purge(keep_last=1)  # of other tests' threads
    monkeypatch.setattr(retention, "BYTES_A_BATCH", 2500)
    thread = await persistence.threads.create(user_id=user_id)
    for _ in range(6):
        await persistence.states.put_stream(thread.thread_id, a_kilobyte(), user_id=user_id)
    batches = []
    purge_states = purging.purge_states

    async def counted(*arguments: Any, **named: Any) -> Any:
        batches.append(await purge_states(*arguments, **named))
        return batches[-1]

    monkeypatch.setattr(purging, "purge_states", counted)

    await persistence.purge(keep_last=1)

    assert [batch.deleted for batch in batches if batch.deleted] == [2, 2, 1]
    assert await kept(persistence, thread.thread_id, user_id) == [None]


async def a_kilobyte() -> AsyncIterator[bytes]:
    yield bytes(1000)


@pytest.mark.parametrize("limit", [{"keep_last": 2}, {"older_than": datetime(2001, 1, 1, tzinfo=UTC)}], ids=str)
async def test_a_thread_with_nothing_to_go_is_not_locked(
    persistence: Persistence[str, str], user_id: str, limit: dict[str, Any]
) -> None:
    thread_id = await thread_with_states(persistence, user_id, 2)
    query = text("SELECT xmin::text || ' ' || xmax::text || ' ' || ctid::text FROM threads WHERE thread_id = :id")
    async with persistence.engine.connect() as connection:
        before = (await connection.execute(query, {"id": thread_id})).scalar_one()

    await persistence.purge(**limit)

    async with persistence.engine.connect() as connection:
        assert (await connection.execute(query, {"id": thread_id})).scalar_one() == before


# --- who does it ---


@pytest_asyncio.fixture
async def two_stores(make_database: Any) -> AsyncIterator[tuple[Persistence[Any, Any], Persistence[Any, Any]]]:
    """Two stores of one database, of which neither does anything by itself."""
    settings = PersistenceSettings(_env_file=None, database_url=await make_database())
    await migrate.upgrade(settings)
    async with Persistence[Any, Any](settings) as one, Persistence[Any, Any](settings) as other:
        yield one, other


def sweeper_of(store: Persistence[Any, Any], *, keep_last: int = 1, interval: float = 0) -> Purging:
    return Purging(store._transactions, keep_last=keep_last, interval=interval)  # noqa: SLF001 - as a store makes it


async def job_of(store: Persistence[Any, Any]) -> Any:
    async with store.engine.connect() as connection:
        return (await connection.execute(text("SELECT * FROM persistence_jobs"))).one()


class Paused:
    """``purge_states``, held up after its first batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_under_way = asyncio.Event()
        self.go_on = asyncio.Event()
        self._purge_states = purging.purge_states
        monkeypatch.setattr(purging, "purge_states", self)

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        result = await self._purge_states(*arguments, **named)
        if not self.is_under_way.is_set():
            self.is_under_way.set()
            await self.go_on.wait()
        return result


async def test_one_store_sweeps_and_the_other_lets_it(two_stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two_stores
    thread_id = await thread_with_states(one, "ann", 4)
    paused = Paused(monkeypatch)

    sweeping = asyncio.create_task(sweeper_of(one).purge_in_turn())
    await paused.is_under_way.wait()
    by_other = await asyncio.wait_for(sweeper_of(other).purge_in_turn(), timeout=5)
    meanwhile = await job_of(other)
    paused.go_on.set()

    assert (by_other, await sweeping) == (0, 3)
    assert await kept(one, thread_id, "ann") == [3]
    assert meanwhile.holder is not None
    assert meanwhile.finished_at is None
    job = await job_of(one)
    assert (job.job, job.holder, job.held_until, job.removed) == ("purge", None, None, 3)
    assert job.started_at <= job.finished_at


async def test_the_job_of_a_store_that_stalled_is_taken_over_and_not_ended_by_it(
    two_stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two_stores
    is_stalled, go_on, keep = asyncio.Event(), asyncio.Event(), Job.keep

    async def keep_late(job: Job, scope: Any) -> bool:
        if not is_stalled.is_set():
            is_stalled.set()
            await go_on.wait()
        return await keep(job, scope)

    monkeypatch.setattr(Job, "keep", keep_late)
    monkeypatch.setattr(retention, "STATES_A_BATCH", 1)
    await thread_with_states(one, "ann", 4)
    stalled = asyncio.create_task(sweeper_of(one).purge_in_turn())
    await is_stalled.wait()  # after its first batch
    async with other.engine.begin() as connection:
        await connection.execute(text("UPDATE persistence_jobs SET held_until = now() - interval '1 s'"))

    by_other = await asyncio.wait_for(sweeper_of(other).purge_in_turn(), timeout=5)
    ended = await job_of(other)
    newer = await thread_with_states(other, "ann", 2)
    go_on.set()

    assert (await stalled, by_other) == (1, 2)
    assert await kept(one, newer, "ann") == [1, 0]
    assert ended.finished_at is not None
    assert await job_of(other) == ended


async def test_many_stores_do_not_sweep_more_often_than_one(two_stores: Any) -> None:
    one, other = two_stores
    await thread_with_states(one, "ann", 2)
    assert await sweeper_of(one, interval=3600).purge_in_turn() == 1
    await thread_with_states(one, "ann", 2)

    assert await sweeper_of(other, interval=3600).purge_in_turn() == 0
    assert await sweeper_of(other, interval=0).purge_in_turn() == 1


async def test_a_sweeper_that_keeps_all_sweeps_abandoned_streams_only(two_stores: Any) -> None:
    one, _ = two_stores
    thread_id = await thread_with_states(one, "ann", 3)

    assert await sweeper_of(one, keep_last=0).purge_in_turn() == 0
    assert await kept(one, thread_id, "ann") == [2, 1, 0]
    assert (await job_of(one)).removed == 0
