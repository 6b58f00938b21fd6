"""How much a run saw of each guarantee: a run that saw too little proves nothing, and fails.

The least numbers are a small part of what a run of 30 s sees on two loaded cores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from torture.history import Call, History
from torture.limits import BLACK_HOLE
from torture.order import APPENDS
from torture.outages import accepted
from torture.roles import POOLED, SECURED
from torture.servers import PgBouncer
from torture.staleness import Staleness, Troubles
from torture.workload import UNCACHED


@dataclass(frozen=True, slots=True)
class Seen:
    """One kind of observation, and the least number of it."""

    what: str
    count: int
    least: int

    @property
    def is_too_little(self) -> bool:
        return self.count < self.least


def observations(history: History, staleness: Staleness) -> list[Seen]:
    """What was seen of the guarantees in README's table, in its order."""
    done = [call for call in history.calls if call.acknowledged]
    redis = Troubles(fault for fault in history.faults if fault.kind.startswith("redis"))
    database = Troubles(fault for fault in history.faults if fault.kind.startswith("postgresql"))
    hole = Troubles(fault for fault in history.faults if fault.kind == BLACK_HOLE)
    pages = [call for call in done if call.kind == "page"]
    return [
        Seen("cache hits", history.hits, 100),
        Seen("reads held to a bound of 0", staleness.reads_without_redis_fault, 50),
        Seen("reads held to the period of the sweep", staleness.reads - staleness.reads_without_redis_fault, 100),
        Seen("states read during a fault of Redis", _during(redis, [one for one in done if one.kind == "get"]), 50),
        Seen("replies to COMMIT lost", history.commits_lost, 2),
        Seen("calls that were measured", sum(map(Counter.total, history.measured.values())), 200),
        Seen("calls answered during a fault of the database", _during(database, done), 100),
        Seen("calls that met the black hole", _during(hole, history.calls), 10),
        Seen("messages appended", sum(len(call.seqs) for call in done if call.kind in APPENDS), 500),
        Seen("appends after one that had been acknowledged", _appends_in_turn(done), 100),
        Seen("pages with several messages", sum(len(page.seqs) > 1 for page in pages), 50),
        Seen("messages appended by COPY", sum(len(one.seqs) for one in done if one.arguments.get("copied")), 200),
        Seen("messages changed or deleted", _count(done, "edit") + _count(done, "remove"), 20),
        Seen("appends repeated with the same id", _count(done, "repeat"), 10),
        Seen("appends refused for other content", _refused(history, "IdempotencyConflictError"), 2),
        Seen("states saved over an expected version", sum(_is_over(call) for call in done), 10),
        Seen("states refused for another version", _refused(history, "StateConflictError"), 3),
        Seen("units of work with several writes", _count(done, "unit"), 15),
        Seen("units of work rolled back", _refused(history, "RolledBackError"), 3),
        Seen("states read and compared", sum(call.kind == "get" and bool(call.versions) for call in done), 200),
        Seen("states saved without a cache", sum(_is_uncached(call) for call in done), 20),
        Seen("states of 8 KB and more read", sum(_is_large(call) for call in done), 20),
        Seen("streams read", sum(call.result["read"] for call in done if call.kind == "stream"), 2),
        Seen("states pruned", sum(call.result["count"] for call in done if call.kind in ("prune", "purge")), 5),
        Seen("results of tool calls recorded", _count(done, "tool"), 10),
        Seen("states saved by a checkpointer", sum(bool(one.arguments.get("checkpointer")) for one in done), 15),
        Seen("states loaded by a checkpointer", _count(done, "load"), 15),
        Seen("checkpoints of graphs saved", _count(done, "step"), 50),
        Seen("checkpoints of graphs read after others", sum(bool(one.result.get("log")) for one in done), 50),
        Seen("messages said through frameworks", sum(len(one.tokens) for one in done if one.kind == "say"), 50),
        Seen("conversations heard that two frameworks held", _heard_from_others(done), 20),
        Seen("states saved in degraded mode while the database was there", _durable(done), 10),
        Seen("states accepted while it was away", len(accepted(history)), 4),
        Seen("of these, found to be saved", sum(one.kind == "settle" and bool(one.versions) for one in done), 2),
        Seen("statements without an owner under row-level security", _count(done, "foreign_rows"), 5),
        Seen("calls under row-level security", _in_role(history, done, SECURED), 200),
        *([Seen("calls through PgBouncer", _in_role(history, done, POOLED), 200)] if PgBouncer.program else []),
        Seen("reads and writes of strangers", sum(call.kind.startswith("foreign") for call in history.calls), 50),
    ]


def _during(troubles: Troubles, calls: list[Call]) -> int:
    return sum(troubles.overlap(call.invoked, call.returned) for call in calls)


def _heard_from_others(calls: list[Call]) -> int:
    said = {token: call.arguments["framework"] for call in calls if call.kind == "say" for token in call.tokens}
    heard = [{said.get(token, "") for token in call.result["heard"]} for call in calls if call.kind == "hear"]
    return sum(len(frameworks - {""}) > 1 for frameworks in heard)


def _count(calls: list[Call], kind: str) -> int:
    return sum(call.kind == kind for call in calls)


def _durable(calls: list[Call]) -> int:
    return sum(call.kind == "save" and bool(call.versions) for call in calls)


def _in_role(history: History, calls: list[Call], role: str) -> int:
    return sum(history.roles.get(call.id.partition("#")[0]) == role for call in calls)


def _refused(history: History, error: str) -> int:
    return sum(call.outcome == "error" and call.result["error"] == error for call in history.calls)


def _is_over(call: Call) -> bool:
    return call.kind == "put" and call.arguments.get("expected") is not None


def _is_uncached(call: Call) -> bool:
    return call.kind == "put" and call.thread in UNCACHED and bool(call.versions)


def _is_large(call: Call) -> bool:
    return call.kind == "get" and any("~3" in token for token in call.versions)


def _appends_in_turn(calls: list[Call]) -> int:
    threads: dict[str, list[Call]] = {}
    for call in calls:
        if call.kind in APPENDS:
            threads.setdefault(call.thread, []).append(call)
    return sum(first.returned < second.invoked for each in threads.values() for first, second in pairwise(each))
