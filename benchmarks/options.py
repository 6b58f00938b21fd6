"""What the command line says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.samples import SIZES
from benchmarks.workload import SMALL
from benchmarks.workloads import WORKLOADS

_RESULTS = Path(__file__).parent / "results"
_SLICES = "; ".join(f"{workload.key}: {workload.title}" for workload in WORKLOADS)
_EPILOG = f"Workloads: {_SLICES}; w6: growth of bytes and time; w7: import; w8: a state of 100 MB; w9: a small pool."


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where results go; ``None`` is nowhere."""

    json: Path
    markdown: Path | None
    plots: Path | None


def read_options(arguments: Sequence[str]) -> tuple[Plan, Outputs]:
    """Read the command line."""
    options = _parser().parse_args(arguments)
    quick = options.quick
    plan = Plan(
        quick=quick,
        only=options.only,
        contenders=options.contenders,
        concurrencies=tuple(map(int, options.concurrency)),
        seed=options.seed,
        rounds=options.rounds or (3 if quick else 5),
        seconds=options.seconds or (0.04 if quick else 0.3),
        threads=520 if quick else 1000,
        sizes=options.sizes or ((SMALL,) if quick else tuple(SIZES)),
        growth_steps=options.growth_steps or (60 if quick else 500),
        import_messages=options.import_messages or (2_000 if quick else 1_000_000),
        stream_megabytes=options.stream_megabytes or (10 if quick else 100),
        uvloop=options.uvloop if options.uvloop is not None else not (quick or options.only),
    )
    wants_plots = options.plots if options.plots is not None else not options.only
    return plan, Outputs(options.json, options.markdown, options.plots_to if wants_plots else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this package beside hand-written asyncpg and redis-py, and beside other stores.",
        epilog=_EPILOG,
    )
    choice = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--quick", action="store_true", help="short slices, three rounds, 4 KB states: some minutes")
    add("--only", type=_words, default=(), metavar="w1,w2a", help="these workloads; w10 is all of w10-...")
    add("--contenders", type=_words, default=(), metavar="ours,adk", help="these, beside the floor")
    add(
        "--concurrency",
        type=_words,
        default=(),
        metavar="N,N",
        help="numbers of tasks; else each workload's own",
    )
    add("--sizes", type=_words, default=(), metavar="SIZE,SIZE", help=f"of states: {','.join(SIZES)}")
    add("--seed", type=int, default=1, help="decides contents and order")
    add("--rounds", type=int, help="how often each is measured")
    add("--seconds", type=float, help="how long a slice is")
    add("--growth-steps", type=int, metavar="N", help="of w6; 500 by default, 60 if quick")
    add("--import-messages", type=int, metavar="N", help="of w7; 1,000,000 by default, 2,000 if quick")
    add("--stream-megabytes", type=int, metavar="N", help="of w8; 100 by default, 10 if quick")
    add("--uvloop", action=choice, help="measure again under uvloop; by default in a whole run that is not quick")
    add("--json", type=Path, default=_RESULTS / "latest.json", metavar="FILE", help="all figures")
    add("--markdown", type=Path, metavar="FILE", help="the tables")
    add("--plots", action=choice, help="draw them; by default in a whole run")
    add("--plots-to", type=Path, default=_RESULTS, metavar="FOLDER", help="where to")
    return parser


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))
