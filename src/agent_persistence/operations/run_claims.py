"""Claims of threads by runs: one run at a time in each thread, across processes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, Generic

from agent_persistence.concurrency.periodic import PeriodicTasks
from agent_persistence.concurrency.shielding import to_the_end
from agent_persistence.errors import PersistenceError, RunInProgressError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import AnyUser
from agent_persistence.repositories import ThreadRepository
from agent_persistence.repositories.maintenance.jobs import Job
from agent_persistence.sessions.scope import Scope

logger: Final = logging.getLogger("agent_persistence")

HELD_FOR: Final = timedelta(seconds=30)
"""How long the claim of a process that died keeps other runs out."""
_RENEWED_EVERY: Final = HELD_FOR.total_seconds() / 3  # two renewals may fail before another run can begin
_STOP_SECONDS: Final = 1.0


class RunClaims(Generic[IdT, UserIdT]):
    """Claims threads for runs.

    A claim is a row with an end time, which the process renews. A lock of the database lost: it would hold a connection
    for as long as the model talks, and 15 conversations would use up the pool.
    """

    def __init__(self, transactions: Transactions[IdT, UserIdT]) -> None:
        self._transactions = transactions

    @asynccontextmanager
    async def claim(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> AsyncIterator[None]:
        """Hold a claim for a block; see ``Persistence.claim_run``."""
        job = Job(f"run/{thread_id}", uuid.uuid4().hex, held_for=HELD_FOR)
        renewals = PeriodicTasks()
        try:
            await self._transactions.write_in_scope(partial(_take, job, thread_id), user_id=user_id)
            renewals.every(_RENEWED_EVERY, partial(self._renew, job, thread_id), "renewal of a run's claim")
            yield
        finally:
            # To the end, also when the client of a stream went away: else the next run had to wait until it expires.
            # Also if the claim failed: when the caller is cancelled, the row may have been written. Only own rows go.
            await to_the_end(self._release(job, renewals))

    async def _renew(self, job: Job, thread_id: IdT) -> None:
        if not await self._transactions.maintain(job.keep):
            # The run goes on: its answer becomes a branch. Ending it would lose what the model has said already.
            logger.warning("another run has begun in thread %r: this one could not renew its claim", thread_id)

    async def _release(self, job: Job, renewals: PeriodicTasks) -> None:
        await renewals.stop(_STOP_SECONDS)
        try:
            await self._transactions.maintain(job.remove)
        except PersistenceError as error:
            # Not raised: the run is done, and its result counts.
            logger.warning("a run's claim could not be ended and expires by itself: %s", type(error).__name__)


async def _take(job: Job, thread_id: IdT, scope: Scope[Any, Any]) -> None:
    await ThreadRepository(scope).require(thread_id)  # first: whether another owner's thread has a run is private
    if not await job.take(scope):
        raise RunInProgressError(thread_id)
