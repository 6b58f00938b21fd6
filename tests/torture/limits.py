"""How long calls took under each fault, beside the longest that the documents allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent_persistence import PersistenceSettings
from torture.history import SECOND, Call, History, Span
from torture.staleness import Troubles

LIMITS = PersistenceSettings(
    _env_file=None, database_url="postgresql://nobody@nowhere/none", retry_deadline=6.0, statement_timeout=2.0
)  # type: ignore[call-arg]  # mypy does not know the arguments of pydantic-settings
"""Short ones, so that a fault can outlast them."""
CALL_SECONDS = LIMITS.call_seconds
SLACK_SECONDS = 1.5
"""What a loaded machine adds to any wait."""
REDIS_SECONDS = 2 * LIMITS.cache_budget_ms / 1000
HOLE_SECONDS = CALL_SECONDS + SLACK_SECONDS + 1.0

BLACK_HOLE = "postgresql black hole"
REQUESTS_LOST = "postgresql requests lost"
REPLIES_LOST = "postgresql replies lost"
COMMITS_SWALLOWED = "postgresql COMMIT replies swallowed"
DISK_FULL = "postgresql disk full"
CLOCK = "postgresql clock jumps"
HOLES = (BLACK_HOLE, REQUESTS_LOST, REPLIES_LOST, COMMITS_SWALLOWED)
"""Faults under which a database does not answer, and no connection ends."""
UNIT_STATEMENTS = 6
"""BEGIN, four writes and COMMIT."""
NONE = "none"
GROUPS = {
    **dict.fromkeys(("save", "recall", "settle"), "degraded mode"),
    **dict.fromkeys(("resume", "step", "writes"), "LangGraph"),
    **dict.fromkeys(("say", "hear", "foreign_rows"), "run"),
}


@dataclass(slots=True)
class Longest:
    """The longest call under one kind of fault."""

    seconds: float = 0.0
    bound: float = 0.0
    calls: int = 0


def silences(history: History) -> Troubles:
    """When the database may not have answered: a connection that fell silent is met by later calls too."""
    spans = [fault for fault in history.faults if fault.kind in HOLES]
    return Troubles(Span(one.start, one.end + round(CALL_SECONDS * SECOND)) for one in spans)


def is_too_long(history: History) -> Iterator[tuple[Call, float, float]]:
    """The calls beyond their bounds, with their seconds and these bounds."""
    bounds = Bounds(history)
    for call in history.calls:
        bound = bounds.of(call)
        if call.outcome != "unknown" and bound is not None and _seconds(call, history) > bound + SLACK_SECONDS:
            yield call, _seconds(call, history), bound


def longest_calls(history: History) -> dict[str, dict[str, Longest]]:
    """The longest call by kind of fault and of call."""
    bounds, found = Bounds(history), dict[str, dict[str, Longest]]()
    faults = sorted(history.faults, key=lambda fault: fault.start)
    for call in history.calls:
        bound = bounds.of(call)
        if call.outcome == "unknown" or bound is None:
            continue
        kinds = {one.kind for one in faults if one.start <= call.returned and call.invoked <= one.end} or {NONE}
        for kind in kinds:
            of_kind = found.setdefault(kind, {}).setdefault(_group(call), Longest())
            of_kind.calls += 1
            of_kind.bound = max(of_kind.bound, bound)
            of_kind.seconds = max(of_kind.seconds, _seconds(call, history))
    return found


class Bounds:
    """The longest that each call may take."""

    def __init__(self, history: History) -> None:
        # What a fault leaves behind is cleared away at once; after a silence, within the time of a call.
        after = {kind: round(CALL_SECONDS * SECOND) for kind in HOLES}
        self._troubles = Troubles(
            Span(one.start, one.end + after.get(one.kind, SECOND // 4))
            for one in history.faults
            if not one.kind.startswith("redis")
        )

    def of(self, call: Call) -> float | None:
        match _group(call):
            case "begin":
                return LIMITS.connect_timeout + UNIT_STATEMENTS * LIMITS.reply_seconds
            case "run":
                return LIMITS.retry_deadline + LIMITS.connect_timeout + UNIT_STATEMENTS * LIMITS.reply_seconds
            case "stream":
                return 4 * CALL_SECONDS
            case "get" | "load" if not self._troubles.overlap(call.invoked, call.returned):
                return REDIS_SECONDS
            case "purge":
                return None
        return CALL_SECONDS


def _group(call: Call) -> str:
    if call.kind == "unit":
        return "run" if call.arguments["form"] == "run" else "begin"
    if call.kind == "put" and call.tokens[0].endswith("~stream"):
        return "stream"
    return call.kind if call.kind in ("get", "load", "stream", "purge") else GROUPS.get(call.kind, "one call")


def _seconds(call: Call, history: History) -> float:
    """How long a call took, without the time in which its process had no turn."""
    stalls = history.stalls.get(call.id.partition("#")[0], ())
    stalled = sum(max(0, min(one.end, call.returned) - max(one.start, call.invoked)) for one in stalls)
    return (call.returned - call.invoked - stalled) / SECOND
