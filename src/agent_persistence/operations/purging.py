"""Old states of all threads: deleted when asked, and by one store at a time that does so by itself."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from agent_persistence.operations.transactions import Transactions
from agent_persistence.repositories.maintenance.jobs import PURGE, Job
from agent_persistence.repositories.states.retention import purge_states
from agent_persistence.repositories.states.streams import sweep_abandoned

_REST: Final = 0.5  # of the interval, however many stores come by


class Purging:
    """Purges the database of a store.

    Args:
        keep_last: what the sweeper leaves of a thread's states; 0: all.
        interval: how often the sweeper comes, in seconds.
    """

    def __init__(self, transactions: Transactions[Any, Any], *, keep_last: int, interval: float) -> None:
        self._transactions = transactions
        self._keep_last = keep_last
        self._rest = timedelta(seconds=interval * _REST)
        self._job = Job(PURGE, uuid.uuid4().hex)

    async def purge(self, *, keep_last: int, older_than: datetime | None) -> int:
        """Delete old states of every thread; say how many."""
        return sum([deleted async for deleted in self._batches(keep_last, older_than)])

    async def sweep(self) -> int:
        """Purge, unless another store is at it, or was a moment ago; say how many states went."""
        maintain, removed = self._transactions.maintain, 0
        if not await maintain(partial(self._job.take, rest=self._rest)):
            return 0
        async for deleted in self._batches(self._keep_last, None):
            removed += deleted
            if not await maintain(self._job.keep):
                return removed  # it took so long that another store has gone on with it
        await maintain(partial(self._job.end, removed=removed))
        return removed

    async def _batches(self, keep_last: int, older_than: datetime | None) -> AsyncIterator[int]:
        while await self._transactions.maintain(sweep_abandoned):
            yield 0
        last, more = None, keep_last > 0
        while more:
            batch = partial(purge_states, keep_last=keep_last, older_than=older_than, after=last)
            deleted, last, more = await self._transactions.maintain(batch)
            yield deleted
