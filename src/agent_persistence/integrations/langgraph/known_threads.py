"""A checkpointer's memory of threads: those that were found, and those that are being saved to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from agent_persistence.concurrency.time_limit import call_made_at, waits_until
from agent_persistence.integrations.langgraph.addresses import ThreadKey

_THREADS_REMEMBERED: Final = 10_000


class KnownThreads:
    """Remembers whether threads existed, so that a late write does not create a deleted thread again."""

    def __init__(self) -> None:
        self._existed: OrderedDict[ThreadKey, bool] = OrderedDict()

    def note(self, key: ThreadKey, *, exists: bool) -> None:
        """Remember whether a thread exists; of 10,000 threads, the least recently noted is forgotten."""
        self._existed[key] = exists
        self._existed.move_to_end(key)
        if len(self._existed) > _THREADS_REMEMBERED:
            self._existed.popitem(last=False)

    def may_start(self, key: ThreadKey, *, otherwise: bool) -> bool:
        """Return whether a save may create the thread: not if it existed before; ``otherwise`` if that is unknown."""
        existed = self._existed.get(key)
        return otherwise if existed is None else not existed


class Turns:
    """Serialises the saves to each thread and its deletion, in the order of the calls.

    PostgreSQL would serialise them too, but each waiting save would hold a connection. In order, a checkpoint finds the
    values that tasks wrote before it, and refers to them instead of storing them again.

    Args:
        call_seconds: the longest time that a call may take, the wait for its turn included.
    """

    def __init__(self, call_seconds: float) -> None:
        self._call_seconds = call_seconds
        self._locks: dict[ThreadKey, asyncio.Lock] = {}
        self._users: Counter[ThreadKey] = Counter()

    @asynccontextmanager
    async def turn(self, key: ThreadKey) -> AsyncIterator[None]:
        """Wait for the saves to the thread that were called before; later ones wait until the block ends.

        Raises:
            UnavailableError: the others took as long as a call may take.
        """
        made_at = time.monotonic()
        lock = self._locks.setdefault(key, asyncio.Lock())  # asyncio's locks are first in, first out
        self._users[key] += 1
        try:
            async with waits_until(made_at + self._call_seconds):
                await lock.acquire()
            try:
                with call_made_at(made_at):
                    yield
            finally:
                lock.release()
        finally:
            # Counted, because a lock that waiters still hold must not be replaced by the next caller's.
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
