"""CPU-bound work in a thread, so that it does not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

# For so many bytes, compressing takes 2 ms and decoding messages 4 ms. A switch to a thread costs 0.1 ms, which would
# dominate for less.
_MIN_BYTES: Final = 64 * 1024


async def offload(work: Callable[[], T], *, size: int) -> T:
    """Run CPU-bound work: in a thread if it is large, otherwise at once.

    The work must not read objects that other code may change while it runs, such as the values of a running graph.

    Args:
        work: the function to run.
        size: the number of bytes that it processes.
    """
    return work() if size < _MIN_BYTES else await asyncio.to_thread(work)
