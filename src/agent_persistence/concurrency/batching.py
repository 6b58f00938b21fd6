"""Doing together what several callers ask for at once."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, Generic, TypeVar

from agent_persistence.errors import ClosedError
from agent_persistence.frozen import frozen

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Alone(Enum):
    """In place of a result: this item is to be done by itself."""

    ALONE = "nothing was done"
    IN_DOUBT = "perhaps it was done, and nobody was told"


_LEAST_HALF: Final = 8
ALONE: Final = Alone.ALONE
IN_DOUBT: Final = Alone.IN_DOUBT


@dataclass(slots=True, eq=False)
class _Entry(Generic[ItemT, ResultT]):
    item: ItemT
    key: Hashable
    weight: int
    future: asyncio.Future[ResultT]


@frozen
class Batch(Generic[ItemT]):
    """Items to be done together.

    Attributes:
        given_up: whether the caller of an item no longer waits for it: then it is not to be begun anew.
    """

    items: list[ItemT]
    given_up: Callable[[int], bool]

    def wanted(self) -> list[int]:
        """The places of the items that somebody waits for."""
        return [place for place in range(len(self.items)) if not self.given_up(place)]

    def chosen(self, places: list[int]) -> list[ItemT]:
        """The items in these places."""
        return [self.items[place] for place in places]


class Batcher(Generic[ItemT, ResultT]):
    """While one batch is under way the next one gathers, so nobody waits for company, and a crowd shares round trips.

    An item that a batch cannot do is done by itself, and fails by itself. Items of one key begin in the order in which
    they came. An item whose caller gives up before its batch leaves is never begun; after that it goes on to its end.

    Args:
        together: does a batch; returns a result, an exception or ``Alone`` for each item, in their order.
        alone: does one item, and is told what ``together`` said of it; ``None`` where that never says ``Alone``.
        most: items a batch.
        most_weight: what they may weigh together; a heavier one travels by itself.
        at_once: so many batches are under way at a time, of different keys; all but the first one full.
        in_halves: let a crowd travel in two halves, so that one is at the server while this process has the other one.
            That pays where a batch costs both of them about the same.
    """

    def __init__(
        self,
        together: Callable[[Batch[ItemT]], Awaitable[Sequence[ResultT | Exception | Alone]]],
        alone: Callable[[ItemT, Alone], Awaitable[ResultT]] | None = None,
        *,
        most: int = 64,
        most_weight: int = 1 << 20,
        at_once: int = 3,
        in_halves: bool = False,
    ) -> None:
        self._together = together
        self._alone = alone
        self._most = most
        self._most_weight = most_weight
        self._at_once = at_once
        self._in_halves = in_halves
        self._flights = 0
        self._aboard = 0
        self._waiting: deque[_Entry[ItemT, ResultT]] = deque()
        self._held: set[Hashable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_crowded = True
        self._is_closed = False

    async def do(self, item: ItemT, *, key: Hashable = None, weight: int = 0) -> ResultT:
        """Have an item done.

        Args:
            key: what the item changes; ``None`` where order does not matter.
            weight: its size in bytes.

        Raises:
            ClosedError: the batcher was closed.
        """
        if self._is_closed:
            raise ClosedError
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(item, key, weight, future))
        self._depart()
        return await future

    async def aclose(self) -> None:
        """Drop what waits, and cancel what is under way."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in self._waiting:
            _settle(entry, ClosedError())
        self._waiting.clear()

    async def drained(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _depart(self) -> None:
        is_due = self._flights == 0 or len(self._waiting) >= self._share()
        if self._waiting and is_due and self._flights < self._at_once and not self._is_closed:
            self._flights += 1
            # Where there was a crowd, the first one waits for the others of this turn of the event loop.
            self._start(self._fly(), at_once=not self._is_crowded)

    def _share(self) -> int:
        """How many travel together, at most."""
        if not self._in_halves:
            return self._most
        return min(self._most, max(_LEAST_HALF, (self._aboard + len(self._waiting) + 1) // 2))

    async def _fly(self) -> None:
        """Do batch after batch; whoever came in the same turn of the event loop is in the first."""
        try:
            while batch := self._board():
                self._land(batch, await self._results(batch))
                if self._waiting:
                    await asyncio.sleep(0)  # who has just landed may go again, and goes along
        finally:
            self._flights -= 1

    def _board(self) -> list[_Entry[ItemT, ResultT]]:
        """Take the first of those who wait, as many as fit, but for those behind one of their key."""
        batch: list[_Entry[ItemT, ResultT]] = []
        left: list[_Entry[ItemT, ResultT]] = []
        weight = 0
        most = self._share()
        while self._waiting and len(batch) < most:
            entry = self._waiting.popleft()
            if entry.future.done():
                continue
            if entry.key in self._held:
                left.append(entry)
                continue
            weight += entry.weight
            if batch and weight > self._most_weight:
                left.append(entry)
                break
            batch.append(entry)
        self._waiting.extendleft(reversed(left))
        self._aboard += len(batch)
        self._held.update(entry.key for entry in batch if entry.key is not None)
        self._is_crowded = len(batch) > 1 if batch else self._is_crowded
        if self._waiting and batch:
            self._depart()
        return batch

    async def _results(self, batch: list[_Entry[ItemT, ResultT]]) -> Sequence[ResultT | Exception | Alone]:
        try:
            return await self._together(Batch([entry.item for entry in batch], partial(_has_given_up, batch)))
        except asyncio.CancelledError:
            for entry in batch:
                _settle(entry, ClosedError())
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, everybody hears of it
            return [error] * len(batch)

    def _land(self, batch: list[_Entry[ItemT, ResultT]], results: Sequence[ResultT | Exception | Alone]) -> None:
        self._aboard -= len(batch)
        by_themselves: dict[Hashable, list[tuple[_Entry[ItemT, ResultT], Alone]]] = {}
        alone = self._alone
        for entry, result in zip(batch, results, strict=True):
            if isinstance(result, Alone) and alone is not None:
                key = object() if entry.key is None else entry.key
                by_themselves.setdefault(key, []).append((entry, result))
            else:
                _settle(entry, result)
        self._held.difference_update(entry.key for entry in batch if entry.key not in by_themselves)
        if alone is not None:
            for key, entries in by_themselves.items():
                self._held.add(key)
                self._start(self._do_alone(alone, key, entries))

    async def _do_alone(
        self,
        alone: Callable[[ItemT, Alone], Awaitable[ResultT]],
        key: Hashable,
        entries: list[tuple[_Entry[ItemT, ResultT], Alone]],
    ) -> None:
        try:
            for entry, said in entries:
                if not entry.future.done():
                    await self._by_itself(alone(entry.item, said), entry)
        finally:
            self._held.discard(key)
            self._depart()

    async def _by_itself(self, alone: Awaitable[ResultT], entry: _Entry[ItemT, ResultT]) -> None:
        work = asyncio.ensure_future(alone)
        entry.future.add_done_callback(lambda _: work.cancel())  # its caller has given up
        try:
            _settle(entry, await work)
        except asyncio.CancelledError:
            if not entry.future.done():
                _settle(entry, ClosedError())
                raise
        except Exception as error:  # noqa: BLE001 - its caller raises it
            _settle(entry, error)

    def _start(self, work: Coroutine[Any, Any, None], *, at_once: bool = False) -> None:
        loop = asyncio.get_running_loop()
        if at_once and sys.version_info >= (3, 12):  # a turn of the event loop less
            task = asyncio.Task(work, loop=loop, eager_start=True)
        else:
            task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _has_given_up(batch: list[_Entry[Any, Any]], place: int) -> bool:
    return batch[place].future.done()


def _settle(entry: _Entry[Any, ResultT], result: ResultT | Exception | Alone) -> None:
    if entry.future.done():
        return  # its caller has given up
    if isinstance(result, Exception):
        entry.future.set_exception(result)
    else:
        entry.future.set_result(result)  # type: ignore[arg-type]  # who says Alone has given `alone`
