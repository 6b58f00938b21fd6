"""Work that runs to its end although its caller is cancelled.

Cancelling a statement costs its connection: the driver can only close it. Cancelling COMMIT costs the answer. So the
cancelled caller returns at once, the work continues in a task, and closing a store waits for such tasks (``drain``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

# The event loop keeps weak references only: without this set a running task could be garbage-collected.
_running: Final[set[asyncio.Task[Any]]] = set()


def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task that no caller's cancellation reaches; await ``asyncio.shield`` of it."""
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that continues if the caller is cancelled."""
    return await asyncio.shield(start(work))


async def settled(work: Coroutine[Any, Any, T]) -> T:
    """Await the outcome of work even if the caller is cancelled meanwhile; the cancellation is raised then.

    For callers who must know, when they are cancelled, that nothing of them is still being written.
    """
    task, cancellation = start(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = cancellation or error
    if cancellation is not None:
        raise cancellation
    return task.result()


async def drain(timeout_seconds: float) -> None:
    """Wait until the shielded tasks of this event loop are done, or the timeout has passed."""
    mine = [task for task in _running if task.get_loop() is asyncio.get_running_loop()]
    if mine:
        await asyncio.wait(mine, timeout=timeout_seconds)


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # a cancelled caller never asks: without this asyncio would log "never retrieved"
