"""A whole run, from the start of the servers to the report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

from benchmarks.contender import Contender, MissingContenderError, Samples
from benchmarks.contenders import load
from benchmarks.environment import describe
from benchmarks.families import EVERYDAY_FAMILIES, FAMILIES, STORE_FAMILY, Family
from benchmarks.frameworks.stored import Stored, measure_stored
from benchmarks.growth import Growth, measure_growth
from benchmarks.importing import Import, measure_import
from benchmarks.plan import Plan
from benchmarks.pooling import Pooling, measure_pooling
from benchmarks.report import Report, Summaries
from benchmarks.run import Run
from benchmarks.samples import make_samples
from benchmarks.servers import Servers, running_servers
from benchmarks.streaming import Streaming, measure_streaming
from benchmarks.summary import summarise
from benchmarks.workload import SMALL

Say = Callable[[str], None]
_ROUNDS_UNDER_UVLOOP = 3


class Session:
    """Measures what a plan names.

    Args:
        command: how to run it again.
        say: is told how far it is.
    """

    def __init__(self, plan: Plan, command: str, say: Say) -> None:
        self._plan = plan
        self._stores = replace(plan, workloads=STORE_FAMILY.workloads)
        self._command = command
        self._say = say
        self._absent: list[str] = []
        self._titles: dict[str, str] = {}

    def run(self) -> Report:
        """Start servers, measure, stop them."""
        samples = make_samples(self._plan.seed, list(dict.fromkeys([*self._plan.sizes, SMALL])))
        with running_servers() as servers:
            self._say("the servers answer")
            summaries: Summaries = {}
            for family in FAMILIES:
                if replace(self._plan, workloads=family.workloads).cells():
                    summaries |= self._slices(family, servers, samples)
            if self._plan.uvloop and self._stores.cells():
                summaries |= self._slices_under_uvloop(servers, samples)
            growth = asyncio.run(self._growth(servers)) if self._plan.wants("w6") else {}
            imported = asyncio.run(self._import(servers)) if self._plan.wants("w7") else None
            streamed = asyncio.run(self._streaming(servers)) if self._plan.wants("w8") else None
            pooled = asyncio.run(self._pooling(servers)) if self._plan.wants("w9") else {}
            stored = asyncio.run(self._stored(servers, samples)) if self._plan.wants("w14-stored") else []
            machine = asyncio.run(describe(servers.addresses))
        found = (summaries, growth, imported, streamed, pooled, stored)
        return Report(self._command, machine, self._titles, self._absent, *found)

    def _slices(self, family: Family, servers: Servers, samples: Samples) -> Summaries:
        plan = replace(self._plan, workloads=family.workloads)
        contenders = self._load(family, plan)
        results = asyncio.run(self._run(plan, family, servers, samples).measure(contenders))
        self._note(contenders)
        return summarise(results, [one.name for one in contenders if not one.counted])

    def _slices_under_uvloop(self, servers: Servers, samples: Samples) -> Summaries:
        """Measure the floor and this package again, and give them other names."""
        if find_spec("uvloop") is None:
            self._leave_out("uvloop: not installed")
            return {}
        import uvloop  # noqa: PLC0415  # optional

        self._say("again, under uvloop")
        rounds = min(self._plan.rounds, _ROUNDS_UNDER_UVLOOP)
        seed = self._plan.seed + 1  # other threads
        again = replace(self._stores, seed=seed, sizes=(SMALL,), rounds=rounds)
        contenders = [one for one in self._load(STORE_FAMILY, again) if not one.own_database]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(self._run(again, STORE_FAMILY, servers, samples).measure(contenders))
        summaries = summarise(results, [one.name for one in contenders])
        return {(cell, f"{name} (uvloop)"): summary for (cell, name), summary in summaries.items()}

    def _run(self, plan: Plan, family: Family, servers: Servers, samples: Samples) -> Run:
        return Run(plan, servers, samples, family.prepare, self._say, self._leave_out)

    async def _growth(self, servers: Servers) -> dict[str, Growth]:
        found = {}
        for contender in self._load(STORE_FAMILY, self._stores):
            usual = contender.is_main() or contender.name == "langgraph"
            if contender.grows and contender.offers("save_state") and (usual or not self._plan.quick):
                self._say(f"growth: {contender.name}")
                try:
                    found[contender.name] = await measure_growth(
                        contender, servers, self._plan.growth_steps, self._plan.seed
                    )
                except Exception as error:  # noqa: BLE001  # another library's, which then has no row
                    self._leave_out(f"{contender.name} in w6: {type(error).__name__}: {error}")
        return found

    async def _import(self, servers: Servers) -> Import:
        self._say(f"import of {self._plan.import_messages:,} messages")
        return await measure_import(servers, self._plan.import_messages, self._plan.seed)

    async def _streaming(self, servers: Servers) -> Streaming:
        self._say(f"a state of {self._plan.stream_megabytes} MB")
        return await measure_streaming(servers, self._plan.stream_megabytes, self._plan.seed)

    async def _pooling(self, servers: Servers) -> dict[str, Pooling]:
        self._say("many callers on a small pool")
        return await measure_pooling(servers)

    async def _stored(self, servers: Servers, samples: Samples) -> list[Stored]:
        found = []
        for workloads, family in EVERYDAY_FAMILIES.items():
            for contender in self._load(family, replace(self._plan, workloads=family.workloads)):
                self._say(f"stored: {workloads} {contender.name}")
                found.append(await measure_stored(contender, workloads, servers, samples))
        return found

    def _load(self, family: Family, plan: Plan) -> list[Contender]:
        made = []
        for name, place in family.contenders.items():
            try:
                if plan.takes(name):
                    made.append(load(name, place))
            except MissingContenderError as missing:
                self._leave_out(str(missing))
        return made

    def _note(self, contenders: Sequence[Contender]) -> None:
        self._titles |= {one.name: one.title for one in contenders}

    def _leave_out(self, reason: str) -> None:
        if reason not in self._absent:
            self._absent.append(reason)
            self._say(f"absent: {reason}")
