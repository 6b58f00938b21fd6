"""Callers that arrived before a load started share it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from agent_persistence.concurrency.single_flight import SingleFlight
from agent_persistence.errors import UnavailableError


class Work:
    """Work that a test can observe, and lets proceed."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.told: list[bool] = []
        self.started, self.proceed = asyncio.Event(), asyncio.Event()

    async def __call__(self, *, waited: bool) -> Any:
        self.told.append(waited)
        self.started.set()
        await self.proceed.wait()
        outcome = self.outcomes[len(self.told) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def load(loads: SingleFlight[Any], work: Work, key: str = "key", looks: asyncio.Event | None = None) -> Any:
    """Register, wait for the event, and load."""
    ticket = loads.register(key)
    try:
        if looks is not None:
            await looks.wait()
        return await loads.load(key, work, ticket=ticket)
    finally:
        loads.unregister(key)


async def test_an_error_reaches_the_waiting_callers_only() -> None:
    loads, work = SingleFlight[Any](), Work(UnavailableError("away"), "back")
    work.proceed.set()

    together = await asyncio.gather(*(load(loads, work) for _ in range(3)), return_exceptions=True)
    afterwards = await load(loads, work)

    assert [type(outcome) for outcome in together] == [UnavailableError] * 3
    assert afterwards == "back"


async def test_callers_that_arrive_during_a_load_share_the_next_one() -> None:
    loads, work = SingleFlight[Any](), Work("first", "second")
    early = asyncio.create_task(load(loads, work))
    await asyncio.wait_for(work.started.wait(), 5)

    late = [asyncio.create_task(load(loads, work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.proceed.set()

    assert await early == "first"
    assert await asyncio.gather(*late) == ["second"] * 3
    assert work.told == [False, True]


@pytest.mark.parametrize("ended", [False, True])
async def test_callers_that_registered_before_a_load_share_it_however_late_they_ask(ended: bool) -> None:
    loads, work, looked = SingleFlight[Any](), Work({"first": 1}, "second"), asyncio.Event()
    late = asyncio.create_task(load(loads, work, looks=looked))
    await asyncio.sleep(0)
    early = asyncio.create_task(load(loads, work))
    await asyncio.wait_for(work.started.wait(), 5)
    if ended:
        work.proceed.set()
        (await early)["first"] = "of my own"
    looked.set()
    await asyncio.sleep(0)
    work.proceed.set()

    assert await late == {"first": 1}
    assert await early == {"first": "of my own" if ended else 1}
    assert work.told == [False]
    assert await load(loads, work) == "second"


async def test_a_caller_that_asks_after_a_failed_load_starts_another_one() -> None:
    loads, work, looked = SingleFlight[Any](), Work(UnavailableError("away"), "back"), asyncio.Event()
    late = asyncio.create_task(load(loads, work, looks=looked))
    await asyncio.sleep(0)
    work.proceed.set()
    with pytest.raises(UnavailableError):
        await load(loads, work)
    looked.set()

    assert await late == "back"


async def test_nothing_is_kept_once_all_callers_have_unregistered() -> None:
    loads, work = SingleFlight[Any](), Work("there", "there", "there")
    gone = asyncio.create_task(load(loads, work))
    await asyncio.wait_for(work.started.wait(), 5)
    gone.cancel()
    await asyncio.wait([gone])
    work.proceed.set()

    await asyncio.gather(*(load(loads, work) for _ in range(3)))
    await asyncio.sleep(0)  # what is to be done at the end of a task has been done

    assert (loads._callers, loads._queued, loads._started) == ({}, {}, {})  # noqa: SLF001 - nothing shows


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_cancelled_caller_does_not_cancel_the_load_of_the_others(cancelled: int) -> None:
    loads, work = SingleFlight[Any](), Work("there")
    callers = [asyncio.create_task(load(loads, work)) for _ in range(3)]
    await asyncio.wait_for(work.started.wait(), 5)

    callers.pop(cancelled).cancel()
    work.proceed.set()

    assert await asyncio.gather(*callers) == ["there"] * 2


async def test_a_failed_load_does_not_keep_the_next_one_from_starting() -> None:
    loads, work = SingleFlight[Any](), Work(UnavailableError("away"), "back")
    early = asyncio.create_task(load(loads, work))
    await asyncio.wait_for(work.started.wait(), 5)
    late = asyncio.create_task(load(loads, work))
    await asyncio.sleep(0)
    work.proceed.set()

    with pytest.raises(UnavailableError):
        await early
    assert await late == "back"


async def test_different_keys_do_not_wait_for_each_other() -> None:
    loads, waiting, done = SingleFlight[Any](), Work("late"), Work("early")
    done.proceed.set()
    first = asyncio.create_task(load(loads, waiting, "one"))

    assert await load(loads, done, "other") == "early"

    waiting.proceed.set()
    assert await first == "late"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_an_event_loop_with_eager_tasks_changes_nothing() -> None:
    loop, loads, work = asyncio.get_running_loop(), SingleFlight[Any](), Work("first", "second", "third")
    before = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        together = [asyncio.create_task(load(loads, work)) for _ in range(3)]
        work.proceed.set()
        outcomes = await asyncio.gather(*together)
        afterwards = await load(loads, work)
    finally:
        loop.set_task_factory(before)

    assert (outcomes, afterwards) == (["first", "second", "second"], "third")


async def test_a_load_that_is_cancelled_before_it_starts_blocks_no_later_one() -> None:
    loads, work = SingleFlight[Any](), Work("first", "second")
    early = asyncio.create_task(load(loads, work))
    await asyncio.wait_for(work.started.wait(), 5)
    late = asyncio.create_task(load(loads, work))
    await asyncio.sleep(0)

    loads._queued["key"].task.cancel()  # noqa: SLF001 - as the end of an event loop does it
    with pytest.raises(asyncio.CancelledError):
        await late
    work.proceed.set()

    assert await early == "first"
    assert await load(loads, work) == "second"
