"""What a run found, for people as a table and for programs as a line of JSON."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from torture.checker import Finding
from torture.history import NEVER, SECOND, Call, History, Span
from torture.limits import longest_calls, silences
from torture.run import Result
from torture.staleness import SWEEP_BOUND, Troubles

WRITES = (
    "create", "delete", "append", "append_many", "put", "unit", "edit", "remove", "tool", "save",
    "step", "writes",
)  # fmt: skip
FORBIDDEN = (
    "lost", "duplicated", "reordered", "moved", "torn", "overwritten", "version went back", "denied but stored",
    "wrong state", "wrong tool result", "wrong message", "stale message", "wrong page", "wrong conversation",
    "stale page", "undead", "raised from the dead", "wrong checkpoint", "stale checkpoint",
    "wrong answer", "cross-owner", "stale beyond bound", "too long",
    "delayed by Redis", "error",
)  # fmt: skip
SHOWN_OF_EACH = 2


def summary(result: Result) -> dict[str, Any]:
    """All figures of a run."""
    history, found = result.history, Counter(finding.kind for finding in result.findings)
    ended = [call for call in history.calls if call.outcome != "unknown"]
    return {
        "seed": result.plan.seed,
        "versions": {"Python": platform.python_version(), **result.versions, **_packages()},
        "seconds": round(result.seconds, 1),
        "clients": result.plan.clients,
        "operations": len(ended) + history.bad_inputs["tried"],
        "operations_per_second": round((len(ended) + history.bad_inputs["tried"]) / result.seconds),
        "faults": result.injected,
        "writes_acknowledged": sum(call.acknowledged and call.kind in WRITES for call in history.calls),
        **{kind.replace(" ", "_").replace("-", "_"): found[kind] for kind in FORBIDDEN if kind != "error"},
        "hits": history.hits,
        "state_reads": result.staleness.reads,
        "state_reads_held_to_bound_0": result.staleness.reads_without_redis_fault,
        "stale_after_acknowledgement": len(result.staleness.stale),
        "oldest_stale_seconds": round(max((read.age_seconds for read in result.staleness.stale), default=0.0), 3),
        "oldest_stale_seconds_since_redis_was_reachable": round(
            max((read.since_recovery_seconds for read in result.staleness.stale), default=0.0), 3
        ),
        "bound_seconds": {"without a Redis fault": 0, "with one": SWEEP_BOUND},
        "errors_to_callers": dict(Counter(one.text for one in result.findings if one.kind == "error")),
        "findings_by_fault": _by_fault(result),
        "state_read_ms": latencies(history),
        "longest_calls": _longest(history),
        "seen": {one.what: f"{one.count} (at least {one.least})" for one in result.seen},
        "bad_inputs": history.bad_inputs,
        "never_fired": result.never_fired,
        "skipped": result.skipped,
        "too_little": result.too_little,
    }


def show(result: Result) -> None:
    """Print the table, the evidence, and the line of JSON."""
    figures = summary(result)
    console = Console(width=120)
    table = Table("", "", title=f"Torture, seed {figures['seed']}", show_header=False, title_justify="left")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), _cell(value))
    console.print(table)
    for kind, findings in groupby(sorted(result.findings, key=_sorting), key=_sorting):
        for finding in list(findings)[:SHOWN_OF_EACH]:
            print(f"\n{kind[0]}: {finding.text}")
            for evidence in (*finding.calls, *([finding.event] if finding.event else [])):
                print(f"    {json.dumps(asdict(evidence) if isinstance(evidence, Call) else evidence)}")
    if result.failed:
        print(f"\nThe histories are in {result.folder}")
    print(json.dumps(figures))


def _longest(history: History) -> dict[str, dict[str, str]]:
    """Seconds of the longest call by kind of fault and of call, and the documented bound."""
    return {
        fault: {kind: f"{one.seconds:.1f} of {one.bound:g}" for kind, one in sorted(groups.items())}
        for fault, groups in sorted(longest_calls(history).items())
    }


def latencies(history: History) -> dict[str, dict[str, float]]:
    """How long ``states.get`` took while Redis hung, while nothing was wrong, and the difference."""
    hung = Troubles(fault for fault in history.faults if fault.kind == "redis hung")
    wrong = Troubles([*history.faults, *history.unreachable])
    reads = [call for call in history.calls if call.kind == "get" and call.acknowledged]
    silent = silences(history)  # what a silence of the database leaves behind is not Redis's
    with_database = [call for call in reads if not silent.overlap(call.invoked, call.returned)]
    during = _percentiles([call for call in with_database if hung.overlap(call.invoked, call.returned)])
    calm = _percentiles([call for call in reads if not wrong.overlap(call.invoked - SECOND // 2, call.returned)])
    added = {name: round(during[name] - calm[name], 1) for name in during if name in calm}
    return {"no fault": calm, "Redis hung": during, "added": added}


def _percentiles(calls: list[Call]) -> dict[str, float]:
    if len(calls) < 2:
        return {}
    taken = [(call.returned - call.invoked) / 1e6 for call in calls]
    cuts = quantiles(taken, n=100, method="inclusive")
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(max(taken), 1)}


def _by_fault(result: Result) -> dict[str, dict[str, int]]:
    """What was found during which fault, or within half a second of its end."""
    counts: dict[str, Counter[str]] = {}
    for finding in result.findings:
        what = finding.text if finding.kind == "error" else finding.kind
        counts.setdefault(_fault_at(_moment(finding), result.history.faults), Counter())[what] += 1
    return {kind: dict(found) for kind, found in sorted(counts.items())}


def _moment(finding: Finding) -> int:
    """When a finding came about: the end of the first call that shows it, or its beginning where it has none."""
    if finding.calls:
        call = finding.calls[0]
        return call.invoked if call.returned == NEVER else call.returned
    return int(finding.event["t"]) if finding.event else 0


def _fault_at(moment: int, faults: list[Span]) -> str:
    near = [fault for fault in faults if fault.start <= moment <= fault.end + SECOND // 2]
    return near[-1].kind if near else "none"


def _sorting(finding: Finding) -> tuple[str, str]:
    return finding.kind, finding.text if finding.kind == "error" else ""


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {inner}" for name, inner in value.items()) or "-"
    return ", ".join(value) or "-" if isinstance(value, list) else str(value)


def _packages() -> dict[str, str]:
    return {name: version(name) for name in ("agent-persistence", "sqlalchemy", "redis")}
