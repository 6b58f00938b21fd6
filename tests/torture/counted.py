"""The metrics of the clients, against what was called and what was done to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from agent_persistence.telemetry.metrics import Metrics
from torture.history import SECOND, Call, Counts, History
from torture.order import Broken

# Not among them: reads and saves of states, ``append_many`` and ``run``, which other calls use as well.
OPERATIONS = {
    "create": "threads.create",
    "delete": "threads.delete",
    "append": "messages.append",
    "repeat": "messages.append",
    "conflict": "messages.append",
    "foreign_append": "messages.append",
    "edit": "messages.update",
    "remove": "messages.delete",
    "tool": "tool_results.record",
    "prune": "states.prune",
    "unit": "begin",
}
"""What a recorded call is measured as."""
# Bad inputs are sent beside the recorded calls, and may meet an outage.
UNRECORDED = ("InvalidInputError", "UnavailableError", "CommitUnknownError", "StatementTimeoutError")
RETRIED = "postgresql restart -m immediate"
OPENED = "redis kill -9"


def counts_of(metrics: list[Metrics]) -> dict[str, int]:
    """What the stores of a process have counted so far, for each of its samples."""
    settled = sum(sum(one.commits_settled.values()) for one in metrics)
    openings = sum(one.cache.openings for one in metrics if one.cache is not None)
    return {"retries": sum(sum(one.retries.values()) for one in metrics), "settled": settled, "openings": openings}


def operations_of(metrics: list[Metrics]) -> list[tuple[str, str, int]]:
    """How many operations its stores have measured in the end, by name and error."""
    total: Counter[tuple[str, str]] = Counter()
    for one in metrics:
        total.update({(key.operation, key.error_type): found.count for key, found in one.operations.items()})
    return [(*key, count) for key, count in total.items()]


def find_miscounts(history: History) -> Iterator[Broken]:
    """Operations, retries, settled commits and openings that were counted wrongly."""
    for process, measured in history.measured.items():
        yield from _operations(process, measured, history)
    yield from _settled(history)
    for fault, what in ((RETRIED, "retries"), (OPENED, "openings")):
        yield from _uncounted_faults(history, fault, what)


def _operations(process: str, measured: Counter[tuple[str, str]], history: History) -> Iterator[Broken]:
    calls: dict[tuple[str, str], list[Call]] = {}
    for call in history.calls:
        key = _measured_as(call)
        if key is not None and call.id.partition("#")[0] == process:
            calls.setdefault(key, []).append(call)
    names = {*OPERATIONS.values()}
    for key in {*calls, *((name, error) for name, error in measured if name in names and error not in UNRECORDED)}:
        made = calls.get(key, [])
        # A call that its caller cancelled is measured as that, or not at all if it had not begun.
        if key[1] != "CancelledError" and len(made) != measured[key]:
            text = f"{process} made {len(made)} calls of {' '.join(key).rstrip()}, and measured {measured[key]}"
            yield Broken(f"miscounted {key[0]}", text, tuple(made[:1]))


def _measured_as(call: Call) -> tuple[str, str] | None:
    name = None if call.arguments.get("form") == "run" else OPERATIONS.get(call.kind)
    if name is None or call.outcome not in ("ok", "error"):
        return None
    error = "" if call.outcome == "ok" else call.result["error"]
    return None if error in UNRECORDED else (name, "_OTHER" if error == "RolledBackError" else error)


def _settled(history: History) -> Iterator[Broken]:
    """Each reply to COMMIT that was swallowed has been asked for."""
    settled = sum(samples[-1][1]["settled"] for samples in history.counts.values())
    # What a process did after its last sample died with it.
    if settled < history.commits_lost - len(history.killed):
        yield Broken("miscounted commits", f"{history.commits_lost} replies to COMMIT were lost, and {settled} settled")


def _uncounted_faults(history: History, fault: str, what: str) -> Iterator[Broken]:
    """A fault that no process has counted, although all of them were busy."""
    for span in history.faults:
        if span.kind != fault or not history.counts:
            continue
        grown = [_growth(samples, span.start, span.end + SECOND, what) for samples in history.counts.values()]
        if not any(grown):
            yield Broken(f"miscounted {what}", f"no {what} were counted during {fault}")


def _growth(samples: list[tuple[int, Counts]], start: int, end: int, what: str) -> int:
    during = [counts[what] for at, counts in samples if start - SECOND <= at <= end]
    return during[-1] - during[0] if during else 0
