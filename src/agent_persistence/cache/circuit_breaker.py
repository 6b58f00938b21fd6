"""A circuit breaker around Redis calls: a failing Redis costs a bounded wait, never an error."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from agent_persistence.concurrency.shielding import start
from agent_persistence.telemetry.telemetry import Telemetry

logger = logging.getLogger("agent_persistence")

T = TypeVar("T")

# While Redis hangs, a read takes 2.3 ms in the median with the breaker, and 29 ms with the time limit alone. One
# failure does not open it: without retries, a pooled connection fails once after a restart of Redis.
_FAILURES_TO_OPEN: Final = 3
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0

CALLS_AT_ONCE: Final = 100
"""Maximum number of concurrent calls; a client with as many connections never lets a call wait for one."""


class CacheUnavailableError(Exception):
    """Redis did not answer in time, answered with an error, or is not called at the moment."""


# ``recover`` calls Redis by the cache's ordinary methods. The variable lets these calls, and no others, pass the open
# breaker.
_recovering: Final[ContextVar[bool]] = ContextVar("agent_persistence_recovering", default=False)


class CircuitBreaker:
    """Calls Redis within a time budget, and opens after three failures in a row.

    While it is open, calls fail at once. After a pause one call passes as a probe; until it succeeds, the others go on
    without the cache.

    Args:
        call_seconds: the longest time that one call may take.
        budget_seconds: the longest time that the calls of one request may take together.
        clock: a monotonic clock, in seconds.
        telemetry: counts openings and refused calls, and measures the calls.

    Attributes:
        telemetry: the same as the argument.
        recover: runs after a successful probe and before the breaker closes: invalidations that Redis missed must be
            delivered before its values are trusted. The answer to the probe is not trusted either.
    """

    def __init__(
        self,
        *,
        call_seconds: float,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._call_seconds = call_seconds
        self._budget_seconds = budget_seconds
        self._clock = clock
        self.telemetry = telemetry or Telemetry()
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._closed_until = 0.0
        self._opened_at = 0.0
        self._probing = False
        self._calls = 0
        self.recover: Callable[[], Awaitable[object]] | None = None

    @property
    def available(self) -> bool:
        """Whether the breaker is closed: calls reach Redis."""
        return self._failures < _FAILURES_TO_OPEN

    def budget(self) -> float:
        """Return the deadline of a request that starts now, for all of its calls."""
        return self._clock() + self._budget_seconds

    async def call(self, operation: Callable[[], Awaitable[T]], deadline: float, *, callers: int = 1) -> T:
        """Run one call, and return its result.

        Args:
            operation: makes the call.
            deadline: what ``budget`` returned.
            callers: the number of callers it serves; a failure counts once for each.

        Raises:
            CacheUnavailableError: the call failed or was not made. A cancelled caller does not count as a failure.
        """
        seconds = min(self._call_seconds, deadline - self._clock())
        # Not counted as a failure: a spent budget or a crowd of callers says nothing about Redis.
        if seconds <= 0 or self._calls >= CALLS_AT_ONCE:
            raise CacheUnavailableError
        probe = self._failures >= _FAILURES_TO_OPEN and self._admit()
        self._calls += 1
        try:
            async with _TimeLimit(seconds):
                timing = self.telemetry.timing
                result = await (operation() if timing is None else timing.cache(operation))
        except Exception as error:
            # Not only RedisError: the time limit raises TimeoutError. A cancelled caller raises no Exception.
            self._failed(error, probe=probe, times=callers)
            raise CacheUnavailableError from error
        finally:
            self._calls -= 1
            self._probing = self._probing and not probe
        # A server that only hung still holds the values from before the outage, so even this answer may be stale. The
        # probe's caller does not wait for the sweep: it reads the table.
        if probe and self.recover is not None:
            self._probing = True
            start(self._recover(self.recover))
            raise CacheUnavailableError
        # A call that started before the breaker opened does not close it.
        if self._failures and (probe or self.available):
            self._succeeded()
        return result

    async def _recover(self, recover: Callable[[], Awaitable[object]]) -> None:
        """Close the breaker once ``recover`` has ended without another failure."""
        _recovering.set(True)
        failures = self._failures
        try:
            await recover()
        except Exception as error:  # noqa: BLE001 - whatever it was, another probe follows
            self._failed(error, probe=True)
        else:
            if self._failures == failures:
                self._succeeded()
        finally:
            self._probing = False

    def _admit(self) -> bool:
        """Admit a call although the breaker is open, and return whether it is the probe.

        Raises:
            CacheUnavailableError: it is not admitted.
        """
        if _recovering.get():
            return False
        if self._probing or self._clock() < self._closed_until:
            self.telemetry.counts.cache.refused += 1
            raise CacheUnavailableError
        self._probing = True
        return True

    def _failed(self, error: Exception, *, probe: bool, times: int = 1) -> None:
        opens = self._failures < _FAILURES_TO_OPEN <= self._failures + times
        self._failures += times
        if opens:
            counts = self.telemetry.counts.cache
            counts.openings, counts.is_open, self._opened_at = counts.openings + 1, True, self._clock()
            fields = {
                "event_name": "cache.unavailable",
                "error_type": type(error).__name__,
                **self.telemetry.about(),
            }
            logger.warning("state cache unavailable, reading from PostgreSQL: %s", type(error).__name__, extra=fields)
        # A call that started before the breaker opened does not prolong the pause. The jitter keeps processes that lost
        # Redis at the same moment from probing it at the same moment.
        if opens or probe:
            self._closed_until = self._clock() + self._pause * random.uniform(0.8, 1.2)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _succeeded(self) -> None:
        if not self.available:
            self.telemetry.counts.cache.is_open = False
            fields = {"event_name": "cache.available", "seconds": round(self._clock() - self._opened_at, 1)}
            logger.info("state cache available again", extra=fields)
        self._failures = 0
        self._pause = _FIRST_PAUSE


class _TimeLimit:
    """A time limit for a call of Redis: time that the event loop was busy does not count.

    In a busy process the timer and the reply are both late. The reply may lie in the socket by then, and cancelling the
    call would report a fault of Redis that is none. So a late timer waits as long again, once.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._due = self._loop.time() + seconds
        self._timeout = asyncio.timeout(None)
        self._timer = self._loop.call_at(self._due, self._check)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(*error)

    def _check(self) -> None:
        late = min(self._loop.time() - self._due, self._seconds)
        self._timer = self._loop.call_later(late, self._expire)

    def _expire(self) -> None:
        self._timeout.reschedule(self._loop.time())
