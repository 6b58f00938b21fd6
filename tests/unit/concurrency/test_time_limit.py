"""One timer a call: it cuts the connections first, and ends the call afterwards."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable

import pytest
from asyncpg.exceptions import ReadOnlySQLTransactionError

from agent_persistence.concurrency import time_limit
from agent_persistence.concurrency.batching import Batch, Batcher
from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import EndsBy, OutcomeUnknown, cut_when_due, is_cut
from agent_persistence.database.driver_errors import translate
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


def refused() -> UnavailableError:
    cause = ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction")
    error = translate(cause)
    error.__cause__ = cause
    assert isinstance(error, UnavailableError)
    return error


async def test_a_call_that_the_server_refused_until_its_limit_says_what_the_server_said() -> None:
    async def attempt() -> None:
        raise refused()

    with pytest.raises(UnavailableError, match="takes no writes") as error:
        await Retries(10.0, call_seconds=0.1).run(attempt)

    assert isinstance(error.value.__cause__, ReadOnlySQLTransactionError)


async def test_a_call_whose_last_attempt_was_cut_says_what_the_server_said_before() -> None:
    cut = asyncio.Event()
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise refused()
        watched(cut.set)
        await cut.wait()
        raise UnavailableError("the connection was closed")

    with pytest.raises(UnavailableError, match="takes no writes"):
        await Retries(0.07, call_seconds=0.15).run(attempt)

    assert cut.is_set()


async def test_a_call_that_got_no_answer_at_all_says_so() -> None:
    with pytest.raises(UnavailableError, match="did not answer"):
        await Retries(10.0, call_seconds=0.1).run(asyncio.Event().wait)


async def test_calls_that_wait_for_a_refused_batch_say_what_the_server_said() -> None:
    retries = Retries(10.0, call_seconds=0.1)

    async def attempt() -> list[str]:
        raise refused()

    async def together(_batch: Batch[str]) -> list[str]:
        return await retries.run(attempt)

    batcher: Batcher[str, str] = Batcher(together, retry_seconds=0.1, call_seconds=0.1, one_at_a_time=True)

    results = await asyncio.gather(*map(batcher.submit, "abcdef"), return_exceptions=True)
    later = asyncio.create_task(batcher.submit("g"))
    await asyncio.sleep(0.02)
    results += await asyncio.gather(later, batcher.submit("h"), return_exceptions=True)

    assert {str(result).partition(":")[0] for result in results} == {"the database takes no writes"}
