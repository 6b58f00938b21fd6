"""Ill-treat real servers under load, and show that nothing acknowledged is lost, doubled, out of order or stale.

PYTHONPATH=tests python -m torture --duration 60 --seed 7
PYTHONPATH=tests python -m torture --self-test
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any

from torture.checker import Finding
from torture.faults import FAULTS
from torture.planted import PLANTS
from torture.report import show
from torture.run import Plan, discard, keep_tables, run

SELF_TEST_SECONDS, TURN_SECONDS = 12.0, 6.0
TURNS = 3


def main() -> int:
    options = _options()
    if options.self_test:
        return asyncio.run(_interruptible(_self_test(options)))
    plants = (options.plant,) if options.plant else ()
    plan = Plan(options.duration, options.seed, options.clients, _faults(options.faults), plants)
    return asyncio.run(_interruptible(_run_and_show(plan)))


async def _interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Stop the servers when the run is told to end."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


async def _run_and_show(plan: Plan) -> int:
    result = await run(plan)
    show(result)
    if not result.failed:
        discard(result)
        return 0
    keep_tables(result)
    return 1


async def _self_test(options: argparse.Namespace) -> int:
    """Plant all defects: the checker has to find every one in the calls of the client that has it."""
    missed = [*PLANTS]
    for turn in range(TURNS):  # perhaps no call came, or no fault struck, in the state in which a defect does harm
        alone = [name for name in missed if not PLANTS[name].fault]
        brought_out = [name for name in missed if PLANTS[name].fault]
        missed = await _plant(alone, options.seed + turn, SELF_TEST_SECONDS)
        missed += await _plant(brought_out, options.seed + turn, TURN_SECONDS)
    print(f"not found: {', '.join(missed)}" if missed else "every planted defect was found")
    return 1 if missed else 0


async def _plant(names: list[str], seed: int, seconds: float) -> list[str]:
    """Run once with these defects, and return those that were not found."""
    if not names:
        return []
    here = {name: PLANTS[name] for name in names}
    needs_fault = any(one.fault for one in here.values())
    # Those that none of them needs as well: a process has its role by its place.
    groups = sorted({client for one in PLANTS.values() if bool(one.fault) == needs_fault for client in one.clients})
    plants = tuple(",".join(name for name, one in here.items() if group in one.clients) for group in groups)
    faults = [one.fault for one in here.values() if one.fault]
    result = await run(Plan(seconds, seed, len(groups), faults, plants))
    print(f"{result.seconds:.1f} s, {len(result.findings)} findings")
    missed = []
    for name, one in here.items():
        clients = [f"client{groups.index(client) + 1}#" for client in one.clients]
        found = [each for each in result.findings if each.kind == one.finding and _is_of(clients, each)]
        print(f"{name:<21}{one.finding}: {len(found)}", found[0].text if found else "NOT FOUND", sep="\n    ")
        missed += [] if found else [name]
    discard(result)
    return missed


def _is_of(clients: list[str], finding: Finding) -> bool:
    return any(call.id.startswith(client) for call in finding.calls for client in clients)


def _faults(text: str) -> list[str]:
    if text in ("all", "none"):
        return list(FAULTS) if text == "all" else []
    wanted = [kind for kind in FAULTS if any(part in kind for part in text.split(","))]
    if not wanted:
        sys.exit(f"no kind of fault is like {text!r}; there are: {', '.join(FAULTS)}")
    return wanted


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torture", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--duration", type=float, default=60, help="seconds; every kind of fault has its turn anyway")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="decides faults and calls, not their timing")
    parser.add_argument("--clients", type=int, default=3, help="client processes")
    parser.add_argument("--faults", default="all", help="all, none, or parts of names: hung,READONLY")
    parser.add_argument("--plant", default="", choices=["", *PLANTS], help="a defect, to see it found")
    parser.add_argument("--self-test", action="store_true", help="see every planted defect found")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
