"""Measured operations: the public methods of an object, timed and traced. Off, nothing is wrapped."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from typing import Any, Final, TypeVar

from agent_persistence.telemetry.timing import Timing

T = TypeVar("T")
CallT = TypeVar("CallT", bound=Callable[..., Any])

_MARK: Final = "_measures_itself"


def measures_itself(call: CallT) -> CallT:
    """Mark a method that leads to ``BatchedCalls``, which measures it: a wrapper costs 2 % of such a call."""
    setattr(call, _MARK, True)
    return call


def observe(operations: object, name: str, timing: Timing) -> None:
    """Measure every public coroutine method of an object that does not measure itself, as ``name.method``."""
    # On the object and not in its class: a subclass that measures would cost each call of every store a coroutine. What
    # is measured are the methods of a copy, so that those that they call are not wrapped once more.
    plain = copy(operations)
    for method in dir(type(operations)):
        call = getattr(plain, method)
        if not method.startswith("_") and inspect.iscoroutinefunction(call) and not hasattr(call, _MARK):
            setattr(operations, method, timing.measured(f"{name}.{method}", call))


@asynccontextmanager
async def measured_block(
    name: str, work: AbstractAsyncContextManager[T], timing: Timing, user_id: object
) -> AsyncIterator[T]:
    """Measure a block of the host, such as a unit of work."""
    async with timing.block(name, owner=user_id), work as opened:
        yield opened
