"""The metrics: names as OpenTelemetry writes them, kinds, units and meanings. All exporters follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

STATEMENT_DURATION: Final = "db.client.operation.duration"
CONNECTION_WAIT: Final = "db.client.connection.wait_time"
OPERATION_DURATION: Final = "agent_persistence.operation.duration"
BATCH_SIZE: Final = "agent_persistence.batch.size"
OUTBOX_AGE: Final = "agent_persistence.cache.outbox.age"
QUEUE_WAIT: Final = "agent_persistence.queue.wait"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric.

    Attributes:
        kind: a counter only grows; a gauge goes up and down.
        unit: in UCUM, as OpenTelemetry writes it: ``s``, ``By``, or a count of things in braces.
        attributes: the names of its attributes; none of them is an id.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


_OURS: Final = "agent_persistence"
_POOL: Final = "db.client.connection.pool.name"
FAMILIES: Final = (
    Family(
        OPERATION_DURATION, "histogram", "s", "Duration of an operation, from its call.", ("operation", "error.type")
    ),
    Family(
        STATEMENT_DURATION,
        "histogram",
        "s",
        "Duration of a statement; one may serve many callers.",
        ("db.system.name", "db.operation.name", "db.collection.name", "error.type"),
    ),
    Family("db.client.connection.count", "gauge", "{connection}", "Open connections.", (_POOL, "state")),
    Family("db.client.connection.max", "gauge", "{connection}", "Maximum number of connections.", (_POOL,)),
    Family("db.client.connection.pending_requests", "gauge", "{request}", "Calls waiting for a connection.", (_POOL,)),
    Family("db.client.connection.timeouts", "counter", "{timeout}", "Waits that ended without one.", (_POOL,)),
    Family(CONNECTION_WAIT, "histogram", "s", "Time to obtain a connection.", (_POOL,)),
    Family(BATCH_SIZE, "histogram", "{call}", "Calls that shared a statement.", ("kind",)),
    Family(QUEUE_WAIT, "histogram", "s", "Time a call waited for its batch.", ("kind",)),
    Family(f"{_OURS}.queue.length", "gauge", "{call}", "Calls waiting for a batch.", ("kind",)),
    Family(f"{_OURS}.batch.alone", "counter", "{call}", "Calls that ran without others.", ("kind", "reason")),
    Family(f"{_OURS}.retries", "counter", "{attempt}", "Repeated attempts, by the error before.", ("error.type",)),
    Family(f"{_OURS}.commits.settled", "counter", "{commit}", "Commits whose reply was lost.", ("outcome",)),
    Family(f"{_OURS}.cache.lookups", "counter", "{lookup}", "Reads of latest states, by result.", ("result",)),
    Family(f"{_OURS}.cache.fills", "counter", "{value}", "Values stored by readers."),
    Family(f"{_OURS}.cache.publishes", "counter", "{value}", "Values stored by writers."),
    Family(f"{_OURS}.cache.unacknowledged", "counter", "{write}", "Writes that Redis did not confirm."),
    Family(f"{_OURS}.cache.breaker.open", "gauge", "1", "1 while Redis is not called."),
    Family(f"{_OURS}.cache.breaker.openings", "counter", "{opening}", "How often the circuit breaker opened."),
    Family(f"{_OURS}.cache.breaker.refused", "counter", "{call}", "Calls not made because the breaker was open."),
    Family(f"{_OURS}.cache.outbox.swept", "counter", "{invalidation}", "Late invalidations delivered."),
    Family(OUTBOX_AGE, "histogram", "s", "How long these had waited."),
    Family(f"{_OURS}.cache.audit.stale", "gauge", "{state}", "Stale states found by the last audit_cache."),
    Family(f"{_OURS}.states.saved", "counter", "{state}", "States sent to the database.", ("form",)),
    Family(f"{_OURS}.states.bytes", "counter", "By", "Bytes sent for them.", ("form",)),
    Family(f"{_OURS}.states.recent", "gauge", "By", "Memory of the last saved states."),
    Family(f"{_OURS}.purge.removed", "counter", "{state}", "States and checkpoints deleted by purges."),
    Family(f"{_OURS}.purge.last_end", "gauge", "s", "Unix time at which the last purge ended."),
    Family(f"{_OURS}.degraded.active", "gauge", "1", "1 while degraded mode is on."),
    Family(f"{_OURS}.degraded.pending", "gauge", "{state}", "States in memory that wait for the database."),
    Family(f"{_OURS}.degraded.unsaved", "gauge", "{state}", "States that the database refused."),
)
