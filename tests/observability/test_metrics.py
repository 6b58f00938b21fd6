"""The snapshot says what the store did, and costs nothing where it was not asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent_persistence import (
    ANY_USER,
    InvalidInputError,
    Persistence,
    StateConflictError,
    StateNotFoundError,
    ThreadNotFoundError,
    UnavailableError,
)
from agent_persistence.concurrency.retries import LostReplyError
from agent_persistence.telemetry import slow_operations, timing
from agent_persistence.telemetry.histogram import SECONDS, Histogram
from agent_persistence.telemetry.metrics import OperationKey, StatementKey

Store = Persistence[str, str]
HELLO = {"role": "user", "content": "hello"}


async def new_threads(store: Store, number: int, user_id: str) -> list[str]:
    return [(await store.threads.create(user_id=user_id)).thread_id for _ in range(number)]


async def test_look_ups_are_counted_by_their_result(unmeasured: Store, user_id: str) -> None:
    [thread] = await new_threads(unmeasured, 1, user_id)

    assert await unmeasured.states.get(thread, user_id=user_id) is None  # nothing is cached
    await unmeasured.states.put(thread, {"n": 1}, user_id=user_id)
    await unmeasured.states.get(thread, user_id=user_id)
    await unmeasured.states.get(thread, user_id=user_id, fresh=True)

    cache = unmeasured.metrics().cache
    assert cache is not None
    assert {result: count for result, count in cache.lookups.items() if count} == {"absent": 1, "hit": 1, "bypassed": 1}
    assert (cache.fills, cache.publishes, cache.unacknowledged) == (1, 1, 0)


async def test_concurrent_calls_are_counted_as_few_batches(unmeasured: Store, user_id: str) -> None:
    threads = await new_threads(unmeasured, 16, user_id)

    await asyncio.gather(*(unmeasured.messages.append(thread, HELLO, user_id=user_id) for thread in threads))

    appends = unmeasured.metrics().batches["append"]
    assert appends.size.total == 16
    assert appends.size.count < 8
    assert appends.waiting == 0


async def test_states_are_counted_by_their_form(unmeasured: Store, user_id: str) -> None:
    [thread] = await new_threads(unmeasured, 1, user_id)
    large = {"steps": ["x" * 100 for _ in range(200)]}

    await unmeasured.states.put(thread, large, user_id=user_id)
    large["steps"].append("another step")
    await unmeasured.states.put(thread, large, user_id=user_id)

    metrics = unmeasured.metrics()
    assert metrics.states_saved == {"whole": 1, "change": 1}
    assert metrics.states_bytes["change"] < metrics.states_bytes["whole"] / 10
    assert metrics.recent_bytes > 20_000


async def test_connections_in_use_are_counted(unmeasured: Store, user_id: str) -> None:
    async with unmeasured.begin(user_id=user_id) as uow:
        await uow.threads.create()
        during = unmeasured.metrics().pool

    assert (during.used, during.most, during.waiting) == (1, 15, 0)


@pytest.mark.parametrize("kind", ["call", "unit of work"])
async def test_whoever_waits_for_a_unit_of_work_to_end_is_counted(settings_for: Any, user_id: str, kind: str) -> None:
    async with Store(await settings_for(pool_size=1, max_overflow=0)) as store:
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.create()
            calls = {
                "call": lambda: store.threads.get("none", user_id=user_id),
                "unit of work": lambda: store.run(lambda other: other.threads.get("none"), user_id=user_id),
            }
            waiting = asyncio.ensure_future(calls[kind]())
            await asyncio.sleep(0.05)
            during = store.metrics().pool
        await waiting

        assert (during.used, during.most, during.waiting) == (1, 1, 1)
        assert store.metrics().pool.waiting == 0


async def test_a_purge_is_counted(unmeasured: Store, user_id: str) -> None:
    [thread] = await new_threads(unmeasured, 1, user_id)
    for n in range(3):
        await unmeasured.states.put(thread, {"n": n}, user_id=user_id)

    deleted = await unmeasured.purge(keep_last=1)

    metrics = unmeasured.metrics()
    assert metrics.purged == deleted >= 2
    assert metrics.purge_ended_at is not None


async def test_durations_are_counted_for_each_operation_and_statement(measured: Store, user_id: str) -> None:
    [thread] = await new_threads(measured, 1, user_id)
    await measured.messages.append(thread, HELLO, user_id=user_id)
    with pytest.raises(ThreadNotFoundError):
        await measured.messages.append("no thread", HELLO, user_id=user_id)

    metrics = measured.metrics()
    assert metrics.operations[OperationKey("messages.append", "")].count == 1
    assert metrics.operations[OperationKey("messages.append", "ThreadNotFoundError")].count == 1
    assert 0 < metrics.statements[StatementKey("INSERT", "messages", "")].total < 10
    assert metrics.pool.wait.count > 0


async def test_an_operation_inside_another_one_counts_once(measured: Store, user_id: str) -> None:
    [thread] = await new_threads(measured, 1, user_id)
    await measured.states.put(thread, {}, user_id=user_id)

    await measured.states.require(thread, user_id=user_id)

    counted = {key.operation for key in measured.metrics().operations}
    assert "states.require" in counted
    assert "states.get" not in counted


async def test_a_unit_of_work_counts_and_so_do_the_calls_in_its_block(measured: Store, user_id: str) -> None:
    async with measured.begin(user_id=user_id) as uow:
        thread = await uow.threads.create()
        await measured.threads.get(thread.thread_id, user_id=user_id)

    operations = measured.metrics().operations
    assert operations[OperationKey("begin", "")].count == 1
    assert operations[OperationKey("threads.get", "")].count == 1


async def test_an_error_of_the_host_has_no_name_of_its_own(measured: Store, user_id: str) -> None:
    class HostError(Exception):
        pass

    with pytest.raises(HostError):
        async with measured.begin(user_id=user_id):
            raise HostError

    assert OperationKey("begin", "_OTHER") in measured.metrics().operations


def test_an_error_has_the_name_of_a_public_class() -> None:
    class HostError(UnavailableError):
        pass

    errors = (ThreadNotFoundError("t"), LostReplyError(), HostError(), TimeoutError(), ValueError())
    assert [timing.type_of(error) for error in errors] == [
        "ThreadNotFoundError",
        "UnavailableError",
        "UnavailableError",
        "ConnectionError",
        "_OTHER",
    ]


async def test_no_clock_is_read_where_durations_are_off(
    unmeasured: Store, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        def monotonic(self) -> Any:
            raise AssertionError("a clock was read")

    monkeypatch.setattr(timing, "time", Clock())
    monkeypatch.setattr(slow_operations, "time", Clock())

    [thread] = await new_threads(unmeasured, 1, user_id)
    await unmeasured.states.put(thread, {}, user_id=user_id)
    await unmeasured.states.get(thread, user_id=user_id)
    await unmeasured.messages.append(thread, HELLO, user_id=user_id)

    assert unmeasured.telemetry.timing is None
    assert "page" not in vars(unmeasured.states)  # no method is wrapped
    assert unmeasured.metrics().operations == {}


async def test_each_end_of_a_call_that_measures_itself_is_counted_once(measured: Store, user_id: str) -> None:
    [thread, empty] = await new_threads(measured, 2, user_id)
    states, messages = measured.states, measured.messages

    async with measured.begin(user_id=user_id) as holder:
        await holder.threads.update(thread, name="locked")
        cancelled = asyncio.create_task(states.put(thread, {"n": 0}, user_id=user_id))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await asyncio.wait([cancelled])
    await states.put(thread, {"n": 1}, user_id=user_id)
    await states.put(thread, {"n": 2}, user_id=ANY_USER)
    await asyncio.gather(*(states.get(thread, user_id=user_id) for _ in range(3)))  # one fills the cache
    await asyncio.gather(*(states.require(thread, user_id=user_id) for _ in range(3)))
    await messages.append(thread, HELLO, user_id=user_id)
    await messages.append_many(thread, [], user_id=user_id)
    for failing, error in (
        (states.put(thread, object(), user_id=user_id), InvalidInputError),
        (states.put(thread, {}, user_id=user_id, expected_version=1), StateConflictError),
        (states.get(thread, user_id=user_id, min_version=-1), InvalidInputError),
        (states.require(empty, user_id=user_id), StateNotFoundError),
        (messages.append("no thread", HELLO, user_id=user_id), ThreadNotFoundError),
    ):
        with pytest.raises(error):
            await failing

    operations = measured.metrics().operations
    hot = ("states.put", "states.get", "states.require", "messages.append", "messages.append_many")
    assert {(*key,): found.count for key, found in operations.items() if key.operation in hot} == {
        ("states.put", "CancelledError"): 1,
        ("states.put", ""): 2,
        ("states.put", "InvalidInputError"): 1,
        ("states.put", "StateConflictError"): 1,
        ("states.get", ""): 3,
        ("states.get", "InvalidInputError"): 1,
        ("states.require", ""): 3,
        ("states.require", "StateNotFoundError"): 1,
        ("messages.append", ""): 1,
        ("messages.append", "ThreadNotFoundError"): 1,
        ("messages.append_many", ""): 1,
    }


@pytest.mark.parametrize("values", [[0.002], [0.002, 0.003, 0.004], [0.2, 0.00001, 20.0, 0.0001]])
def test_values_that_are_counted_together_are_counted_as_one_by_one(values: list[float]) -> None:
    together, one_by_one, handed_over = Histogram(SECONDS), Histogram(SECONDS), Histogram(SECONDS)
    seen: list[float] = []
    handed_over.sink = seen.append

    together.add_all(values)
    handed_over.add_all(values)
    for value in values:
        one_by_one.add(value)

    assert together.counts == handed_over.counts == one_by_one.counts
    assert together.total == pytest.approx(one_by_one.total)
    assert seen == values
