"""Measured operations: the public methods of an object, timed and traced. Off, nothing is wrapped."""

from __future__ import annotations

import inspect
from copy import copy

from agent_persistence.telemetry.timing import Timing


def observe(operations: object, name: str, timing: Timing) -> None:
    """Measure every public coroutine method of an object, as ``name.method``."""
    # On the object and not in its class: a subclass that measures would cost each call of every store a coroutine. What
    # is measured are the methods of a copy, so that those that they call are not wrapped once more.
    plain = copy(operations)
    for method in dir(type(operations)):
        call = getattr(plain, method)
        if not method.startswith("_") and inspect.iscoroutinefunction(call):
            setattr(operations, method, timing.measured(f"{name}.{method}", call))
