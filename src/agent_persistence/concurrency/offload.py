"""CPU-bound work in threads of this package, so that it does not block the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# For so many bytes, compressing takes 2 ms and decoding messages 4 ms. A switch to a thread costs 0.1 ms, which would
# dominate for less.
_MIN_BYTES: Final = 64 * 1024


class _Threads:
    """The threads, which are started when they are needed. They never wait, so each call gets its turn."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Make a new executor; that of the parent has no threads in a forked child."""
        self.executor = ThreadPoolExecutor(thread_name_prefix="agent-persistence work")


_threads: Final = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.start)


async def offload(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function(*args, **kwargs)``: in a thread if there are many bytes to process, otherwise at once.

    The function must not read objects that other code may change while it runs, such as the values of a running graph.

    Args:
        size: the number of bytes that it processes.
    """
    return function(*args, **kwargs) if size < _MIN_BYTES else await in_thread(function, *args, **kwargs)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function(*args, **kwargs)`` in a thread. It must not wait for anything."""
    # Not in the event loop's default executor, as asyncio.to_thread does: all its threads may wait for this very work,
    # in sync calls of a store or a graph.
    call = partial(copy_context().run, partial(function, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(_threads.executor, call)
