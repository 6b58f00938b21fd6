"""Background tasks that repeat at an interval."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Final

logger: Final = logging.getLogger("agent_persistence")


class PeriodicTasks:
    """Runs functions at intervals until stopped. A failure is logged when it starts and when it ends, not each time."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, seconds: float, work: Callable[[], Awaitable[Any]], name: str) -> None:
        """Start to run a function at an interval, for the first time after one interval.

        Args:
            seconds: the longest interval. Each is up to a fifth shorter, so that many processes spread out.
            work: the function.
            name: its name in the log.
        """
        # In a context of its own: otherwise each run would be traced as a part of the start of the application.
        repeating = asyncio.get_running_loop().create_task(
            _repeat(seconds, work, name), name=f"agent-persistence {name}", context=Context()
        )
        self._tasks.append(repeating)

    async def stop(self, timeout_seconds: float) -> None:
        """Cancel all tasks, and wait until they have ended or the timeout has passed."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        self._tasks.clear()


async def _repeat(seconds: float, work: Callable[[], Awaitable[Any]], name: str) -> None:
    failing = False
    while True:
        # Before the work, and with jitter: processes that start together would all work at the same moment.
        await asyncio.sleep(seconds * random.uniform(0.8, 1.0))
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next run must follow
            if not failing:
                fields = {"event_name": "job.failed", "job": name, "error_type": type(error).__name__}
                logger.warning("%s failed and will be retried: %s", name, type(error).__name__, extra=fields)
            failing = True
        else:
            if failing:
                logger.info("%s works again", name, extra={"event_name": "job.recovered", "job": name})
            failing = False
