"""CPU work that would block an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# To deflate so many bytes takes 2 ms, to read them as messages 4 ms, and to change threads 0.1.
_WORTH_A_THREAD: Final = 64 * 1024


async def offload(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function(*args, **kwargs)``; in a worker thread if there are many bytes to process.

    The function must not use objects that other tasks may change, such as the values of a running graph.

    Args:
        size: the number of bytes. Below 64 KB the call blocks the event loop for less than changing threads is worth.
    """
    return function(*args, **kwargs) if size < _WORTH_A_THREAD else await asyncio.to_thread(function, *args, **kwargs)
