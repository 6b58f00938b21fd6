"""The purge of what is old in all threads: on request, and in the background by one process at a time."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import ANY_USER, AnyUser
from agent_persistence.repositories.checkpoints.retention import count_checkpoints, purge_checkpoints
from agent_persistence.repositories.items.repository import sweep_expired
from agent_persistence.repositories.maintenance.clock import moment_of
from agent_persistence.repositories.maintenance.jobs import PURGE, Job
from agent_persistence.repositories.states.retention import MAX_KEPT, Purged, count_states, purge_states
from agent_persistence.repositories.states.streams import sweep_abandoned
from agent_persistence.validation import check_age, check_limit

_Step = Callable[..., Awaitable[Purged]]

_REST: Final = 0.5  # of the interval must pass between two purges, however many processes share the database


class Purging:
    """Purges old states, old checkpoints of graphs, and expired items.

    Args:
        transactions: runs the batches.
        keep_last: how many states of a thread, and checkpoints of a namespace of its graph, the background purge keeps;
            0 keeps all.
        interval: the time between two background purges, in seconds.
    """

    def __init__(self, transactions: Transactions[Any, Any], *, keep_last: int, interval: float) -> None:
        self._transactions = transactions
        self._keep_last = keep_last
        self._rest = timedelta(seconds=interval * _REST)
        self._job = Job(PURGE, uuid.uuid4().hex)

    async def purge(
        self, *, keep_last: int | None, older_than: datetime | timedelta | None, user_id: Any | AnyUser
    ) -> int:
        """Delete old states and checkpoints, of every thread or of one owner's; return their number.

        Raises:
            InvalidInputError: see ``Persistence.purge``.
        """
        limits = await self._limits(keep_last, older_than)
        return sum([deleted async for deleted in self._batches(*limits, user_id)])

    async def count(
        self, *, keep_last: int | None, older_than: datetime | timedelta | None, user_id: Any | AnyUser
    ) -> int:
        """Count what ``purge`` would delete, including threads that it would skip because of a writer.

        Raises:
            InvalidInputError: see ``Persistence.purge``.
        """
        limits, steps = await self._limits(keep_last, older_than), (count_states, count_checkpoints)
        return sum([count async for count in self._walk(steps, *limits, user_id)])

    async def purge_in_turn(self) -> int:
        """Purge in the background, unless another process does so or did recently; return the number deleted."""
        maintain, removed = self._transactions.maintain, 0
        if not await maintain(partial(self._job.take, rest=self._rest)):
            return 0
        async for deleted in self._batches(self._keep_last, None, ANY_USER):
            removed += deleted
            if not await maintain(self._job.keep):
                return removed  # it took so long that another process has taken the job
        await maintain(partial(self._job.end, removed=removed))
        return removed

    async def _limits(
        self, keep_last: int | None, older_than: datetime | timedelta | None
    ) -> tuple[int, datetime | None]:
        if keep_last is None:
            keep_last = self._keep_last if older_than is None else 1
        age = None if older_than is None else check_age(older_than, "older_than")
        kept = check_limit(keep_last, "keep_last", MAX_KEPT)
        # Once for all batches: what becomes old during a long purge belongs to the next one.
        return kept, await self._transactions.maintain(partial(moment_of, age)) if isinstance(age, timedelta) else age

    async def _batches(self, keep_last: int, older_than: datetime | None, user_id: Any | AnyUser) -> AsyncIterator[int]:
        counts = self._transactions.sessions.telemetry.counts
        # Yields after each transaction, so that the background purge renews its job between any two.
        if user_id is ANY_USER:
            while await self._transactions.maintain(sweep_abandoned):
                yield 0
        while await self._transactions.maintain(sweep_expired, user_id=user_id):
            yield 0
        async for deleted in self._walk((purge_states, purge_checkpoints), keep_last, older_than, user_id):
            counts.purged += deleted
            yield deleted
        counts.purge_ended_at = time.time()  # compared with the clock of who watches, not with our own

    async def _walk(
        self, steps: Iterable[_Step], keep_last: int, older_than: datetime | None, user_id: Any | AnyUser
    ) -> AsyncIterator[int]:
        for step in steps:
            last, more = None, keep_last > 0
            while more:
                batch = partial(step, keep_last=keep_last, older_than=older_than, after=last)
                count, last, more = await self._transactions.maintain(batch, user_id=user_id)
                yield count
