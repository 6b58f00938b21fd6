"""Counters that are always on: each costs an addition to an attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agent_persistence.telemetry.histogram import AGES, ITEMS, SECONDS, Histogram, Histograms
from agent_persistence.telemetry.names import BATCH_SIZE, OUTBOX_AGE, QUEUE_WAIT

_IN_HEALTH: Final = ("hits", "misses", "fills", "unreadable", "unavailable")


@dataclass(slots=True, kw_only=True)
class CacheCounts:
    """Counters of cache calls, by outcome.

    Attributes:
        hits: look-ups that were answered by the cache.
        misses: look-ups that were not, whatever the reason.
        absent: misses because the cache held nothing.
        busy: misses because another reader fills the key, or a writer has quarantined it.
        unreadable: misses because the value was damaged, or of another program.
        unanswered: misses because Redis did not answer, or was not asked.
        bypassed: reads that did not ask the cache: ``fresh=True``, or in a transaction that changed the state.
        fills: values stored by readers.
        publishes: values stored by writers.
        unacknowledged: writes whose invalidation went to the outbox, because Redis did not confirm it.
        unavailable: calls of Redis without an answer, those of look-ups included.
        refused: calls that were not made, because the circuit breaker was open.
        openings: how often the circuit breaker opened.
        is_open: whether it is open.
        swept: invalidations of the outbox that were delivered.
        outbox_age: how long these had waited, in seconds.
        stale: stale states that the last audit found; ``None`` before the first one.
    """

    outbox_age: Histogram
    hits: int = 0
    misses: int = 0
    absent: int = 0
    busy: int = 0
    unreadable: int = 0
    unanswered: int = 0
    bypassed: int = 0
    fills: int = 0
    publishes: int = 0
    unacknowledged: int = 0
    unavailable: int = 0
    refused: int = 0
    openings: int = 0
    is_open: bool = False
    swept: int = 0
    stale: int | None = None

    def as_dict(self) -> dict[str, int]:
        """Return the counters of ``Health.cache_counts`` by name."""
        return {name: getattr(self, name) for name in _IN_HEALTH}


@dataclass(slots=True)
class BatchCounts:
    """The batches of one kind of call.

    Attributes:
        size: how many calls a batch had.
        wait: how long a call waited for its batch, in seconds; only with durations.
        waiting: each returns how many calls wait for a batch of one batcher.
        alone: calls that ran without others, by reason.
    """

    size: Histogram
    wait: Histogram
    waiting: list[Callable[[], int]] = field(default_factory=list)
    alone: dict[str, int] = field(default_factory=dict)

    def ran_alone(self, reason: str) -> None:
        """Count a call that ran without others."""
        self.alone[reason] = self.alone.get(reason, 0) + 1


@dataclass(slots=True)
class SavedStates:
    """States that were written: in how many bytes, and in which form (``whole``, ``change`` or ``stream``)."""

    saved: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, form: str, size: int) -> None:
        """Count a state that was sent to the database; a transaction that is rolled back later does not undo it."""
        self.saved[form] = self.saved.get(form, 0) + 1
        self.bytes[form] = self.bytes.get(form, 0) + size


@dataclass(slots=True)
class Counts:
    """The counters of one store.

    Attributes:
        histograms: all histograms of the store.
        batches: by kind of call.
        cache: those of the cache.
        states: states that were written.
        retries: repeated attempts, by the error of the attempt before.
        settled: commits whose reply was lost, by what the database said.
        pool_timeouts: waits for a connection that took too long.
        purged: states and checkpoints that purges deleted.
        purge_ended_at: when a purge of this process ended last, as a Unix time.
    """

    histograms: Histograms = field(default_factory=Histograms)
    batches: dict[str, BatchCounts] = field(default_factory=dict)
    cache: CacheCounts = field(init=False)
    states: SavedStates = field(default_factory=SavedStates)
    retries: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=lambda: {"committed": 0, "not committed": 0, "unknown": 0})
    pool_timeouts: int = 0
    purged: int = 0
    purge_ended_at: float | None = None

    def __post_init__(self) -> None:
        self.cache = CacheCounts(outbox_age=self.histograms.make(OUTBOX_AGE, AGES, {}))

    def batch(self, kind: str, waiting: Callable[[], int]) -> BatchCounts:
        """Return the counters of a kind, to which another batcher is added."""
        found = self.batches.get(kind)
        if found is None:
            make = self.histograms.make
            found = self.batches[kind] = BatchCounts(
                make(BATCH_SIZE, ITEMS, {"kind": kind}), make(QUEUE_WAIT, SECONDS, {"kind": kind})
            )
        found.waiting.append(waiting)
        return found
