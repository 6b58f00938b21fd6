"""Runs asynchronous work until it ends, or the command is terminated."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """Run work, and cancel it on SIGTERM; a KeyboardInterrupt could be raised and lost in any callback.

    Raises:
        KeyboardInterrupt: it was cancelled.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        return asyncio.run(_cancelled_by_sigterm(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        # The event loop leaves the default handler, which would kill the command while its servers are being stopped.
        signal.signal(signal.SIGTERM, before)


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(work)
    with suppress(NotImplementedError):  # event loops of Windows have no signal handlers
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
