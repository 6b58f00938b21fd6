"""Batching: concurrent calls that share one round trip."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, Generic, TypeVar

from agent_persistence.concurrency.time_limit import Refusals, call_made_at, count_from
from agent_persistence.errors import ClosedError, LockTimeoutError, PoolTimeoutError, UnavailableError
from agent_persistence.frozen import frozen
from agent_persistence.telemetry.operation import Operation, current_operation, worked_for, working_for
from agent_persistence.telemetry.telemetry import Telemetry

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

MOST_ITEMS: Final = 64
MOST_BYTES: Final = 1 << 20
"""How large a batch may be; a larger item runs in a batch without others."""
_MOST_BATCHES: Final = 3  # that run at the same time
_LEAST_HALF: Final = 8  # items; fewer are not worth a second round trip


class Alone(Enum):
    """In place of an item's result: run this item without others, or not yet."""

    ALONE = "not executed"
    IN_DOUBT = "may have been executed; the reply was lost"
    LATER = "not executed; to run in another batch, after the items of its key that came before"


ALONE: Final = Alone.ALONE
IN_DOUBT: Final = Alone.IN_DOUBT
LATER: Final = Alone.LATER


@dataclass(slots=True, eq=False)
class _Entry(Generic[ItemT, ResultT]):
    item: ItemT
    key: Hashable
    size: int
    joins: bool
    future: asyncio.Future[ResultT]
    made_at: float
    operation: Operation | None  # of its caller, where durations are measured


@frozen
class Batch(Generic[ItemT]):
    """Items that run together.

    Attributes:
        callers: those who wait for the items; one that was cancelled is done. No further attempt may start for it.
    """

    items: list[ItemT]
    callers: Sequence[asyncio.Future[Any]]

    def wanted(self) -> list[int]:
        """Return the indexes of the items whose callers still wait."""
        return [index for index, caller in enumerate(self.callers) if not caller.done()]

    def is_wanted(self) -> bool:
        """Whether any caller still waits."""
        return bool(self.wanted())


class Batcher(Generic[ItemT, ResultT]):
    """Batches concurrent calls: those that arrive while a batch runs form the next one. A lone call starts at once.

    An item that a batch cannot run is run alone, and fails alone. Items of one key start in the order in which they
    arrived. An item whose caller is cancelled before its batch starts is never run; later it runs to its end.

    Args:
        together: runs a batch; returns a result, an exception or ``Alone`` for each item, in their order.
        alone: runs one item, and is given the ``Alone`` that ``together`` returned for it; ``None`` where ``together``
            never returns one.
        retry_seconds: how long after its call an item may run again in another batch, if its batch was not executed.
            A batch gives up at the limit of its oldest call; the younger ones must not fail with it.
        call_seconds: how long after its call an item may wait for a batch; ``None`` if batches end soon by themselves.
        turns: how many turns of the event loop a batch waits for those that were answered by the one before: they may
            have more to submit. With more than one, a lone call waits for the other calls of its turn as well.
        one_at_a_time: run one batch at a time, and a call that meets no other one in its caller's own task, which saves
            a task and a turn of the event loop. If that caller is cancelled, so is its batch: it must be cheap to lose.
        in_halves: let a crowd run as two half batches, so that the server works on one while this process works on the
            other. That pays where a batch costs both about the same: at 32 callers, a tenth more reads and a quarter
            more appends (docs/adr/0010).
        kind: the name of its calls in metrics.
        telemetry: counts the batches.
    """

    def __init__(
        self,
        together: Callable[[Batch[ItemT]], Awaitable[Sequence[ResultT | Exception | Alone]]],
        alone: Callable[[ItemT, Alone], Awaitable[ResultT]] | None = None,
        *,
        retry_seconds: float = 0.0,
        call_seconds: float | None = None,
        turns: int = 1,
        one_at_a_time: bool = False,
        in_halves: bool = False,
        kind: str = "other",
        telemetry: Telemetry | None = None,
    ) -> None:
        self._together = together
        self._alone = alone
        self._retry_seconds = retry_seconds
        self._call_seconds = call_seconds
        self._turns = turns
        self._one_at_a_time = one_at_a_time
        self._most_batches = 1 if one_at_a_time else _MOST_BATCHES
        self._in_halves = in_halves
        self._runners = 0
        self._in_flight = 0
        self._waiting: deque[_Entry[ItemT, ResultT]] = deque()
        self._busy_keys: set[Hashable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_crowded = True
        self._is_closed = False
        # Of all batches: an item that waits for one that is refused again and again is told why.
        self._refusals = Refusals()
        self._telemetry = telemetry or Telemetry()
        self._counts = self._telemetry.counts.batch(kind, self._waiting.__len__)

    async def submit(
        self,
        item: ItemT,
        *,
        key: Hashable = None,
        size: int = 0,
        joins: bool = True,
        operation: Operation | None = None,
    ) -> ResultT:
        """Run an item in the next batch, and return its result.

        Args:
            item: the item.
            key: the key of the object that the item changes; ``None`` if order does not matter.
            size: the item's size in bytes.
            joins: ``False`` runs the item alone, in its turn among the items of its key.
            operation: for which the item is submitted, if it is not the one of the current task.

        Raises:
            ClosedError: the batcher was closed.
            UnavailableError: no batch took the item within ``call_seconds``, because those before it got no reply.
        """
        if self._is_closed:
            raise ClosedError
        if self._one_at_a_time and not (self._is_crowded or self._runners or self._waiting):
            return await worked_for(operation, self._run_lone(item))
        # A future in place of a task: the batch runs in a task that all its callers share.
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        # Here, in the caller's context: the batch runs in one of its own.
        if operation is None and self._telemetry.timing is not None:
            operation = current_operation()
        entry = _Entry(item, key, size, joins, future, time.monotonic(), operation)
        if joins or not self._start_alone(entry, [*self._waiting]):
            self._waiting.append(entry)
            self._start_runner()
            if self._waiting:
                self._start_timer()
        return await future

    async def flush(self) -> None:
        """Wait until no item is waiting or running."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def aclose(self) -> None:
        """Cancel running batches, and fail waiting items with ``ClosedError``."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in self._waiting:
            _settle(entry, ClosedError())
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    async def _run_lone(self, item: ItemT) -> ResultT:
        """Run an item as a batch in the task of its caller; those that arrive meanwhile form the next batch."""
        self._runners += 1
        self._counts.size.add(1)
        try:
            [result] = await self._together(Batch([item], ()))
        finally:
            self._runners -= 1
            self._start_runner()
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[return-value]  # an Alone, as in _settle

    def _start_timer(self) -> None:
        """Look after the waiting items when the oldest of them has waited for as long as it may."""
        # One timer for all, which is seldom needed: most items are in a batch at once.
        if self._timer is None and self._call_seconds is not None and self._waiting:
            due = min(entry.made_at for entry in self._waiting) + self._call_seconds
            self._timer = asyncio.get_running_loop().call_later(due - time.monotonic(), self._give_up)

    def _give_up(self) -> None:
        """Fail the items that have waited for as long as they may: none of them was sent."""
        self._timer = None
        for entry in [*self._waiting]:
            if time.monotonic() >= entry.made_at + (self._call_seconds or 0.0):
                self._waiting.remove(entry)
                _settle(entry, self._refusals.at_the_limit())
        self._start_timer()

    def _start_runner(self) -> None:
        """Start a runner if none runs, or if the waiting items fill another batch."""
        is_due = self._runners == 0 or len(self._waiting) >= self._batch_limit()
        if self._waiting and is_due and self._runners < self._most_batches and not self._is_closed:
            self._runners += 1
            # After a crowd, the runner waits for the other calls of this turn of the event loop; a lone caller does not
            # pay for that turn, unless calls are expected to come together.
            self._start(self._run_batches(), eagerly=not self._is_crowded and self._turns == 1)

    def _batch_limit(self) -> int:
        if not self._in_halves:
            return MOST_ITEMS
        # Half of all callers, those in flight included: the second half then gathers while the first one runs.
        return min(MOST_ITEMS, max(_LEAST_HALF, (self._in_flight + len(self._waiting) + 1) // 2))

    async def _run_batches(self) -> None:
        """Run batch after batch until no item waits."""
        try:
            while self._waiting and (batch := self._take_batch()):
                self._settle_batch(batch, await self._results(batch))
                for _ in range(self._turns if self._waiting else 0):
                    await asyncio.sleep(0)  # callers that have just been answered may submit again: take them along
        finally:
            self._runners -= 1

    def _take_batch(self) -> list[_Entry[ItemT, ResultT]]:
        """Take the first waiting items that fit, except those whose key is busy; start those that run alone."""
        batch: list[_Entry[ItemT, ResultT]] = []
        held: set[Hashable] = set()  # keys of items that run alone after this batch: later items stay behind them
        left: list[_Entry[ItemT, ResultT]] = []
        size, most = 0, self._batch_limit()
        while self._waiting and len(batch) < most:
            entry = self._waiting.popleft()
            if entry.future.done():
                continue  # cancelled before its batch started, so it must never run
            if entry.key in self._busy_keys or entry.key in held:
                left.append(entry)
                continue
            if not entry.joins:
                if not self._start_alone(entry, batch):
                    held.add(entry.key)
                    left.append(entry)
                continue
            size += entry.size
            if batch and size > MOST_BYTES:
                left.append(entry)
                break
            batch.append(entry)
        self._waiting.extendleft(reversed(left))  # to the front, so that items of one key keep their order
        self._in_flight += len(batch)
        self._busy_keys.update([entry.key for entry in batch if entry.key is not None])
        if batch:
            self._is_crowded = len(batch) > 1
            self._counts.size.add(len(batch))
        if self._waiting and batch:
            self._start_runner()
        return batch

    def _start_alone(self, entry: _Entry[ItemT, ResultT], earlier: list[_Entry[ItemT, ResultT]]) -> bool:
        """Start an item that joins no batch, unless one of its key runs or comes first; return whether it started."""
        is_next = entry.key not in self._busy_keys and all(entry.key != other.key for other in earlier)
        if is_next and self._alone is not None:
            self._busy_keys.add(entry.key)
            self._counts.ran_alone("unshareable")
            self._start(self._run_alone(self._alone, entry.key, [(entry, ALONE)]))
        return is_next

    async def _results(self, batch: list[_Entry[ItemT, ResultT]]) -> Sequence[ResultT | Exception | Alone]:
        shared: Operation | None = None
        try:
            made_at = [entry.made_at for entry in batch]
            count_from(min(made_at), self._refusals)
            if (timing := self._telemetry.timing) is not None:
                shared = timing.start_batch(self._counts, [entry.operation for entry in batch], made_at)
            results = await self._together(Batch([entry.item for entry in batch], [entry.future for entry in batch]))
        except asyncio.CancelledError:
            for entry in batch:
                _settle(entry, ClosedError())
            raise
        except Exception as error:  # noqa: BLE001 - each caller of the batch raises it
            return [error] * len(batch)
        finally:
            if shared is not None:
                # Cancelled timers keep the context of the batch for a while, and it would keep all calls and arguments.
                shared.callers = ()
        self._refusals.forget()
        return results

    def _settle_batch(
        self, batch: list[_Entry[ItemT, ResultT]], results: Sequence[ResultT | Exception | Alone]
    ) -> None:
        """Answer the callers of a batch; start items that are to run alone, those of one key one after the other."""
        self._in_flight -= len(batch)
        again: list[_Entry[ItemT, ResultT]] = []
        alone_by_key: dict[Hashable, list[tuple[_Entry[ItemT, ResultT], Alone]]] = {}
        alone = self._alone
        for entry, result in zip(batch, results, strict=True):
            if result is LATER or (isinstance(result, UnavailableError) and self._may_run_again(entry, result)):
                again.append(entry)
            elif isinstance(result, Alone) and alone is not None:
                # Without a key, a new object: these items wait for no other one.
                key = object() if entry.key is None else entry.key
                alone_by_key.setdefault(key, []).append((entry, result))
                self._counts.ran_alone("in_doubt" if result is IN_DOUBT else "refused")
            else:
                _settle(entry, result)
        self._waiting.extendleft(reversed(again))
        if self._waiting:
            self._start_timer()
        self._busy_keys.difference_update([entry.key for entry in batch if entry.key not in alone_by_key])
        if alone is not None:
            for key, entries in alone_by_key.items():
                self._busy_keys.add(key)  # until they have run: later items of the key must not overtake them
                self._start(self._run_alone(alone, key, entries))

    def _may_run_again(self, entry: _Entry[ItemT, ResultT], error: UnavailableError) -> bool:
        # A pool timeout is final: the caller has waited long enough for a connection.
        return not isinstance(error, PoolTimeoutError) and time.monotonic() < entry.made_at + self._retry_seconds

    async def _run_alone(
        self,
        alone: Callable[[ItemT, Alone], Awaitable[ResultT]],
        key: Hashable,
        entries: list[tuple[_Entry[ItemT, ResultT], Alone]],
    ) -> None:
        try:
            for entry, reason in entries:
                if not entry.future.done():
                    await self._run_one(alone, reason, entry)
                # The others of this key have waited for the same lock as long, and would now wait for it in turn.
                if entry.future.done() and isinstance(failure := _failure(entry), LockTimeoutError):
                    for other, _ in entries:
                        _settle(other, failure)
        finally:
            self._busy_keys.discard(key)
            self._start_runner()

    async def _run_one(
        self, alone: Callable[[ItemT, Alone], Awaitable[ResultT]], reason: Alone, entry: _Entry[ItemT, ResultT]
    ) -> None:
        with call_made_at(entry.made_at), working_for(entry.operation):
            work = asyncio.ensure_future(alone(entry.item, reason))
        entry.future.add_done_callback(partial(_cancel, work))  # done before the work is: its caller was cancelled
        try:
            _settle(entry, await work)
        except asyncio.CancelledError:
            if not entry.future.done():
                _settle(entry, ClosedError())
                raise
        except Exception as error:  # noqa: BLE001 - its caller raises it
            _settle(entry, error)

    def _start(self, work: Coroutine[Any, Any, None], *, eagerly: bool = False) -> None:
        # In a context of its own: the task runs other callers' items as well. In that of the caller that starts it,
        # the limits of that call would hold for all, and the spans of all would be below its span.
        loop, context = asyncio.get_running_loop(), Context()
        if eagerly and sys.version_info >= (3, 12):  # saves a turn of the event loop
            task = asyncio.Task(work, loop=loop, context=context, eager_start=True)
        else:
            task = loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _failure(entry: _Entry[Any, Any]) -> BaseException | None:
    return None if entry.future.cancelled() else entry.future.exception()


def _cancel(work: asyncio.Future[Any], _future: asyncio.Future[Any]) -> None:
    work.cancel()


def _settle(entry: _Entry[Any, ResultT], result: ResultT | Exception | Alone) -> None:
    if entry.future.done():
        return  # its caller was cancelled
    if isinstance(result, Exception):
        entry.future.set_exception(result)
    else:
        entry.future.set_result(result)  # type: ignore[arg-type]  # an Alone gets here only without `alone`
