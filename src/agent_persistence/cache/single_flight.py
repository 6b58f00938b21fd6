"""Simultaneous callers who want the same thing, served by one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from agent_persistence.shielding import start

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T] = field(init=False)
    number: int = 0
    passengers: int = 0


class SingleFlight(Generic[T]):
    """Runs one piece of work a key at a time; whoever came before it started shares its result.

    Who came later waits for the next run: what this one reads may be older than what the latecomer has been told.
    A flight is a task of its own, so a caller that is cancelled takes nobody down.

    Attributes:
        departures: how many runs have started; what a caller notes when it comes.
    """

    def __init__(self) -> None:
        self.departures = 0
        self._boarding: dict[Hashable, _Flight[T]] = {}
        self._flying: dict[Hashable, _Flight[T]] = {}

    async def fly(self, key: Hashable, work: Callable[[bool], Coroutine[Any, Any, T]], *, came: int) -> T:
        """Run the work, or share a run; nobody shares the very objects with anybody.

        Args:
            work: is told whether it has waited for an earlier run.
            came: ``departures`` when the caller came.
        """
        flight = self._flying.get(key)
        if flight is None or flight.number <= came:
            flight = self._boarding.get(key)
        if flight is None:
            flight = self._boarding[key] = _Flight()  # before its task, which an eager loop runs at once
            flight.task = start(self._depart(key, work))
            flight.task.add_done_callback(lambda _: self._clear(key, flight))
        flight.passengers += 1
        result = await asyncio.shield(flight.task)
        return deepcopy(result) if flight.passengers > 1 else result

    async def _depart(self, key: Hashable, work: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
        earlier = self._flying.get(key)
        if earlier is not None:
            await asyncio.wait([earlier.task])
        flight = self._flying[key] = self._boarding.pop(key)
        flight.number = self.departures = self.departures + 1
        return await work(earlier is not None)

    def _clear(self, key: Hashable, flight: _Flight[T]) -> None:
        """Forget a flight that has ended, or that was cancelled before it departed."""
        for flights in (self._boarding, self._flying):
            if flights.get(key) is flight:
                del flights[key]
