"""Work that goes on to its end when its caller is cancelled.

A cancelled statement costs its connection: the driver can only close it. A cancelled COMMIT costs the answer. So a
cancelled caller is let go, the work goes on without it, and closing waits for what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_running: Final[set[asyncio.Task[Any]]] = set()


def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start work that nobody's cancellation reaches; await ``asyncio.shield`` of it."""
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that goes on when its caller is cancelled."""
    return await asyncio.shield(start(work))


async def drain(timeout_seconds: float) -> None:
    """Wait for the work of this event loop that is still under way."""
    mine = [task for task in _running if task.get_loop() is asyncio.get_running_loop()]
    if mine:
        await asyncio.wait(mine, timeout=timeout_seconds)


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # a caller that was cancelled does not ask: the error counts as seen
