"""Everything that one store counts and measures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

from agent_persistence.telemetry.counts import Counts
from agent_persistence.telemetry.histogram import SECONDS, Distribution, Histogram
from agent_persistence.telemetry.identities import Identities
from agent_persistence.telemetry.log_fields import fields_of
from agent_persistence.telemetry.metrics import DegradedMetrics, Metrics, PoolMetrics, batch_metrics, cache_metrics
from agent_persistence.telemetry.operation import Operation, current_operation
from agent_persistence.telemetry.slow_operations import SlowOperations
from agent_persistence.telemetry.timing import Timing, sqlstate_behind, type_of

K = TypeVar("K")

logger: Final = logging.getLogger("agent_persistence")

_NOT_MEASURED: Final[AbstractContextManager[None]] = nullcontext()
NOTHING: Final = Distribution(SECONDS, (0,) * (len(SECONDS) + 1), 0.0)


class Telemetry:
    """The counters of one store, and its durations and spans while they are wanted.

    Args:
        identities: shows ids in spans and in the log.
        slow_ms: operations that take longer are logged, if durations are measured.

    Attributes:
        identities: the same as the argument.
        counts: always.
        timing: durations and spans; ``None`` while nobody wants them, so that the hot path compares one attribute.
        degraded: returns the numbers of degraded mode; ``None`` if it is not used.
    """

    __slots__ = ("_slow_ms", "counts", "degraded", "identities", "timing")

    def __init__(self, identities: Identities | None = None, *, slow_ms: float = 0.0) -> None:
        self.identities = identities or Identities()
        self._slow_ms = slow_ms
        self.counts = Counts()
        self.timing: Timing | None = None
        self.degraded: Callable[[], DegradedMetrics] | None = None

    def measure(self) -> Timing:
        """Measure durations from now on."""
        if self.timing is None:
            slow = SlowOperations(self._slow_ms, self.identities)
            self.timing = Timing(self.counts.histograms, slow, self.identities)
        return self.timing

    def call(self, name: str, thread_id: Any, owner: Any) -> AbstractContextManager[Operation | None]:
        """Measure a block as a call of an operation; it is ``None`` there while durations are off."""
        return _NOT_MEASURED if self.timing is None else self.timing.begin(name, thread_id, owner)

    def about(self) -> dict[str, Any]:
        """Return the fields of a log line that say which operation it is about; none while durations are off."""
        return fields_of(current_operation(), self.identities)

    def retried(self, error: BaseException, attempt: int) -> None:
        """Count an attempt that follows an error, and log it."""
        kind, counts = type_of(error), self.counts.retries
        counts[kind] = counts.get(kind, 0) + 1
        if (operation := current_operation()) is not None:
            operation.attempts += 1
        fields = {"event_name": "operation.retried", "error_type": kind, "attempt": attempt, **self.about()}
        # It tells a server that takes no writes, or no more connections, from one that is away.
        if (sqlstate := sqlstate_behind(error)) is not None:
            kind, fields["sqlstate"] = f"{kind} (sqlstate {sqlstate})", sqlstate
        logger.info("an attempt failed and is repeated: %s", kind, extra=fields)

    def settled(self, *, committed: bool | None) -> None:
        """Count a commit whose reply was lost, and log what became of it."""
        outcome = {True: "committed", False: "not committed", None: "unknown"}[committed]
        self.counts.settled[outcome] += 1
        fields = {"event_name": "commit.settled", "outcome": outcome, **self.about()}
        logger.warning("the reply to COMMIT was lost; the database says: %s", outcome, extra=fields)

    def metrics(self, pool: PoolMetrics, recent_bytes: int, *, is_cached: bool) -> Metrics:
        """Return a snapshot."""
        counts, timing = self.counts, self.timing
        return Metrics(
            operations={} if timing is None else _snapshots(timing.operations),
            statements={} if timing is None else _snapshots(timing.statements),
            pool=pool,
            batches=batch_metrics(counts),
            cache=cache_metrics(counts.cache) if is_cached else None,
            states_saved=counts.states.saved.copy(),
            states_bytes=counts.states.bytes.copy(),
            retries=counts.retries.copy(),
            commits_settled=counts.settled.copy(),
            purged=counts.purged,
            purge_ended_at=counts.purge_ended_at,
            recent_bytes=recent_bytes,
            degraded=None if self.degraded is None else self.degraded(),
        )


def _snapshots(found: dict[K, Histogram]) -> dict[K, Distribution]:
    # A copy first, which is one step: an exporter's thread may ask while another series is being added.
    return {key: histogram.snapshot() for key, histogram in found.copy().items()}
