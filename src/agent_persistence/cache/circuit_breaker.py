"""Trouble with Redis costs a bounded wait, never an error: a time budget and a circuit breaker around every call."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar

from agent_persistence.concurrency.shielding import start

logger = logging.getLogger("agent_persistence")

T = TypeVar("T")

_FAILURES_TO_OPEN: Final = 3
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0

CALLS_AT_ONCE: Final = 100
"""No more are let through, so a client with as many connections never makes a call wait for one."""


class CacheUnavailableError(Exception):
    """Redis did not answer in time, answered with an error, or is being left alone for a while."""


_recovering: Final[ContextVar[bool]] = ContextVar("agent_persistence_recovering", default=False)


class CircuitBreaker:
    """Calls Redis within a budget, and stops calling for a while after three failures in a row.

    After the pause one call is let through as a probe; the others go on without the cache until it succeeds.

    Args:
        call_seconds: the longest that one call may take.
        budget_seconds: the longest that the calls of one request may take together.
        clock: a monotonic clock.

    Attributes:
        recover: what must be done before Redis is trusted again: values that could not be withdrawn meanwhile still
            stand there. The probe's own answer is not trusted either.
    """

    def __init__(
        self,
        *,
        call_seconds: float,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call_seconds = call_seconds
        self._budget_seconds = budget_seconds
        self._clock = clock
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._closed_until = 0.0
        self._probing = False
        self._calls = 0
        self.recover: Callable[[], Awaitable[object]] | None = None

    @property
    def available(self) -> bool:
        """Whether calls are let through, as far as is known."""
        return self._failures < _FAILURES_TO_OPEN

    def budget(self) -> float:
        """Start a request's budget: the time by which all its calls must be over."""
        return self._clock() + self._budget_seconds

    async def call(self, operation: Callable[[], Awaitable[T]], deadline: float, *, callers: int = 1) -> T:
        """Run one call.

        Args:
            callers: for how many; should it fail, it has failed them all.

        Raises:
            CacheUnavailableError: whatever went wrong. The cancellation of the caller passes uncounted.
        """
        seconds = min(self._call_seconds, deadline - self._clock())
        if seconds <= 0 or self._calls >= CALLS_AT_ONCE:
            raise CacheUnavailableError  # our own doing: it says nothing about Redis
        probe = self._admit()
        self._calls += 1
        try:
            async with asyncio.timeout(seconds):
                result = await operation()
        except Exception as error:
            self._failed(error, probe=probe, times=callers)
            raise CacheUnavailableError from error
        finally:
            self._calls -= 1
            self._probing = self._probing and not probe
        if probe and self.recover is not None:
            self._probing = True
            start(self._recover(self.recover))
            raise CacheUnavailableError
        if probe or self.available:  # the success of a call that was under way when it opened changes nothing
            self._succeeded()
        return result

    async def _recover(self, recover: Callable[[], Awaitable[object]]) -> None:
        """Close again once all is done without another failure."""
        _recovering.set(True)
        failures = self._failures
        try:
            await recover()
        except Exception as error:  # noqa: BLE001 - whatever it was, there will be another probe
            self._failed(error, probe=True)
        else:
            if self._failures == failures:
                self._succeeded()
        finally:
            self._probing = False

    def _admit(self) -> bool:
        """Let a call through, and say whether it is the probe."""
        if self.available or _recovering.get():
            return False
        if self._probing or self._clock() < self._closed_until:
            raise CacheUnavailableError
        self._probing = True
        return True

    def _failed(self, error: Exception, *, probe: bool, times: int = 1) -> None:
        opens = self._failures < _FAILURES_TO_OPEN <= self._failures + times
        self._failures += times
        if opens:
            logger.warning("state cache unavailable, reading from PostgreSQL: %s", type(error).__name__)
        if opens or probe:  # the failure of a call that was under way when it opened changes nothing
            self._closed_until = self._clock() + self._pause * random.uniform(0.8, 1.2)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _succeeded(self) -> None:
        if not self.available:
            logger.info("state cache available again")
        self._failures = 0
        self._pause = _FIRST_PAUSE
