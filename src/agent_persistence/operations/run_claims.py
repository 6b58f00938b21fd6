"""Claims of threads by runs: one run at a time in each thread, across processes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Generic, Self

from agent_persistence.concurrency.periodic import PeriodicTasks
from agent_persistence.concurrency.shielding import start
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


class RunClaim(Generic[IdT, UserIdT]):
    """A claim of a thread for one run of an agent, for an ``async with`` block; see ``Persistence.claim_run``.

    A claim is a row with an end time, which the process renews. A lock of the database lost: it would hold a connection
    for as long as the model talks, and 15 conversations would use up the pool.
    """

    def __init__(
        self,
        transactions: Transactions[IdT, UserIdT],
        thread_id: IdT,
        user_id: UserIdT | AnyUser,
        held: set[RunClaim[IdT, UserIdT]],
    ) -> None:
        self._transactions = transactions
        self._thread_id = thread_id
        self._user_id = user_id
        self._held = held
        self._job = Job(f"run/{thread_id}", uuid.uuid4().hex, held_for=HELD_FOR)
        self._renewals = PeriodicTasks()
        self._releasing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._transactions.write_in_scope(self._take, user_id=self._user_id)
        except BaseException as error:
            # Not taken, unless the caller was cancelled or the reply to COMMIT was lost. Where the pool is exhausted, a
            # release would only wait for a connection once more.
            if not isinstance(error, PersistenceError) or error.committed != "no":
                await self.release()
            raise
        self._held.add(self)
        self._renewals.every(_RENEWED_EVERY, self._renew, "renewal of a run's claim")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    async def release(self) -> None:
        """End the claim before the block ends: before a stream's last event, whose reader may ask again at once."""
        if self._releasing is None:
            # To the end although the caller is cancelled, as the client of a stream that goes away does: else the next
            # run would have to wait until the claim expires.
            self._releasing = start(self._release())
        await asyncio.shield(self._releasing)

    async def _take(self, scope: Scope[Any, Any]) -> None:
        # First: whether another owner's thread has a run is private.
        await ThreadRepository(scope).require(self._thread_id)
        if not await self._job.take(scope):
            raise RunInProgressError(self._thread_id)

    async def _renew(self) -> None:
        if not await self._transactions.maintain(self._job.keep):
            # The run goes on: its answer becomes a branch. Ending it would lose what the model has said already.
            logger.warning(
                "another run has begun in a thread: the one before could not renew its claim",
                extra={"event_name": "run.overtaken", **self._about()},
            )

    async def _release(self) -> None:
        await self._renewals.stop(_STOP_SECONDS)
        try:
            await self._transactions.maintain(self._job.remove)
        except PersistenceError as error:
            # Not raised: the run is done, and its result counts.
            logger.warning(
                "a run's claim could not be ended and expires by itself: %s",
                type(error).__name__,
                extra={"event_name": "run.not_released", "error_type": type(error).__name__, **self._about()},
            )
        finally:
            self._held.discard(self)

    def _about(self) -> dict[str, str | None]:
        identities = self._transactions.sessions.telemetry.identities
        return {"thread_id": identities.thread(self._thread_id), "owner": identities.owner(self._user_id)}


class RunClaims(Generic[IdT, UserIdT]):
    """The claims that runs of this store hold."""

    def __init__(self, transactions: Transactions[IdT, UserIdT]) -> None:
        self._transactions = transactions
        self._held: set[RunClaim[IdT, UserIdT]] = set()

    def claim(self, thread_id: IdT, user_id: UserIdT | AnyUser) -> RunClaim[IdT, UserIdT]:
        """Return a claim, which is taken when its block begins."""
        return RunClaim(self._transactions, thread_id, user_id, self._held)

    async def release(self, timeout_seconds: float) -> None:
        """End all claims, those whose end has begun included, or stop waiting for it when the timeout has passed.

        A server that shuts down cancels its requests and closes the store at once: the claims' own ends would come too
        late, and each user would wait until the claim expires before they can ask again.
        """
        if releases := [asyncio.ensure_future(claim.release()) for claim in self._held]:
            await asyncio.wait(releases, timeout=timeout_seconds)
