"""Threads of the kinds that workloads want, and one look at whether a contender does with them what it should."""

from __future__ import annotations

import random
from functools import partial

from benchmarks.contender import Contender, MissingContenderError, Samples
from benchmarks.plan import Plan
from benchmarks.samples import make_threads
from benchmarks.stores import Store, each
from benchmarks.workload import SMALL


async def prepare_threads(contender: Contender, samples: Samples, plan: Plan) -> Store:
    """Furnish the threads, and verify each workload on one of its own.

    Raises:
        MissingContenderError: what a workload wrote or returned is not what it should be.
    """
    cells = plan.cells_of(contender)
    rng = random.Random(f"{plan.seed} {plan.workloads[0].key} {contender.name}")  # a store may have others
    store = Store(contender, {})
    tasks = max(cell.concurrency for cell in cells)
    for kind in sorted({cell.workload.threads for cell in cells}):
        threads = store.threads[kind, SMALL] = make_threads(rng, contender.needs(kind, tasks))
        await each(partial(contender.furnish, kind=kind, samples=samples), threads)
    for workload in {cell.workload.key: cell.workload for cell in cells}.values():
        [thread] = make_threads(rng, 1)
        await contender.furnish(thread, workload.threads, samples)
        operation = workload.make(contender, samples, SMALL)
        if not await contender.verify(operation, workload.key, thread, samples):
            raise MissingContenderError(f"{contender.name}: {workload.key} does not give back what was written")
    return store
