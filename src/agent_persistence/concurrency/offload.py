"""Work that would hold up an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

# To deflate so many bytes takes 2 ms, to read them as messages 4 ms, and to change threads 0.1.
_WORTH_A_THREAD: Final = 64 * 1024


async def aside(work: Callable[[], T], *, size: int) -> T:
    """Do work on so many bytes: in a thread where they are many.

    It must not look at what somebody else may change meanwhile, as the values of a graph that runs.
    """
    return work() if size < _WORTH_A_THREAD else await asyncio.to_thread(work)
