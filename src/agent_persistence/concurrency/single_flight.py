"""Simultaneous callers who want the same thing, served by one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from agent_persistence.concurrency.shielding import start

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T] = field(init=False)
    number: int = 0

    def has_failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class SingleFlight(Generic[T]):
    """Runs one piece of work a key at a time; whoever came before it started shares its result, however late they ask.

    Who came later waits for the next run: what this one reads may be older than what the latecomer has been told.
    A flight is a task of its own, so a caller that is cancelled takes nobody down.
    """

    def __init__(self) -> None:
        self._departures = 0
        self._visitors: dict[Hashable, int] = {}
        self._boarding: dict[Hashable, _Flight[T]] = {}
        self._departed: dict[Hashable, _Flight[T]] = {}

    def come(self, key: Hashable) -> int:
        """Announce a caller who may want to fly, and who says so when it leaves; return what ``fly`` asks for."""
        self._visitors[key] = self._visitors.get(key, 0) + 1
        return self._departures

    def leave(self, key: Hashable) -> None:
        """Say that a caller who came is done. With the last one goes what was kept for them."""
        self._visitors[key] -= 1
        if not self._visitors[key]:
            del self._visitors[key]
            flight = self._departed.get(key)
            if flight is not None and flight.task.done():
                del self._departed[key]

    async def fly(self, key: Hashable, work: Callable[[bool], Coroutine[Any, Any, T]], *, came: int) -> T:
        """Run the work, or share a run; nobody shares the very objects with anybody.

        Args:
            work: is told whether it has waited for an earlier run.
            came: what ``come`` returned.
        """
        flight = self._departed.get(key)
        if flight is None or flight.number <= came or flight.has_failed():
            flight = self._boarding.get(key)
        if flight is None:
            flight = self._boarding[key] = _Flight()  # before its task, which an eager loop runs at once
            flight.task = start(self._depart(key, work))
            flight.task.add_done_callback(lambda _: self._clear(key, flight))
        result = await asyncio.shield(flight.task)
        return deepcopy(result) if self._visitors[key] > 1 else result

    async def _depart(self, key: Hashable, work: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
        earlier = self._departed.get(key)
        under_way = None if earlier is None or earlier.task.done() else earlier.task
        if under_way is not None:
            await asyncio.wait([under_way])
        flight = self._departed[key] = self._boarding.pop(key)
        flight.number = self._departures = self._departures + 1
        return await work(under_way is not None)

    def _clear(self, key: Hashable, flight: _Flight[T]) -> None:
        """Forget a flight that has ended when nobody is left to share it, or that was cancelled before it departed."""
        if self._boarding.get(key) is flight:
            del self._boarding[key]
        if self._departed.get(key) is flight and key not in self._visitors:
            del self._departed[key]
