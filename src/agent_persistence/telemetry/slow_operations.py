"""A log of operations that took long, and where their time went."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from agent_persistence.telemetry.identities import Identities
from agent_persistence.telemetry.operation import Operation

logger: Final = logging.getLogger("agent_persistence.slow")

_PAUSE: Final = 1.0  # seconds between two lines of an operation: in an outage, every call is slow


class SlowOperations:
    """Logs operations that took longer than a limit, at most one of a name in a second.

    Args:
        limit_ms: the limit, in milliseconds; 0 logs none.
        identities: shows ids.
        clock: a monotonic clock, in seconds.

    Attributes:
        limit: the limit, in seconds.
    """

    def __init__(self, limit_ms: float, identities: Identities, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit_ms / 1000 if limit_ms else float("inf")
        self._identities = identities
        self._clock = clock
        self._logged_at: dict[str, float] = {}
        self._kept_back: dict[str, int] = {}

    def look(
        self, name: str, seconds: float, operation: Operation, error_type: str, *, thread_id: Any, owner: Any
    ) -> None:
        """Log an operation if it took long."""
        # The time in a block is the host's own: only what was spent in this package's calls counts.
        busy = operation.connection + operation.database + operation.cache if operation.is_block else seconds
        if busy < self.limit:
            return
        now = self._clock()
        if now - self._logged_at.get(name, float("-inf")) < _PAUSE:
            self._kept_back[name] = self._kept_back.get(name, 0) + 1
            return
        self._logged_at[name] = now
        fields = {
            "operation": name,
            "thread_id": self._identities.thread(thread_id),
            "owner": self._identities.owner(owner),
            "duration_ms": _ms(seconds),
            "queue_ms": _ms(operation.queue),
            "connection_ms": _ms(operation.connection),
            "database_ms": _ms(operation.database),
            "cache_ms": _ms(operation.cache),
            "attempts": operation.attempts,
            "batch": operation.batch,
            "kept_back": self._kept_back.pop(name, 0),
            "error_type": error_type or None,
        }
        told = {key: value for key, value in fields.items() if value is not None}
        text = " ".join(f"{key}={value}" for key, value in told.items())
        logger.warning("slow operation: %s", text, extra={"event_name": "operation.slow", **told})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
