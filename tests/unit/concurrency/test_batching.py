"""Doing together what several callers ask for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import pytest

from agent_persistence.concurrency import batching
from agent_persistence.concurrency.batching import ALONE, IN_DOUBT, Alone, Batch, Batcher
from agent_persistence.errors import ClosedError

Result = str | Exception | Alone


class Work:
    """Does items together and alone, when it is let."""

    def __init__(self, answer: Callable[[str], Result] = str) -> None:
        self.batches: list[list[str]] = []
        self.alone: list[str] = []
        self.said: list[Alone] = []
        self.proceed = asyncio.Event()
        self.proceed_alone = asyncio.Event()
        self.is_abandoned: Callable[[int], bool] = bool
        self._answer = answer

    async def together(self, batch: Batch[str]) -> Sequence[Result]:
        self.batches.append(batch.items)
        self.is_abandoned = batch.is_abandoned
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
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_who_comes_alone_waits_for_nobody() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    [task] = await ask(batcher, "a")
    work.proceed.set()

    assert await task == "a"
    assert work.batches == [["a"]]


async def test_who_comes_while_a_batch_is_under_way_is_in_the_next() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    first = await ask(batcher, "a", "b")
    second = await ask(batcher, "c", "d")
    work.proceed.set()

    assert await asyncio.gather(*first, *second) == ["a", "b", "c", "d"]
    assert work.batches == [["a", "b"], ["c", "d"]]


async def test_a_batch_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_ITEMS", 2)
    work = Work()
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    assert await asyncio.gather(*await ask(batcher, "a", "b", "c")) == ["a", "b", "c"]
    assert work.batches == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("sizes", "batches"), [([4, 4, 4], [["0", "1"], ["2"]]), ([20, 1], [["0"], ["1"]]), ([1, 20], [["0"], ["1"]])]
)
async def test_a_batch_weighs_no_more_than_it_may_but_for_a_single_item(
    sizes: list[int], batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MOST_BYTES", 10)
    work = Work()
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    await asyncio.gather(*(batcher.submit(str(index), size=size) for index, size in enumerate(sizes)))

    assert work.batches == batches


@pytest.mark.parametrize("said", [ALONE, IN_DOUBT])
async def test_an_item_that_fails_fails_by_itself(said: Alone) -> None:
    work = Work(lambda item: said if item == "bad" else item)
    batcher = Batcher(work.together, work.one)
    work.proceed.set()
    work.proceed_alone.set()

    results = await asyncio.gather(*await ask(batcher, "a", "bad", "b"), return_exceptions=True)

    assert [results[0], results[2]] == ["a", "b"]
    assert isinstance(results[1], ValueError)
    assert work.said == [said]


async def test_what_nobody_expected_reaches_everybody_in_the_batch_and_nobody_after_it() -> None:
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


async def test_nothing_of_a_key_overtakes_what_is_done_alone() -> None:
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


async def test_who_gives_up_before_the_batch_leaves_is_not_in_it() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    [first] = await ask(batcher, "a")
    [given_up, stayed] = await ask(batcher, "b", "c")
    given_up.cancel()
    await turns()
    work.proceed.set()

    assert await asyncio.gather(first, stayed) == ["a", "c"]
    assert work.batches == [["a"], ["c"]]


async def test_who_gives_up_later_is_known_to_the_batch_and_costs_the_others_nothing() -> None:
    work = Work()
    batcher = Batcher(work.together, work.one)

    [given_up, stayed] = await ask(batcher, "a", "b")
    given_up.cancel()
    await turns()
    known = [work.is_abandoned(0), work.is_abandoned(1)]
    work.proceed.set()

    assert await stayed == "b"
    assert known == [True, False]


async def test_who_gives_up_what_is_done_alone_lets_the_next_one_of_the_key_begin() -> None:
    work = Work(lambda item: ALONE if item == "slow" else item)
    batcher = Batcher(work.together, work.one)
    work.proceed.set()

    [slow] = await ask(batcher, "slow", key="thread")
    [later] = await ask(batcher, "later", key="thread")
    slow.cancel()

    assert await later == "later"


async def test_closing_refuses_what_waits_and_what_is_under_way() -> None:
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


async def test_flushed_waits_for_everything() -> None:
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
async def test_a_crowd_travels_in_two_halves_and_a_few_together(crowd: int, batches: list[int]) -> None:
    work = Work()
    batcher = Batcher(work.together, work.one, in_halves=True)

    tasks = await ask(batcher, *map(str, range(crowd)))
    under_way = [len(batch) for batch in work.batches]
    work.proceed.set()
    await asyncio.gather(*tasks)

    assert under_way == batches
    assert sorted(chain.from_iterable(work.batches), key=int) == [str(item) for item in range(crowd)]
