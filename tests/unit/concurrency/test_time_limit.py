"""One timer a call: it cuts the connections first, and ends the call afterwards."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable

import pytest

from agent_persistence.concurrency import time_limit
from agent_persistence.concurrency.time_limit import EndsBy, OutcomeUnknown, cut_when_due, is_cut
from agent_persistence.errors import CommitUnknownError, UnavailableError


@pytest.fixture(autouse=True)
def _short_settlement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 0.05)


def watched(cut: Callable[[], None]) -> Callable[[], None]:
    spare = cut_when_due(cut)
    assert spare is not None
    return spare


async def test_connections_are_cut_before_the_call_ends_and_again_at_its_end() -> None:
    cuts: list[str] = []

    async def call() -> None:
        async with EndsBy(time.monotonic() + 0.1):
            watched(lambda: cuts.append("first"))()
            watched(lambda: cuts.append("second"))
            await asyncio.sleep(0.07)
            assert is_cut()
            assert cuts == ["second"]
            watched(lambda: cuts.append("of a later attempt"))
            await asyncio.sleep(5)

    with pytest.raises(UnavailableError):
        await call()

    assert cuts == ["second", "second", "of a later attempt"]


async def test_a_call_in_time_leaves_no_timer_behind() -> None:
    cuts: list[str] = []
    async with EndsBy(time.monotonic() + 0.1):
        watched(lambda: cuts.append("too late"))

    await asyncio.sleep(0.12)
    assert not cuts
    assert cut_when_due(cuts.clear) is None


async def test_the_result_of_a_call_is_not_kept_by_timers_that_it_cancelled() -> None:
    class Result:
        pass

    async def call() -> Result:
        async with EndsBy(time.monotonic() + 30):
            asyncio.get_running_loop().call_later(30, print).cancel()  # as the driver does with each statement
            return Result()

    gc.disable()  # freed at once, and not when the garbage collector comes by
    try:
        kept = weakref.ref(await asyncio.create_task(call()))
        await asyncio.sleep(0)
        assert kept() is None
    finally:
        gc.enable()


async def test_a_call_that_ends_before_the_outcome_of_its_write_says_so() -> None:
    async def call() -> None:
        async with EndsBy(time.monotonic() + 0.06):
            with OutcomeUnknown():
                await asyncio.sleep(5)

    with pytest.raises(CommitUnknownError):
        await call()


async def test_a_refused_write_leaves_no_doubt() -> None:
    async def call() -> None:
        async with EndsBy(time.monotonic() + 0.06):
            with pytest.raises(ValueError, match="refused"), OutcomeUnknown():
                raise ValueError("refused")
            await asyncio.sleep(5)

    with pytest.raises(UnavailableError):
        await call()


async def test_the_cancellation_of_a_caller_is_no_limit_that_passed() -> None:
    async def call() -> None:
        async with EndsBy(time.monotonic() + 5):
            await asyncio.sleep(5)

    caller = asyncio.create_task(call())
    await asyncio.sleep(0)
    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
