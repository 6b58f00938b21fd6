"""The guard around Redis: a budget, a breaker, one probe."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial

import pytest

from agent_persistence.cache.circuit_breaker import CALLS_AT_ONCE, CacheUnavailableError, CircuitBreaker
from agent_persistence.concurrency.shielding import drain


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_guard(
    *, call_seconds: float = 0.025, budget_seconds: float = 0.05, clock: Callable[[], float] | None = None
) -> CircuitBreaker:
    return CircuitBreaker(call_seconds=call_seconds, budget_seconds=budget_seconds, clock=clock or time.monotonic)


async def answer() -> str:
    return "pong"


async def refuse() -> str:
    raise ConnectionError


async def hang() -> str:
    await asyncio.Event().wait()
    return "never"


async def fail(guard: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(CacheUnavailableError):
            await guard.call(refuse, guard.budget())


async def test_an_answer_is_passed_on() -> None:
    guard = make_guard()

    assert await guard.call(answer, guard.budget()) == "pong"


async def test_a_call_that_hangs_ends_within_its_budget() -> None:
    guard = make_guard(call_seconds=0.02)
    began = asyncio.get_running_loop().time()

    with pytest.raises(CacheUnavailableError):
        await guard.call(hang, guard.budget())

    assert asyncio.get_running_loop().time() - began < 0.2


async def test_a_reply_that_waits_in_the_socket_while_the_event_loop_is_busy_is_no_timeout() -> None:
    guard = make_guard(call_seconds=0.02, budget_seconds=0.02)
    ours, redis = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    replies: list[bytes] = []

    async def call() -> None:
        replies.append(await guard.call(partial(reader.readexactly, 4), guard.budget()))

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    redis.send(b"pong")
    time.sleep(0.1)  # noqa: ASYNC251 - the event loop is busy for longer than the limit
    await calling

    assert replies == [b"pong"]
    writer.close()
    redis.close()


async def test_a_spent_budget_leaves_no_time_for_another_call() -> None:
    clock = Clock()
    guard = make_guard(budget_seconds=0.05, clock=clock)
    deadline = guard.budget()
    clock.now += 0.06

    with pytest.raises(CacheUnavailableError):
        await guard.call(hang, deadline)


async def test_any_exception_becomes_unavailable() -> None:
    async def garbage() -> str:
        return b"\xff".decode()

    guard = make_guard()

    with pytest.raises(CacheUnavailableError) as caught:
        await guard.call(garbage, guard.budget())

    assert isinstance(caught.value.__cause__, UnicodeDecodeError)


async def test_three_failures_in_a_row_stop_the_calls() -> None:
    guard = make_guard(clock=Clock())
    await fail(guard, 3)
    called = False

    async def record() -> None:
        nonlocal called
        called = True

    with pytest.raises(CacheUnavailableError):
        await guard.call(record, guard.budget())

    assert not called
    assert not guard.available


async def test_a_success_between_failures_keeps_the_calls_going() -> None:
    guard = make_guard(clock=Clock())

    await fail(guard, 2)
    await guard.call(answer, guard.budget())
    await fail(guard, 2)

    assert guard.available


async def test_after_the_pause_one_probe_is_let_through_and_the_others_wait_for_it() -> None:
    clock = Clock()
    guard = make_guard(clock=clock)
    await fail(guard, 3)
    clock.now += 0.3
    probing, proceed = asyncio.Event(), asyncio.Event()

    async def probe() -> str:
        probing.set()
        await proceed.wait()
        return "pong"

    first = asyncio.create_task(guard.call(probe, clock.now + 10))
    await asyncio.wait_for(probing.wait(), 5)
    with pytest.raises(CacheUnavailableError):
        await guard.call(answer, guard.budget())
    proceed.set()

    assert await first == "pong"
    assert guard.available
    assert await guard.call(answer, guard.budget()) == "pong"


async def test_a_failed_probe_doubles_the_pause_up_to_five_seconds() -> None:
    clock = Clock()
    guard = make_guard(clock=clock)
    await fail(guard, 3)

    for _ in range(8):
        clock.now += 6.1  # longer than the longest pause with its jitter
        await fail(guard, 1)
    clock.now += 3.9  # shorter than five seconds less the jitter

    called = False

    async def record() -> None:
        nonlocal called
        called = True

    with pytest.raises(CacheUnavailableError):
        await guard.call(record, guard.budget())
    assert not called


async def test_a_cancelled_caller_counts_for_nothing_and_frees_the_probe() -> None:
    clock = Clock()
    guard = make_guard(call_seconds=10, budget_seconds=10, clock=clock)
    await fail(guard, 3)
    clock.now += 0.3
    started = asyncio.Event()

    async def probe() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(guard.call(probe, guard.budget()))
    await asyncio.wait_for(started.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await guard.call(answer, guard.budget()) == "pong"


async def test_trouble_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    guard = make_guard(clock=clock)

    with caplog.at_level(logging.INFO, "agent_persistence"):
        for _ in range(3):
            await fail(guard, 3)
        clock.now += 6.1
        await guard.call(answer, guard.budget())

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_budget_that_is_spent_says_nothing_about_redis() -> None:
    clock = Clock()
    guard = make_guard(clock=clock)
    deadline = guard.budget()
    clock.now += 1

    for _ in range(5):
        with pytest.raises(CacheUnavailableError):
            await guard.call(answer, deadline)

    assert guard.available


async def test_a_crowd_beyond_the_limit_goes_on_without_the_cache_and_does_not_open_the_breaker() -> None:
    guard = make_guard(call_seconds=10, budget_seconds=10)
    started, proceed = asyncio.Semaphore(0), asyncio.Event()

    async def wait() -> str:
        started.release()
        await proceed.wait()
        return "pong"

    crowd = [asyncio.create_task(guard.call(wait, guard.budget())) for _ in range(CALLS_AT_ONCE)]
    for _ in crowd:
        await started.acquire()
    for _ in range(5):
        with pytest.raises(CacheUnavailableError):
            await guard.call(answer, guard.budget())
    proceed.set()

    assert await asyncio.gather(*crowd) == ["pong"] * CALLS_AT_ONCE
    assert guard.available


async def test_many_calls_that_fail_together_open_the_breaker_for_its_first_pause_only() -> None:
    clock = Clock()
    guard = make_guard(clock=clock)
    failing = asyncio.Event()

    async def fail_together() -> None:
        await failing.wait()
        raise ConnectionError

    calls = [asyncio.create_task(guard.call(fail_together, guard.budget())) for _ in range(20)]
    await asyncio.sleep(0)
    failing.set()
    await asyncio.gather(*calls, return_exceptions=True)
    clock.now += 0.25  # longer than 0.2 s with its jitter

    assert await guard.call(answer, guard.budget()) == "pong"


async def test_after_an_outage_nothing_is_believed_before_what_was_missed_is_made_up_for() -> None:
    clock = Clock()
    guard = make_guard(clock=clock)
    began, go_on = asyncio.Event(), asyncio.Event()

    async def recover() -> None:
        began.set()
        await go_on.wait()
        await guard.call(answer, guard.budget())

    guard.recover = recover
    await fail(guard, 3)
    clock.now += 10

    for _ in range(2):  # the probe itself, and who comes while it is being made up for
        with pytest.raises(CacheUnavailableError):
            await guard.call(answer, guard.budget())
        await began.wait()
    assert not guard.available
    go_on.set()
    await drain(5)

    assert guard.available
    assert await guard.call(answer, guard.budget()) == "pong"


@pytest.mark.parametrize("fails_by", ["an error", "a call that fails"])
async def test_what_cannot_be_made_up_for_keeps_redis_away_until_the_next_probe(fails_by: str) -> None:
    clock, recoveries = Clock(), 0
    guard = make_guard(clock=clock)

    async def recover() -> None:
        nonlocal recoveries
        recoveries += 1
        if recoveries == 1 and fails_by == "an error":
            raise RuntimeError
        if recoveries == 1:
            await fail(guard, 1)

    guard.recover = recover
    await fail(guard, 3)
    available = []
    for _ in range(2):
        clock.now += 10
        with pytest.raises(CacheUnavailableError):
            await guard.call(answer, guard.budget())
        await drain(5)
        available.append(guard.available)

    assert available == [False, True]
