"""CPU-bound work in a thread, so that it does not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# For so many bytes, compressing takes 2 ms and decoding messages 4 ms. A switch to a thread costs 0.1 ms, which would
# dominate for less.
_MIN_BYTES: Final = 64 * 1024


async def offload(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function(*args, **kwargs)``: in a thread if there are many bytes to process, otherwise at once.

    The function must not read objects that other code may change while it runs, such as the values of a running graph.

    Args:
        size: the number of bytes that it processes.
    """
    return function(*args, **kwargs) if size < _MIN_BYTES else await asyncio.to_thread(function, *args, **kwargs)
