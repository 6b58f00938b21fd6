"""The values of a snapshot by the names of their metrics, as exporters want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from agent_persistence.telemetry.histogram import Distribution
from agent_persistence.telemetry.metrics import BatchMetrics, CacheMetrics, Metrics, PoolMetrics
from agent_persistence.telemetry.names import (
    BATCH_SIZE,
    CONNECTION_WAIT,
    OPERATION_DURATION,
    OUTBOX_AGE,
    QUEUE_WAIT,
    STATEMENT_DURATION,
)

POOL: Final = {"db.client.connection.pool.name": "agent_persistence"}
POSTGRESQL: Final = {"db.system.name": "postgresql"}


class Sample(NamedTuple):
    """One value of one series."""

    name: str
    value: float | Distribution
    attributes: Mapping[str, str] = {}


def samples(metrics: Metrics) -> Iterator[Sample]:
    """Yield every value of a snapshot."""
    for operation, found in metrics.operations.items():
        yield Sample(OPERATION_DURATION, found, operation_attributes(*operation))
    for statement, found in metrics.statements.items():
        yield Sample(STATEMENT_DURATION, found, statement_attributes(*statement))
    yield from _pool(metrics.pool)
    for kind, batch in metrics.batches.items():
        yield from _batch(kind, batch)
    yield from _by("agent_persistence.retries", "error.type", metrics.retries)
    yield from _by("agent_persistence.commits.settled", "outcome", metrics.commits_settled)
    if metrics.cache is not None:
        yield from _cache(metrics.cache)
    yield from _by("agent_persistence.states.saved", "form", metrics.states_saved)
    yield from _by("agent_persistence.states.bytes", "form", metrics.states_bytes)
    yield Sample("agent_persistence.states.recent", metrics.recent_bytes)
    yield Sample("agent_persistence.purge.removed", metrics.purged)
    if metrics.purge_ended_at is not None:
        yield Sample("agent_persistence.purge.last_end", metrics.purge_ended_at)
    if metrics.degraded is not None:
        yield Sample("agent_persistence.degraded.active", int(metrics.degraded.active))
        yield Sample("agent_persistence.degraded.pending", metrics.degraded.pending)
        yield Sample("agent_persistence.degraded.unsaved", metrics.degraded.unsaved)


def operation_attributes(operation: str, error_type: str) -> dict[str, str]:
    """Return the attributes of the durations of an operation."""
    return {"operation": operation, "error.type": error_type}


def statement_attributes(operation: str, collection: str, error_type: str) -> dict[str, str]:
    """Return the attributes of the durations of a statement."""
    return {
        **POSTGRESQL,
        "db.operation.name": operation,
        "db.collection.name": collection,
        "error.type": error_type,
    }


def _by(name: str, attribute: str, values: Mapping[str, int]) -> Iterator[Sample]:
    for value, count in values.items():
        yield Sample(name, count, {attribute: value})


def _pool(pool: PoolMetrics) -> Iterator[Sample]:
    prefix = "db.client.connection"
    yield Sample(f"{prefix}.count", pool.used, {**POOL, "state": "used"})
    yield Sample(f"{prefix}.count", pool.idle, {**POOL, "state": "idle"})
    yield Sample(f"{prefix}.max", pool.most, POOL)
    yield Sample(f"{prefix}.pending_requests", pool.waiting, POOL)
    yield Sample(f"{prefix}.timeouts", pool.timeouts, POOL)
    yield Sample(CONNECTION_WAIT, pool.wait, POOL)


def _batch(kind: str, batch: BatchMetrics) -> Iterator[Sample]:
    own = {"kind": kind}
    yield Sample(BATCH_SIZE, batch.size, own)
    yield Sample(QUEUE_WAIT, batch.wait, own)
    yield Sample("agent_persistence.queue.length", batch.waiting, own)
    for reason, count in batch.alone.items():
        yield Sample("agent_persistence.batch.alone", count, {**own, "reason": reason})


def _cache(cache: CacheMetrics) -> Iterator[Sample]:
    prefix = "agent_persistence.cache"
    yield from _by(f"{prefix}.lookups", "result", cache.lookups)
    yield Sample(f"{prefix}.fills", cache.fills)
    yield Sample(f"{prefix}.publishes", cache.publishes)
    yield Sample(f"{prefix}.unacknowledged", cache.unacknowledged)
    yield Sample(f"{prefix}.breaker.open", int(cache.breaker_open))
    yield Sample(f"{prefix}.breaker.openings", cache.openings)
    yield Sample(f"{prefix}.breaker.refused", cache.refused)
    yield Sample(f"{prefix}.outbox.swept", cache.swept)
    yield Sample(OUTBOX_AGE, cache.outbox_age)
    if cache.stale is not None:
        yield Sample(f"{prefix}.audit.stale", cache.stale)
