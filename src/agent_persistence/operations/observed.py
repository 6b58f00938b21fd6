"""Measured operations: the public methods of an object, timed and traced. Off, nothing is wrapped."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from agent_persistence.telemetry.timing import Timing


def observe(operations: object, name: str, timing: Timing) -> None:
    """Measure every public coroutine method of an object, as ``name.method``."""
    # On the object and not in its class: a subclass that measures would cost each call of every store a coroutine.
    for method in dir(type(operations)):
        call = getattr(operations, method)
        if not method.startswith("_") and inspect.iscoroutinefunction(call):
            setattr(operations, method, _measured(call, f"{name}.{method}", timing))


def _measured(call: Callable[..., Awaitable[Any]], name: str, timing: Timing) -> Callable[..., Awaitable[Any]]:
    takes_thread = next(iter(inspect.signature(call).parameters), None) == "thread_id"

    @wraps(call)
    async def measured(*args: Any, **kwargs: Any) -> Any:
        thread_id = args[0] if takes_thread and args else kwargs.get("thread_id")
        return await timing.operation(name, call(*args, **kwargs), thread_id=thread_id, owner=kwargs.get("user_id"))

    return measured
