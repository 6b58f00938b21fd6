"""``Metrics``: a frozen snapshot of all counters of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent_persistence.telemetry.counts import BatchCounts, CacheCounts, Counts
from agent_persistence.telemetry.histogram import Distribution


class OperationKey(NamedTuple):
    """Names a series of durations of operations.

    Attributes:
        operation: such as ``states.get``.
        error_type: the class of the error, or an empty text.
    """

    operation: str
    error_type: str


class StatementKey(NamedTuple):
    """Names a series of durations of statements.

    Attributes:
        operation: the SQL command.
        collection: its table, or an empty text.
        error_type: the class of the error, or an empty text.
    """

    operation: str
    collection: str
    error_type: str


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """The batches of one kind of call.

    Attributes:
        waiting: calls that wait for a batch now.
        size: how many calls a batch had.
        wait: how long a call waited for its batch, in seconds; empty without ``PERSISTENCE_METRICS``.
        alone: calls that ran without others, by reason.
    """

    waiting: int
    size: Distribution
    wait: Distribution
    alone: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """The connections to PostgreSQL.

    Attributes:
        used: connections that work.
        idle: open connections that wait for work.
        most: how many there may be, overflow included.
        waiting: calls that wait for a connection.
        timeouts: calls that waited too long for one.
        wait: how long calls waited for one, in seconds; empty without ``PERSISTENCE_METRICS``.
    """

    used: int
    idle: int
    most: int
    waiting: int
    timeouts: int
    wait: Distribution


@dataclass(frozen=True, slots=True)
class CacheMetrics:
    """The cache of latest states.

    Attributes:
        lookups: reads by result: ``hit``, ``absent``, ``busy``, ``unreadable``, ``unavailable``, ``bypassed``.
        fills: values stored by readers.
        publishes: values stored by writers.
        unacknowledged: writes whose invalidation went to the outbox, because Redis did not confirm it.
        breaker_open: whether Redis is not called at the moment.
        openings: how often the circuit breaker opened.
        refused: calls that were not made because it was open.
        swept: invalidations of the outbox that this process delivered.
        outbox_age: how long these had waited, in seconds.
        stale: stale states that the last ``audit_cache`` found; ``None`` before the first one.
    """

    lookups: Mapping[str, int]
    fills: int
    publishes: int
    unacknowledged: int
    breaker_open: bool
    openings: int
    refused: int
    swept: int
    outbox_age: Distribution
    stale: int | None


@dataclass(frozen=True, slots=True)
class DegradedMetrics:
    """Degraded mode.

    Attributes:
        active: whether the database is down, or states wait for it.
        pending: states in memory that wait for the database.
        unsaved: states that the database refused, and that the application has to take.
    """

    active: bool
    pending: int
    unsaved: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """Counts of what a store has done since it was made. They contain no ids and no contents.

    Attributes:
        operations: durations of one-call operations in seconds; empty without ``PERSISTENCE_METRICS``.
        statements: durations of statements in seconds; empty without ``PERSISTENCE_METRICS``.
        pool: the connections to PostgreSQL.
        batches: shared statements, by kind of call.
        cache: the cache; ``None`` if none is configured.
        states_saved: states that were written, by form: ``whole``, ``change``, ``stream``.
        states_bytes: the bytes that were sent for them, by form.
        retries: repeated attempts, by the class of the error before.
        commits_settled: commits whose reply was lost: ``committed``, ``not committed``, ``unknown``.
        purged: states and checkpoints that purges of this process deleted.
        purge_ended_at: when the last of these purges ended, as a Unix time; ``None`` before the first one.
        recent_bytes: memory that the last saved states take, with which changes are computed.
        degraded: degraded mode; ``None`` if it is not used.
    """

    operations: Mapping[OperationKey, Distribution]
    statements: Mapping[StatementKey, Distribution]
    pool: PoolMetrics
    batches: Mapping[str, BatchMetrics]
    cache: CacheMetrics | None
    states_saved: Mapping[str, int]
    states_bytes: Mapping[str, int]
    retries: Mapping[str, int]
    commits_settled: Mapping[str, int]
    purged: int
    purge_ended_at: float | None
    recent_bytes: int
    degraded: DegradedMetrics | None


def batch_metrics(counts: Counts) -> dict[str, BatchMetrics]:
    """Return the snapshot of all batches. A copy of a dict is one step, so an exporter's thread may take it."""
    return {kind: _batch(found) for kind, found in counts.batches.copy().items()}


def cache_metrics(counts: CacheCounts) -> CacheMetrics:
    """Return the snapshot of the cache's counters."""
    return CacheMetrics(
        lookups={
            "hit": counts.hits,
            "absent": counts.absent,
            "busy": counts.busy,
            "unreadable": counts.unreadable,
            "unavailable": counts.unanswered,
            "bypassed": counts.bypassed,
        },
        fills=counts.fills,
        publishes=counts.publishes,
        unacknowledged=counts.unacknowledged,
        breaker_open=counts.is_open,
        openings=counts.openings,
        refused=counts.refused,
        swept=counts.swept,
        outbox_age=counts.outbox_age.snapshot(),
        stale=counts.stale,
    )


def _batch(counts: BatchCounts) -> BatchMetrics:
    waiting = sum(length() for length in counts.waiting)
    return BatchMetrics(waiting, counts.size.snapshot(), counts.wait.snapshot(), counts.alone.copy())
