"""What a store does by itself from time to time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

logger: Final = logging.getLogger("agent_persistence")


class PeriodicTasks:
    """Repeats work until it is stopped. Trouble is logged when it begins and when it is over, not at every turn."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, seconds: float, work: Callable[[], Awaitable[Any]], name: str) -> None:
        """Start to repeat some work, the first time after one interval.

        Args:
            seconds: the longest interval; it is up to a fifth shorter, so that many processes do not come at once.
            name: what the work is called in the log.
        """
        self._tasks.append(asyncio.create_task(_repeat(seconds, work, name), name=f"agent-persistence {name}"))

    async def stop(self, timeout_seconds: float) -> None:
        """End all work, and wait for it to end."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        self._tasks.clear()


async def _repeat(seconds: float, work: Callable[[], Awaitable[Any]], name: str) -> None:
    failing = False
    while True:
        await asyncio.sleep(seconds * random.uniform(0.8, 1.0))
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next turn must come
            if not failing:
                logger.warning("%s failed, and will be tried again: %s", name, type(error).__name__)
            failing = True
        else:
            if failing:
                logger.info("%s works again", name)
            failing = False
