"""Simultaneous callers who want the same thing, served by one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agent_persistence.shielding import start

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    passengers: int = 0


class SingleFlight(Generic[T]):
    """Runs one piece of work a key at a time; whoever comes before it has started shares its result.

    Who comes later waits for the next run: what this one reads may be older than what the latecomer has been told.
    A flight is a task of its own, so a caller that is cancelled takes nobody down.
    """

    def __init__(self) -> None:
        self._boarding: dict[Hashable, _Flight[T]] = {}
        self._flying: dict[Hashable, _Flight[T]] = {}

    async def fly(self, key: Hashable, work: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
        """Run the work, or share a run that is about to start; nobody shares the very objects with anybody.

        Args:
            work: is told whether it has waited for an earlier run.
        """
        flight = self._boarding.get(key)
        if flight is None:
            flight = self._boarding[key] = _Flight(start(self._depart(key, work)))
        flight.passengers += 1
        result = await asyncio.shield(flight.task)
        return deepcopy(result) if flight.passengers > 1 else result

    async def _depart(self, key: Hashable, work: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
        earlier = self._flying.get(key)
        if earlier is not None:
            await asyncio.wait([earlier.task])
        flight = self._flying[key] = self._boarding.pop(key)
        try:
            return await work(earlier is not None)
        finally:
            if self._flying[key] is flight:
                del self._flying[key]
