"""Single flight: concurrent callers that want the same value share one load."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from agent_persistence.concurrency.shielding import start
from agent_persistence.concurrency.time_limit import no_call
from agent_persistence.telemetry.operation import Operation, current_operation, working_for

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """Loads a value; ``waited`` is whether the load has waited for an earlier one of the same key."""

    def __call__(self, *, waited: bool) -> Coroutine[Any, Any, T_co]:
        """Load it."""
        ...


@dataclass(slots=True, eq=False)
class _Load(Generic[T]):
    """One load of a key; its number is drawn when it starts. Its times are added to those of all who share it."""

    operation: Operation | None
    task: asyncio.Task[T] = field(init=False)
    number: int = 0

    def serve(self, caller: Operation | None) -> None:
        if caller is not None and self.operation is not None:
            self.operation.serve(caller)

    def has_failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class SingleFlight(Generic[T]):
    """Runs one load a key at a time. Callers that arrived before it started share its result; later ones get the next.

    A later caller must not share it: the load may have read the table before the change that this caller knows of. Each
    load is a task, so a cancelled caller does not cancel it for the others.
    """

    def __init__(self) -> None:
        self._loads_started = 0
        self._callers: dict[Hashable, int] = {}
        self._queued: dict[Hashable, _Load[T]] = {}
        self._started: dict[Hashable, _Load[T]] = {}

    def register(self, key: Hashable) -> int:
        """Register a caller that may want a load, and return its ticket for ``load``; ``unregister`` must follow."""
        self._callers[key] = self._callers.get(key, 0) + 1
        return self._loads_started

    def unregister(self, key: Hashable) -> None:
        """Unregister a caller; the last one of a key drops the kept result."""
        self._callers[key] -= 1
        if not self._callers[key]:
            del self._callers[key]
            load = self._started.get(key)
            if load is not None and load.task.done():
                del self._started[key]

    async def load(self, key: Hashable, work: Work[T], *, ticket: int, caller: Operation | None = None) -> T:
        """Load a value, or share a load that started after the caller registered. Each caller gets a copy.

        Args:
            key: the name of the value.
            work: loads the value.
            ticket: the result of ``register``.
            caller: the operation that wants it, if it is not the one of the current task.
        """
        load, caller = self._started.get(key), caller or current_operation()
        if load is None or load.number <= ticket or load.has_failed():
            load = self._queued.get(key)
        if load is None:
            # Both before its task, which an eager event loop runs at once, up to its first statement.
            operation = None if caller is None else Operation()
            load = self._queued[key] = _Load(operation)
            load.serve(caller)
            with no_call(), working_for(operation):  # the load serves other callers as well
                load.task = start(self._run(key, work))
            load.task.add_done_callback(partial(self._forget, key, load))
        else:
            load.serve(caller)
        result = await asyncio.shield(load.task)
        # A lone caller gets the object that was loaded: a copy of a large state takes long.
        return deepcopy(result) if self._callers[key] > 1 else result

    async def _run(self, key: Hashable, work: Work[T]) -> T:
        # One load of a key at a time: callers that arrive while it runs share the next one, however many they are.
        earlier = self._started.get(key)
        running = None if earlier is None or earlier.task.done() else earlier.task
        if running is not None:
            await asyncio.wait([running])
        load = self._started[key] = self._queued.pop(key)
        load.number = self._loads_started = self._loads_started + 1
        return await work(waited=running is not None)

    def _forget(self, key: Hashable, load: _Load[T], _task: asyncio.Task[T]) -> None:
        """Forget a load that no registered caller can share, and one that was cancelled before it started."""
        if self._queued.get(key) is load:
            del self._queued[key]
        if self._started.get(key) is load and key not in self._callers:
            del self._started[key]
