"""A run: rounds, in each of which every contender does every workload once, floor and contenders side by side."""

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.contender import Contender, MissingContenderError, Samples
from benchmarks.measure import Slice, run_slice
from benchmarks.plan import Cell, Plan
from benchmarks.servers import Servers
from benchmarks.stores import Store

Results = dict[tuple[Cell, str], list[Slice]]
Say = Callable[[str], None]
Prepare = Callable[[Contender, Samples, Plan], Awaitable[Store]]
_WARM_UP_SECONDS = 0.03
_LONGEST = 200
_WARM_UP_TASKS = 32  # a quick run warms up with no more


@dataclass(frozen=True, slots=True)
class Run:
    """Measures every cell of a plan in every round.

    Attributes:
        prepare: fills an open contender, and sees that it gives back what it was given.
        say: is told how far it is.
        leave_out: is told who cannot take part, and why.
    """

    plan: Plan
    servers: Servers
    samples: Samples
    prepare: Prepare
    say: Say
    leave_out: Say

    async def measure(self, contenders: Sequence[Contender]) -> Results:
        """Open the contenders, measure them, close them."""
        results: Results = {}
        async with AsyncExitStack() as closing:
            stores = await self._open(contenders, closing)
            await self.servers.settle()
            self.say("every contender is ready")
            gc.freeze()  # what is here by now stays: the collector need not look at it before every slice
            rng = random.Random(self.plan.seed)
            await self._warm_up(stores)
            for number in range(self.plan.rounds):
                self.say(f"round {number + 1} of {self.plan.rounds}")
                for cell, store in self._order(stores, rng):
                    if measured := await self._try(cell, store, self.plan.seconds):
                        results.setdefault((cell, store.contender.name), []).append(measured)
        return {key: slices for key, slices in results.items() if len(slices) == self.plan.rounds}

    async def _open(self, contenders: Sequence[Contender], closing: AsyncExitStack) -> list[Store]:
        stores = []
        for contender in filter(self.plan.cells_of, contenders):
            try:
                stores.append(await self._store(contender, closing))
            except MissingContenderError as missing:
                self.leave_out(str(missing))
            except Exception as error:  # what another library raises; a run without it is better than none
                if not (contender.own_database or contender.may_fail):
                    raise
                self.leave_out(f"{contender.name}: {type(error).__name__}: {error}")
        return stores

    async def _store(self, contender: Contender, closing: AsyncExitStack) -> Store:
        plan, servers = self.plan, self.servers
        database = f"{plan.workloads[0].key}_{contender.name}".replace("-", "_")
        await contender.open(await servers.database(database) if contender.own_database else servers.addresses)
        closing.push_async_callback(contender.close)
        return await self.prepare(contender, self.samples, plan)

    async def _warm_up(self, stores: Sequence[Store]) -> None:
        """Open every connection and prepare every statement before anything counts."""
        tasks = {cell.concurrency for cell in self.plan.cells()}
        usual = max([one for one in tasks if one <= _WARM_UP_TASKS], default=min(tasks))
        wanted = {usual} if self.plan.quick else {usual, max(tasks)}
        for cell, store in self._order(stores, random.Random(self.plan.seed)):
            if cell.concurrency in wanted:
                await self._try(cell, store, _WARM_UP_SECONDS)

    def _order(self, stores: Sequence[Store], rng: random.Random) -> list[tuple[Cell, Store]]:
        """Cells in any order; within a cell the stores that have it, in any order."""
        cells = self.plan.cells()
        rng.shuffle(cells)
        pairs = []
        for cell in cells:
            able = [store for store in stores if cell in self.plan.cells_of(store.contender)]
            pairs += [(cell, store) for store in rng.sample(able, len(able))]
        return pairs

    async def _try(self, cell: Cell, store: Store, seconds: float) -> Slice | None:
        """Measure a slice, or say why another store has none."""
        try:
            return await self._slice(cell, store, seconds)
        except Exception as error:  # of another library; a run without it is better than none
            if not (store.contender.own_database or store.contender.may_fail):
                raise
            cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            said = " ".join(f"{type(cause).__name__}: {cause}".split())[:_LONGEST]
            self.leave_out(f"{store.contender.name} in {cell.workload.key}, {cell.concurrency} tasks: {said}")
            return None

    async def _slice(self, cell: Cell, store: Store, seconds: float) -> Slice:
        operation = cell.workload.make(store.contender, self.samples, cell.size)
        threads = store.threads[cell.workload.threads, cell.size]
        await store.contender.before_slice(cell.workload.method, threads)
        return await run_slice(
            operation,
            threads,
            concurrency=cell.concurrency,
            seconds=seconds,
            servers=self.servers,
            cost=store.contender.cost,
        )
