"""What a checkpointer knows of threads: which were there, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from agent_persistence.integrations.langgraph.addresses import Address

_THREADS_REMEMBERED: Final = 10_000


class KnownThreads:
    """Which threads were there when they were last looked for, so that a late write makes no deleted one again."""

    def __init__(self) -> None:
        self._were_there: OrderedDict[tuple[Any, Any], bool] = OrderedDict()

    def note(self, address: Address, *, there: bool) -> None:
        """Remember whether a thread was there."""
        key = address.user_id, address.thread_id
        self._were_there[key] = there
        self._were_there.move_to_end(key)
        if len(self._were_there) > _THREADS_REMEMBERED:
            self._were_there.popitem(last=False)

    def may_start(self, address: Address, *, otherwise: bool) -> bool:
        """Whether a thread that is not there may be made: it was not there before, or nothing is known of it."""
        there = self._were_there.get((address.user_id, address.thread_id))
        return otherwise if there is None else not there


class Turns:
    """Saves to one thread go one after the other, in the order in which they were asked for.

    The database would let them wait for each other as well, each with a connection; and a checkpoint finds stored what
    tasks wrote before it.
    """

    def __init__(self) -> None:
        self._locks: dict[tuple[Any, Any], asyncio.Lock] = {}
        self._users: Counter[tuple[Any, Any]] = Counter()

    @asynccontextmanager
    async def turn(self, address: Address) -> AsyncIterator[None]:
        """Wait for those that came before; others wait until the block ends."""
        key = address.user_id, address.thread_id
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
