"""Concurrent calls share batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pytest

from agent_persistence.concurrency import batching
from agent_persistence.concurrency.batching import ALONE, IN_DOUBT, LATER, Alone, Batch, Batcher
from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import EndsBy
from agent_persistence.errors import ClosedError, CommitUnknownError, PoolTimeoutError, UnavailableError

Result = str | Exception | Alone


class Work:
    """Runs items together and alone, once a test lets it proceed."""

    def __init__(self, answer: Callable[[str], Result] = str) -> None:
        self.batches: list[list[str]] = []
        self.alone: list[str] = []
        self.said: list[Alone] = []
        self.proceed = asyncio.Event()
        self.proceed_alone = asyncio.Event()
        self.batch: Batch[str] | None = None
        self._answer = answer

    async def together(self, batch: Batch[str]) -> Sequence[Result]:
        self.batches.append(batch.items)
        self.batch = batch
        await self.proceed.wait()
        return [self._answer(item) for item in batch.items]

    async def one(self, item: str, said: Alone) -> str:
        self.alone.append(item)
        self.said.append(said)
        await self.proceed_alone.wait()
        if item == "bad":
            raise ValueError(item)
        return f"{item} alone"


async def ask(batcher: Batcher[str, str], *items: str, **options: Any) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(batcher.submit(item, **options)) for item in items]
    await turns()
    return tasks


async def turns() -> None:
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_item_that_joins_no_batch_runs_in_its_turn() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)
    first = await ask(batcher, "a1", key="a")
    big = await ask(batcher, "a2", key="a", joins=False)
    later = await ask(batcher, "a3", key="a")
    other = await ask(batcher, "b1", key="b", joins=False)

    work.proceed.set()
    await turns()
    before = list(work.batches), list(work.alone), [task.done() for task in (*first, *big, *later)]
    work.proceed_alone.set()
    results = await asyncio.gather(*first, *big, *later, *other)

    assert before == ([["a1"]], ["b1", "a2"], [True, False, False])  # b1 has waited for nothing
    assert (work.batches, results) == ([["a1"], ["a3"]], ["a1", "a2 alone", "a3", "b1 alone"])


async def test_an_item_that_joins_no_batch_waits_for_those_of_its_key_in_the_same_one() -> None:
    work = Work()
    work.proceed_alone.set()
    batcher = Batcher(work.together, work.one)
    first = await ask(batcher, "x", key="x")

    tasks = [
        asyncio.create_task(batcher.submit(item, key="a", joins=item != "a2")) for item in ("a1", "a2", "a3", "a4")
    ]
    await turns()
    work.proceed.set()
    await asyncio.gather(*first, *tasks)

    assert (work.batches, work.alone) == ([["x"], ["a1"], ["a3", "a4"]], ["a2"])


async def test_a_lone_call_starts_at_once() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    [task] = await ask(batcher, "a")
    work.proceed.set()

    assert await task == "a"
    assert work.batches == [["a"]]


async def test_calls_that_arrive_while_a_batch_runs_form_the_next_one() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    first = await ask(batcher, "a", "b")
    second = await ask(batcher, "c", "d")
    work.proceed.set()

    assert await asyncio.gather(*first, *second) == ["a", "b", "c", "d"]
    assert work.batches == [["a", "b"], ["c", "d"]]


async def test_a_batch_holds_a_limited_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_ITEMS", 2)
    work = Work()
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    assert await asyncio.gather(*await ask(batcher, "a", "b", "c")) == ["a", "b", "c"]
    assert work.batches == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("sizes", "batches"), [([4, 4, 4], [["0", "1"], ["2"]]), ([20, 1], [["0"], ["1"]]), ([1, 20], [["0"], ["1"]])]
)
async def test_a_batch_has_a_limited_size_but_for_a_single_item(
    sizes: list[int], batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MOST_BYTES", 10)
    work = Work()
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    await asyncio.gather(*(batcher.submit(str(index), size=size) for index, size in enumerate(sizes)))

    assert work.batches == batches


@pytest.mark.parametrize("said", [ALONE, IN_DOUBT])
async def test_an_item_that_fails_fails_alone(said: Alone) -> None:
    work = Work(lambda item: said if item == "bad" else item)
    batcher = Batcher(work.together, work.one)
    work.proceed.set()
    work.proceed_alone.set()

    results = await asyncio.gather(*await ask(batcher, "a", "bad", "b"), return_exceptions=True)

    assert [results[0], results[2]] == ["a", "b"]
    assert isinstance(results[1], ValueError)
    assert work.said == [said]


async def test_an_unexpected_error_reaches_the_callers_of_its_batch_only() -> None:
    def fail(item: str) -> str:
        if item == "bad":
            raise RuntimeError
        return item

    work = Work(fail)
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    results = await asyncio.gather(*await ask(batcher, "a", "bad"), return_exceptions=True)

    assert [type(result) for result in results] == [RuntimeError, RuntimeError]
    assert await batcher.submit("b") == "b"


async def test_later_items_of_a_key_wait_for_those_that_run_alone() -> None:
    work = Work(lambda item: ALONE if item == "slow" else item)
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    [slow] = await ask(batcher, "slow", key="thread")
    [later] = await ask(batcher, "later", key="thread")
    [other] = await ask(batcher, "other", key="another thread")

    assert await other == "other"
    assert not later.done()
    work.proceed_alone.set()
    assert await asyncio.gather(slow, later) == ["slow alone", "later"]


async def test_items_that_are_to_run_later_follow_in_their_order_after_the_one_that_runs_alone() -> None:
    answers = iter([ALONE, LATER, "other", LATER])
    work = Work(lambda item: next(answers, item))
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    [slow, second, other, third] = [
        asyncio.create_task(batcher.submit(item, key=key)) for item, key in [*zip("abcd", "ttut", strict=True)]
    ]
    assert await other == "other"
    assert not second.done()
    work.proceed_alone.set()

    assert await asyncio.gather(slow, second, third) == ["a alone", "b", "d"]
    assert work.batches == [["a", "b", "c", "d"], ["b", "d"]]


async def test_a_batch_waits_some_turns_for_what_those_who_were_just_answered_submit() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one, turns=2)
    work.proceed.set()

    async def submit_after(task: asyncio.Task[str]) -> str:
        await task
        return await batcher.submit("next")

    first = asyncio.create_task(batcher.submit("first", key="t"))
    await asyncio.gather(first, submit_after(first), batcher.submit("waiting", key="t"))

    assert work.batches in ([["first"], ["waiting", "next"]], [["first", "waiting"], ["next"]])


async def test_a_caller_cancelled_before_the_batch_starts_is_not_in_it() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    [first] = await ask(batcher, "a")
    [given_up, stayed] = await ask(batcher, "b", "c")
    given_up.cancel()
    await turns()
    work.proceed.set()

    assert await asyncio.gather(first, stayed) == ["a", "c"]
    assert work.batches == [["a"], ["c"]]


async def test_a_caller_cancelled_later_is_known_to_the_batch_and_costs_the_others_nothing() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    [given_up, stayed] = await ask(batcher, "a", "b")
    given_up.cancel()
    await turns()
    wanted = work.batch.wanted() if work.batch else None
    work.proceed.set()

    assert await stayed == "b"
    assert wanted == [1]


async def test_cancelling_an_item_that_runs_alone_lets_the_next_one_of_the_key_start() -> None:
    work = Work(lambda item: ALONE if item == "slow" else item)
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    [slow] = await ask(batcher, "slow", key="thread")
    [later] = await ask(batcher, "later", key="thread")
    slow.cancel()

    assert await later == "later"


async def test_closing_fails_waiting_and_running_items() -> None:
    work = Work(lambda item: ALONE if item == "slow" else item)
    batcher = Batcher(work.together, work.one)
    work.proceed.set()
    alone = await ask(batcher, "slow")
    work.proceed.clear()
    under_way = await ask(batcher, "a")
    waiting = await ask(batcher, "b")

    await batcher.aclose()
    results = await asyncio.gather(*alone, *under_way, *waiting, return_exceptions=True)

    assert [type(result) for result in results] == [ClosedError] * 3


async def test_flush_waits_for_all_items() -> None:
    work = Work(lambda item: ALONE if item == "slow" else item)
    batcher = Batcher(work.together, work.one)
    tasks = await ask(batcher, "a", "slow")
    flushed = asyncio.create_task(batcher.flush())
    await turns()
    before = flushed.done()

    work.proceed.set()
    work.proceed_alone.set()
    await flushed

    assert not before
    assert all(task.done() for task in tasks)


@pytest.mark.parametrize(("crowd", "batches"), [(6, [6]), (20, [10, 10]), (300, [64, 64, 64])])
async def test_a_crowd_runs_in_two_halves_and_a_few_items_together(crowd: int, batches: list[int]) -> None:
    work = Work()
    batcher = Batcher(work.together, work.one, in_halves=True)

    tasks = await ask(batcher, *map(str, range(crowd)))
    under_way = [len(batch) for batch in work.batches]
    work.proceed.set()
    await asyncio.gather(*tasks)

    assert under_way == batches
    assert sorted(chain.from_iterable(work.batches), key=int) == [str(item) for item in range(crowd)]


@pytest.mark.parametrize(("retry_seconds", "is_run_again"), [(10.0, True), (0.0, False)])
async def test_an_item_whose_time_is_not_up_runs_again_when_its_batch_was_not_executed(
    retry_seconds: float, is_run_again: bool
) -> None:
    work = Work(lambda item: item if len(work.batches) > 1 else UnavailableError("away"))
    work.proceed.set()
    batcher = Batcher(work.together, work.one, retry_seconds=retry_seconds)

    calls = await ask(batcher, "a", "b")
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert [str(result) for result in results] == (["a", "b"] if is_run_again else ["away", "away"])
    assert len(work.batches) == 1 + is_run_again


async def test_a_pool_timeout_is_final_and_so_is_what_may_have_been_executed() -> None:
    errors = {"a": PoolTimeoutError("busy"), "b": CommitUnknownError("lost")}
    work = Work(errors.__getitem__)
    work.proceed.set()
    batcher = Batcher(work.together, work.one, retry_seconds=10.0)

    results = await asyncio.gather(*await ask(batcher, "a", "b"), return_exceptions=True)

    assert results == list(errors.values())
    assert len(work.batches) == 1


async def test_the_limit_of_the_call_that_started_a_runner_does_not_end_the_batches_after_it() -> None:
    retries, proceed = Retries(10.0, call_seconds=10.0), asyncio.Event()

    async def attempt(items: list[str]) -> list[str]:
        await proceed.wait()
        return items

    async def together(batch: Batch[str]) -> Sequence[str]:
        return await retries.run(partial(attempt, batch.items))

    batcher: Batcher[str, str] = Batcher(together)

    async def short_call() -> str:
        async with EndsBy(time.monotonic() + 0.7):
            return await batcher.submit("first")

    first = asyncio.create_task(short_call())
    await turns()
    [second] = await ask(batcher, "second")

    with pytest.raises(UnavailableError):
        await first
    proceed.set()

    assert await second == "second"


async def test_an_item_waits_for_a_batch_no_longer_than_its_call_may_take() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one, call_seconds=0.05)
    running = await ask(batcher, "a1", key="a")
    waiting = await ask(batcher, "a2", "a3", key="a")

    failures = await asyncio.gather(*waiting, return_exceptions=True)
    in_time = await ask(batcher, "b1", key="b")
    work.proceed.set()

    assert [type(failure) for failure in failures] == [UnavailableError] * 2
    assert await asyncio.gather(*running, *in_time) == ["a1", "b1"]
    assert work.batches == [["a1"], ["b1"]]


async def test_a_call_in_its_callers_task_is_followed_by_those_that_came_meanwhile_even_if_it_is_cancelled() -> None:
    work = Work()
    batcher = Batcher(work.together, one_at_a_time=True)
    [lone] = await ask(batcher, "lone")
    later = await ask(batcher, "a", "b", "c")
    assert work.batches == [["lone"]]

    lone.cancel()
    await turns()
    work.proceed.set()

    assert await asyncio.gather(*later) == ["a", "b", "c"]
    assert work.batches == [["lone"], ["a", "b", "c"]]
    assert lone.cancelled()


async def test_a_call_in_its_callers_task_raises_its_error() -> None:
    work = Work(UnavailableError)
    work.proceed.set()

    with pytest.raises(UnavailableError, match="lone"):
        await Batcher(work.together, one_at_a_time=True).submit("lone")
