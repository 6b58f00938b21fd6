"""Stale reads: a state older than one that somebody had been told of before the read began."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torture.history import NEVER, SECOND, Call, History, Span

DELETED = 1 << 62
"""The version of a thread that was deleted: newer than all others."""
WRITES = ("put", "unit")
READS = ("get", "load")
SWEEP_BOUND = 1.2
"""Seconds: the sweep period of the outbox, and a fifth for the sweep itself; counted from when both can be reached."""
LONGEST_SWEEP = 6.0
"""Seconds that a sweep takes at most which began while PostgreSQL did not answer: the time limit of a client's call."""
CUT_SHORT = "redis file cut short"
REDIS_CLOCK = "redis clock jumps"
TTL_BOUND = 330.0
"""Seconds: how long a value lives at most; for writes before a fault in which Redis lost what it had acknowledged."""


@dataclass(frozen=True, slots=True)
class StaleRead:
    """A read, and the call that had told of something newer.

    Attributes:
        age_seconds: how long before the read that call had ended.
        since_recovery_seconds: the same, but not counting before the end of the last Redis fault in between.
    """

    read: Call
    newer: Call
    age_seconds: float
    since_recovery_seconds: float
    bound_seconds: float

    @property
    def is_beyond_bound(self) -> bool:
        return self.since_recovery_seconds > self.bound_seconds


@dataclass(frozen=True, slots=True)
class Staleness:
    """All stale reads, and how many reads were held to the bound of 0."""

    stale: list[StaleRead]
    reads: int
    reads_without_redis_fault: int

    @property
    def beyond_bound(self) -> list[StaleRead]:
        return [read for read in self.stale if read.is_beyond_bound]


def find_stale_reads(history: History) -> Staleness:
    """Look at every read of a latest state. The bound is 0 unless Redis was in trouble at the write or since."""
    faults = [fault for fault in history.faults if fault.kind.startswith("redis")]
    troubles = Troubles([*faults, *history.unreachable])
    outages = [fault for fault in history.faults if fault.kind.startswith("postgresql")]
    puts = {token: call for call in history.calls if call.kind in WRITES for token in call.tokens}
    stale: list[StaleRead] = []
    reads = calm = 0
    for calls in _by_thread(history.calls).values():
        known = Knowledge(calls)
        for read in calls:
            if read.kind not in READS or not read.acknowledged:
                continue
            reads += 1
            calm += not troubles.overlap(read.invoked, read.returned)
            newer = known.newer_than(known.version(read), read.invoked)
            if newer is not None:
                stale.append(
                    _judge(read, newer, puts.get(newer.result.get("token") or "", newer), faults, outages, troubles)
                )
    return Staleness(stale, reads, calm)


class Troubles:
    """Stretches of time, merged, so that an overlap is found by bisection."""

    def __init__(self, spans: Iterable[Span]) -> None:
        merged: list[list[int]] = []
        for span in sorted(spans, key=lambda span: span.start):
            if merged and span.start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], span.end)
            else:
                merged.append([span.start, span.end])
        self._spans = merged

    def overlap(self, start: int, end: int) -> bool:
        following = bisect_left(self._spans, start, key=lambda span: span[1])
        return following < len(self._spans) and self._spans[following][0] <= end


class Knowledge:
    """What callers had been told of one thread, and when: greater and greater versions."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._deletion = min((call.invoked for call in calls if call.kind == "delete"), default=NEVER)
        self._steps: list[tuple[int, int, Call]] = []
        told = [call for call in calls if call.acknowledged and call.kind in (*WRITES, *READS, "delete")]
        for call in sorted(told, key=lambda call: call.returned):
            version = self.version(call)
            if not self._steps or version > self._steps[-1][1]:
                self._steps.append((call.returned, version, call))

    def version(self, call: Call) -> int:
        """The version that a call told of; nothing, after a deletion may have begun, means the deletion."""
        if call.kind == "delete":
            return DELETED
        version: int = call.result["version"] if call.kind in READS else max(call.versions.values(), default=0)
        return DELETED if version == 0 and self._deletion < call.returned else version

    def newer_than(self, version: int, moment: int) -> Call | None:
        """The first call that had told of a newer version before that moment."""
        step = bisect_right(self._steps, version, key=lambda step: step[1])
        if step < len(self._steps) and self._steps[step][0] < moment:
            return self._steps[step][2]
        return None


def _judge(
    read: Call, newer: Call, written: Call, faults: list[Span], outages: list[Span], troubles: Troubles
) -> StaleRead:
    bound = SWEEP_BOUND if troubles.overlap(written.invoked, read.returned) else 0.0
    met = [one for one in outages if one.start < read.returned and one.end > written.invoked] if bound else []
    if met:
        bound += LONGEST_SWEEP
    ends = [one.end for one in (*faults, *met) if one.start < read.invoked and one.end > newer.returned]
    since = min(max(ends, default=newer.returned), read.invoked)
    if any(fault.kind == CUT_SHORT and written.invoked < fault.end and fault.start < read.returned for fault in faults):
        bound = TTL_BOUND
    return StaleRead(read, newer, (read.invoked - newer.returned) / SECOND, (read.invoked - since) / SECOND, bound)


def _by_thread(calls: Iterable[Call]) -> dict[str, list[Call]]:
    threads: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.kind in (*WRITES, *READS, "delete"):
            threads[call.thread].append(call)
    return threads
