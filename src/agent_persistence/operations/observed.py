"""Measured operations: the public methods of an object, timed and traced. Off, nothing is wrapped."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from typing import TypeVar

from agent_persistence.telemetry.timing import Timing

T = TypeVar("T")


def observe(operations: object, name: str, timing: Timing) -> None:
    """Measure every public coroutine method of an object, as ``name.method``."""
    # On the object and not in its class: a subclass that measures would cost each call of every store a coroutine. What
    # is measured are the methods of a copy, so that those that they call are not wrapped once more.
    plain = copy(operations)
    for method in dir(type(operations)):
        call = getattr(plain, method)
        if not method.startswith("_") and inspect.iscoroutinefunction(call):
            setattr(operations, method, timing.measured(f"{name}.{method}", call))


@asynccontextmanager
async def measured_block(
    name: str, work: AbstractAsyncContextManager[T], timing: Timing, user_id: object
) -> AsyncIterator[T]:
    """Measure a block of the host, such as a unit of work."""
    async with timing.block(name, owner=user_id), work as opened:
        yield opened
