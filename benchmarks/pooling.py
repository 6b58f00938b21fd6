"""w9: what many callers at once take of the pool: connections, checkouts, and time to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from sqlalchemy import event

from benchmarks.contender import POOL_SIZE, Thread
from benchmarks.ours import Ours
from benchmarks.servers import Servers

CALLERS = 256
_EACH = 20
_THREADS = 64
_MESSAGE = {"role": "user", "content": "Where is my order?"}

Call = Callable[[Thread], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Pooling:
    """What one operation took, asked for by 256 callers at once, each of them 20 times.

    Attributes:
        rate: operations a second.
        checkouts: of the pool, for each operation.
        most_out: the most connections that were in use at any moment.
        p50, p99: milliseconds from the call to its end, waiting included.
        alone: milliseconds that it takes a caller who is alone, the median.
    """

    rate: float
    checkouts: float
    most_out: int
    p50: float
    p99: float
    alone: float


class _Counted:
    """Counts what an engine's pool gives out."""

    def __init__(self, engine: Any) -> None:
        self.checkouts = self.out = self.most_out = 0
        event.listen(engine.sync_engine, "checkout", self._taken)
        event.listen(engine.sync_engine, "checkin", self._returned)

    def reset(self) -> None:
        self.checkouts, self.most_out = 0, self.out

    def _taken(self, *_: Any) -> None:
        self.checkouts += 1
        self.out += 1
        self.most_out = max(self.most_out, self.out)

    def _returned(self, *_: Any) -> None:
        self.out -= 1


async def measure_pooling(servers: Servers) -> dict[str, Pooling]:
    """Measure four operations on a pool of 16."""
    ours = Ours()
    await ours.open(await servers.database("pooled", migrated=True))
    try:
        threads = [Thread(f"pooled-{number}", f"user-{number}") for number in range(_THREADS)]
        for thread in threads:
            await ours.create_thread(thread)
            await ours.save_state(thread, {"step": 1})
        counted = _Counted(ours.plain.engine)
        return {name: await _measure(call, threads, counted) for name, call in _operations(ours).items()}
    finally:
        await ours.close()


def _operations(ours: Ours) -> dict[str, Call]:
    async def unit_of_work(thread: Thread) -> None:
        async with ours.plain.begin(user_id=thread.user) as uow:
            await uow.messages.append(thread.id, _MESSAGE)
            await uow.states.put(thread.id, {"step": 2})

    return {
        "read the latest state": ours.read_state,
        "save a state": lambda thread: ours.save_state(thread, {"step": 2}),
        "append a message": lambda thread: ours.append_message(thread, _MESSAGE),
        "a unit of work of two writes": unit_of_work,
    }


async def _measure(call: Call, threads: list[Thread], counted: _Counted) -> Pooling:
    alone = [await _timed(call, threads[place % _THREADS]) for place in range(_EACH)]
    counted.reset()
    started = time.perf_counter()
    times = await asyncio.gather(*[_often(call, threads[caller % _THREADS]) for caller in range(CALLERS)])
    seconds = time.perf_counter() - started
    cuts = quantiles([one for each in times for one in each], n=100)
    count = CALLERS * _EACH
    return Pooling(
        count / seconds, counted.checkouts / count, counted.most_out, cuts[49], cuts[98], quantiles(alone, n=2)[0]
    )


async def _often(call: Call, thread: Thread) -> list[float]:
    return [await _timed(call, thread) for _ in range(_EACH)]


async def _timed(call: Call, thread: Thread) -> float:
    started = time.perf_counter()
    await call(thread)
    return (time.perf_counter() - started) * 1000


TITLE = f"w9: {CALLERS} callers at once on a pool of {POOL_SIZE}"
