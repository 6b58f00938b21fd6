"""Retries: work repeated until it succeeds, its deadline passes, or its caller stops waiting."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from agent_persistence.concurrency.time_limit import EndsBy, Refusals, made_at
from agent_persistence.errors import (
    CommitUnknownError,
    LockTimeoutError,
    PersistenceError,
    PoolTimeoutError,
    UnavailableError,
)
from agent_persistence.telemetry.telemetry import Telemetry

T = TypeVar("T")

Attempt = Callable[[], Awaitable[T]]

_FIRST_PAUSE: Final = 0.02  # seconds; doubled after each attempt
_LONGEST_PAUSE: Final = 1.0

REPLY_SECONDS: Final = 15.0
"""How long a request to a store without transactions may take, connecting included."""


class Retries:
    """Repeats work as a whole after errors that are worth a retry (``PersistenceError.retryable``).

    A pool timeout is not retried, because the caller has waited long enough for a connection. A lock timeout is retried
    once.

    Args:
        deadline_seconds: how long after the call another attempt may start.
        call_seconds: the longest time that a call may take; ``None`` leaves that to the attempts.
        before_retry: called with the error before each further attempt.
        clock: a monotonic clock, in seconds.
        telemetry: counts the repeated attempts.
    """

    def __init__(
        self,
        deadline_seconds: float,
        *,
        call_seconds: float | None = None,
        before_retry: Callable[[PersistenceError], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self.call_seconds = call_seconds
        self._before_retry = before_retry
        self._clock = clock
        self._telemetry = telemetry or Telemetry()

    async def run(
        self,
        attempt: Attempt[T],
        *,
        is_wanted: Callable[[], bool] | None = None,
        waits_for_pool: bool = False,
        is_limited: bool = True,
    ) -> T:
        """Run attempts until one succeeds, and return its result.

        Args:
            attempt: makes one attempt each time it is called.
            is_wanted: whether a caller still waits for the result; if not, no further attempt starts.
            waits_for_pool: retry pool timeouts as well.
            is_limited: whether an attempt ends when the call has taken ``call_seconds``; ``False`` for work of the
                host, which may wait for other things than the database.

        Raises:
            PersistenceError: the error of the last attempt.
        """
        made = made_at()
        started = self._clock() if made is None else made
        if self.call_seconds is None or not is_limited:
            return await self._repeat(attempt, started, is_wanted, Refusals(), waits_for_pool=waits_for_pool)
        async with EndsBy(started + self.call_seconds) as limit:
            return await self._repeat(attempt, started, is_wanted, limit.refusals, waits_for_pool=waits_for_pool)

    async def _repeat(
        self,
        attempt: Attempt[T],
        started: float,
        is_wanted: Callable[[], bool] | None,
        refusals: Refusals,
        *,
        waits_for_pool: bool,
    ) -> T:
        deadline, pause, lock_timeouts, attempts = started + self.deadline_seconds, _FIRST_PAUSE, 0, 1
        while True:
            try:
                return await attempt()
            except PersistenceError as error:
                lock_timeouts += isinstance(error, LockTimeoutError)
                may_help = _may_help(error, lock_timeouts) or (waits_for_pool and isinstance(error, PoolTimeoutError))
                left = deadline - self._clock()
                if not may_help or _is_abandoned(is_wanted) or left <= _FIRST_PAUSE:
                    raise
                if self._before_retry is not None:
                    await self._before_retry(error)
                refusals.note(failure := error)
            # Jitter: writers that collided once would otherwise collide again at the same moment.
            # At most half of what is left: an outage may end shortly before the deadline, and the attempt takes time.
            await asyncio.sleep(min(pause * random.uniform(0.5, 1.0), left / 2))
            if _is_abandoned(is_wanted):  # again: its caller may have been cancelled during the pause
                raise failure
            attempts += 1
            self._telemetry.retried(failure, attempts)
            pause = min(pause * 2, _LONGEST_PAUSE)


class LostReplyError(UnavailableError):
    """A request was sent and its reply was lost, so the server may have executed it. Never leaves this package."""


@asynccontextmanager
async def replies_in_time(server: str, *, requests: int = 1) -> AsyncIterator[None]:
    """Limit the time of requests to a server: a client of the host may have no limit of its own.

    Raises:
        LostReplyError: no reply came.
    """
    limit = asyncio.timeout(requests * REPLY_SECONDS)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise LostReplyError(f"{server} did not answer") from error


class LostReplyRetries:
    """Retries for stores without transactions: safe calls are repeated, others raise when a reply is lost.

    Attempts raise ``UnavailableError`` where the request was certainly not executed, ``LostReplyError`` where it may
    have been. They limit each of their requests by ``replies_in_time``.

    Args:
        deadline_seconds: how long after the first attempt another one may start.
    """

    def __init__(self, deadline_seconds: float) -> None:
        self._retries = Retries(deadline_seconds)

    async def read(self, attempt: Attempt[T]) -> T:
        """Run an attempt that changes nothing, however often it is repeated."""
        try:
            return await self._retries.run(attempt)
        except LostReplyError as error:  # nothing was changed, so nothing is unknown
            raise UnavailableError(str(error)) from error.__cause__

    async def write(self, attempt: Attempt[T]) -> T:
        """Run an idempotent attempt: one that recognises what an earlier attempt has already done.

        Raises:
            CommitUnknownError: a reply was lost, and the server did not come back within the deadline.
        """
        # One lost reply is enough: later attempts that certainly failed do not tell what that one did.
        lost: list[LostReplyError] = []
        try:
            return await self._retries.run(partial(_noting_lost_replies, attempt, lost))
        except UnavailableError as error:
            if not lost:
                raise
            raise _unknown(lost[-1]) from error.__cause__

    async def write_once(self, attempt: Attempt[T]) -> T:
        """Run an attempt that would answer differently if it were executed twice, so a lost reply ends it.

        Raises:
            CommitUnknownError: the reply was lost.
        """
        return await self._retries.run(partial(_failing_on_a_lost_reply, attempt))


def _may_help(error: PersistenceError, lock_timeouts: int) -> bool:
    if isinstance(error, LockTimeoutError):
        return lock_timeouts == 1
    return error.retryable and not isinstance(error, PoolTimeoutError)


def _is_abandoned(is_wanted: Callable[[], bool] | None) -> bool:
    return is_wanted is not None and not is_wanted()


async def _noting_lost_replies(attempt: Attempt[T], lost: list[LostReplyError]) -> T:
    try:
        return await attempt()
    except LostReplyError as error:
        lost.append(error)
        raise


async def _failing_on_a_lost_reply(attempt: Attempt[T]) -> T:
    try:
        return await attempt()
    except LostReplyError as error:
        raise _unknown(error) from error.__cause__


def _unknown(error: LostReplyError) -> CommitUnknownError:
    return CommitUnknownError(f"{error}: the request may have been executed; read before you write again")
