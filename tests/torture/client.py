"""A client process: some workers that do what the workload says, until standard input ends.

Its arguments are its name, the folder of the histories, the seed, its role and the planted defects, if any; the rest is
in ``PERSISTENCE_*``. Orders come on standard input: ``cancel 0.2`` has a fifth of the calls cancelled from then on, and
``clock 3600`` puts its clock an hour ahead.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from agent_persistence import Persistence, PersistenceSettings
from torture.adapters import Adapters
from torture.calls import Caller
from torture.clocks import Clock
from torture.counted import counts_of, operations_of
from torture.graphs import Graphs
from torture.history import Recorder
from torture.hostile import Hostile
from torture.names import resolve_names
from torture.outages import Outages
from torture.planted import PLANTS
from torture.roles import DEGRADED
from torture.workload import UNCACHED, Store, Workload

WORKERS = 8
SEARCHERS = 2
GRAPH_WORKERS = 2
ADAPTER_PAUSE_SECONDS = 0.04
OUTAGE_WORKERS = 1
UNCACHED_WORKERS = 2
PAUSE_SECONDS = 0.03
SEARCH_PAUSE_SECONDS = 0.007
ODD_PAUSE_SECONDS = 0.1
GRAPH_PAUSE_SECONDS = 0.08
OUTAGE_PAUSE_SECONDS = 0.25  # slower than a loaded database writes them, or an outage would not end
SAMPLE_SECONDS = 0.1


class Client:
    """The workers of one process."""

    def __init__(self, store: Store, uncached: Store, caller: Caller, random: Random, outages: Outages | None) -> None:
        self._store = store
        self._stores = [store, uncached, *([outages.store] if outages else [])]
        self._recorder = caller.recorder
        self._random = random
        self._caller = caller
        self._outages = outages
        self._workload = Workload(store, caller, random)
        self._uncached = Workload(uncached, caller, random, UNCACHED)
        self._graphs = Graphs(store, caller, random)
        self._adapters = Adapters(store, caller, random)
        self._hostile = Hostile(store, caller.recorder, random)
        self._clock = Clock()
        self._ending = False

    async def run(self) -> None:
        sampler = asyncio.create_task(self._go_on_sampling())
        async with asyncio.TaskGroup() as workers:
            for _ in range(OUTAGE_WORKERS if self._outages else 0):
                assert self._outages is not None
                workers.create_task(self._repeat(self._outages.step, OUTAGE_PAUSE_SECONDS))
            for _ in range(WORKERS):
                workers.create_task(self._repeat(self._workload.step, PAUSE_SECONDS))
            for _ in range(UNCACHED_WORKERS):
                workers.create_task(self._repeat(self._uncached.step_uncached, PAUSE_SECONDS))
            for _ in range(SEARCHERS):
                workers.create_task(self._repeat(self._hostile.search, SEARCH_PAUSE_SECONDS))
            for _ in range(GRAPH_WORKERS):
                workers.create_task(self._repeat(self._graphs.step, GRAPH_PAUSE_SECONDS))
            # One: a COMMIT that waits for the standby holds its thread, and the others wait in turn.
            workers.create_task(self._repeat(self._adapters.step, ADAPTER_PAUSE_SECONDS))
            workers.create_task(self._repeat(self._hostile.argument, ODD_PAUSE_SECONDS))
            workers.create_task(self._repeat(self._hostile.cursor, ODD_PAUSE_SECONDS))
            await self._obey()
            self._ending = True
        sampler.cancel()
        self._sample()
        if self._store.settings.metrics:
            self._recorder.write("measured", operations=operations_of([one.metrics() for one in self._stores]))

    async def _repeat(self, act: Callable[[], Awaitable[None]], pause_seconds: float) -> None:
        while not self._ending:
            await act()
            await asyncio.sleep(self._random.uniform(0, 2 * pause_seconds))

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self._clock.install()
        while order := await reader.readline():
            match order.split():
                case b"cancel", share:
                    self._caller.cancels = float(share)
                case b"clock", seconds:
                    self._clock.error = int(seconds)

    async def _go_on_sampling(self) -> None:
        while True:
            self._sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def _sample(self) -> None:
        cache = self._store.cache
        counts = {"hits": 0, "unavailable": 0} if cache is None else cache.counts.as_dict()
        counted = counts_of([one.metrics() for one in self._stores])
        self._recorder.write("sample", cache=counts, bad_inputs=self._hostile.counts, counts=counted)


async def main(client: str, folder: str, seed: str, role: str, plants: str = "") -> None:
    random, recorder = Random(seed), Recorder(Path(folder), client)
    recorder.write("role", role=role)
    resolve_names()
    caller = Caller(recorder, random)
    async with Persistence[str, str].from_env() as store, AsyncExitStack() as ending:
        for name in filter(None, plants.split(",")):
            PLANTS[name].plant(store, random)
        outages = await ending.enter_async_context(Outages.open(caller, random)) if role == DEGRADED else None
        uncached = await ending.enter_async_context(Persistence[str, str](_without_cache(store.settings)))
        print("ready", flush=True)
        await Client(store, uncached, caller, random, outages).run()


def _without_cache(settings: PersistenceSettings) -> PersistenceSettings:
    return settings.model_copy(update={"redis_url": None, "pool_size": 3})


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(*sys.argv[1:]))
