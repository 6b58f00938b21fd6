"""One slice of a run: so many tasks do one thing for so long."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks.contender import Cost, Operation, Thread
from benchmarks.servers import Servers
from benchmarks.writes import Writes

GetCost = Callable[[], Awaitable[Cost]]


@dataclass(frozen=True, slots=True)
class Slice:
    """What was measured.

    Attributes:
        latencies: seconds of each operation.
        client_cpu, server_cpu: seconds of processor time, of the process that works and of the servers.
        writes: to the servers' sockets.
    """

    seconds: float
    client_cpu: float
    server_cpu: float
    writes: Writes
    latencies: list[float] = field(repr=False)

    @property
    def rate(self) -> float:
        """Operations a second."""
        return len(self.latencies) / self.seconds


async def run_slice(
    operation: Operation,
    threads: Sequence[Thread],
    *,
    concurrency: int,
    seconds: float,
    servers: Servers,
    cost: GetCost,
) -> Slice:
    """Let tasks run an operation, each on threads of its own as far as there are enough.

    Each does it once at least, and none stops in the middle: the time ends when the last one is done.
    """
    shares = [threads[place::concurrency] or [threads[place % len(threads)]] for place in range(concurrency)]
    gc.collect()
    server_cpu, before, started = servers.cpu_seconds(), await cost(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_work(operation, share, started + seconds)) for share in shares]
    ended, after = time.perf_counter(), await cost()
    return Slice(
        seconds=ended - started,
        client_cpu=after.client_cpu - before.client_cpu,
        server_cpu=servers.cpu_seconds() - server_cpu,
        writes=after.writes.since(before.writes),
        latencies=[latency for task in tasks for latency in task.result()],
    )


async def _work(operation: Operation, threads: Sequence[Thread], deadline: float) -> list[float]:
    latencies: list[float] = []
    clock = time.perf_counter
    for thread in cycle(threads):
        started = clock()
        await operation(thread)
        ended = clock()
        latencies.append(ended - started)
        if ended >= deadline:
            break
    return latencies
