"""Doing work again until it succeeds, or its time is up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from agent_persistence.errors import LockTimeoutError, PersistenceError, PoolTimeoutError

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


class Retries:
    """Runs work again, as a whole, where an error says that this may help.

    A pool that has no connection left is not asked again: the wait for one has been long enough already. A lock that
    could not be had is asked for once more.

    Args:
        deadline_seconds: how long after the first attempt another one may begin.
        before_again: told of the error before each further attempt.
        clock: a monotonic clock.
    """

    def __init__(
        self,
        deadline_seconds: float,
        *,
        before_again: Callable[[PersistenceError], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._before_again = before_again
        self._clock = clock

    async def run(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        is_wanted: Callable[[], bool] = lambda: True,
        waits_for_pool: bool = False,
    ) -> T:
        """Run the work until it succeeds.

        Args:
            is_wanted: whether anybody still waits for it; no further attempt begins otherwise.
            waits_for_pool: ask for a connection again, however long the wait has been.

        Raises:
            PersistenceError: that of the last attempt.
        """
        deadline, pause, lock_timeouts = self._clock() + self._deadline_seconds, _FIRST_PAUSE, 0
        while True:
            try:
                return await work()
            except PersistenceError as error:
                lock_timeouts += isinstance(error, LockTimeoutError)
                may_help = _may_help(error, lock_timeouts) or (waits_for_pool and isinstance(error, PoolTimeoutError))
                if not may_help or not is_wanted() or self._clock() + pause > deadline:
                    raise
                await self._before_again(error)
                failure = error
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            if not is_wanted():
                raise failure
            pause = min(pause * 2, _LONGEST_PAUSE)


def _may_help(error: PersistenceError, lock_timeouts: int) -> bool:
    if isinstance(error, LockTimeoutError):
        return lock_timeouts == 1
    return error.retryable and not isinstance(error, PoolTimeoutError)
