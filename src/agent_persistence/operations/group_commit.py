"""One transaction for the writes of several callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import insert

from agent_persistence.cache import StateCache
from agent_persistence.concurrency.batching import ALONE, IN_DOUBT, Alone, Batch
from agent_persistence.concurrency.retries import Retries
from agent_persistence.database.connections import ConnectionPins, PinnedConnection
from agent_persistence.database.driver_errors import DRIVER_ERRORS, Verdict, classify, translate, translated
from agent_persistence.errors import CommitUnknownError, PersistenceError, UnavailableError
from agent_persistence.models import Models
from agent_persistence.records import Touched
from agent_persistence.sessions.commit_evidence import CommitEvidence

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Written(Generic[ResultT]):
    """What a transaction has written, before its COMMIT.

    Attributes:
        results: one for each item, in their order; ``ALONE`` where its rows could not be written with the others'.
        proof: what shows that it was committed; ``None`` if there is nothing to commit.
        touched: the latest states that it leaves behind.
    """

    results: Sequence[ResultT | Alone]
    proof: CommitEvidence | None
    touched: Touched = field(default_factory=dict)


NO_REPLY: Final = "the connection closed before the reply; a message with an id of yours can be sent again"
"""Why nobody knows whether a message was added."""


class _ReplyLostError(UnavailableError):
    """A statement that commits by itself may have done so before its connection was lost."""


class GroupCommit:
    """Commits what several callers write at once, with the cache's protocol around it; all of it or nothing.

    Args:
        settle: says what became of a transaction whose COMMIT got no reply; ``None`` if nobody knows.
    """

    def __init__(
        self,
        leases: ConnectionPins,
        models: Models[Any, Any],
        cache: StateCache | None,
        retries: Retries,
        settle: Callable[[CommitEvidence], Awaitable[bool | None]],
    ) -> None:
        self._leases = leases
        self._models = models
        self._cache = cache
        self._retries = retries
        self._settle = settle

    async def run(
        self,
        batch: Batch[ItemT],
        write: Callable[[PinnedConnection, list[ItemT]], Awaitable[Written[ResultT]]],
        *,
        is_repeatable: bool = False,
    ) -> Sequence[ResultT | Alone]:
        """Write items, again while that may help and for whom it is still wanted.

        An error that one item may have caused makes each be written alone, where it finds the one that did.

        Args:
            is_repeatable: whether it is one statement that does no harm when it is run once more, however late: then it
                commits by itself, and nothing need be asked when its reply is lost.

        Raises:
            UnavailableError: nobody's item could be written.
            CommitUnknownError: nobody knows whether they were.
        """
        attempt_once = self._in_statement if is_repeatable else self._in_transaction
        alone: Alone = ALONE

        async def attempt() -> Sequence[ResultT | Alone]:
            nonlocal alone
            wanted = batch.wanted()
            results: list[ResultT | Alone] = [alone] * len(batch.items)
            if not wanted:
                return results
            try:
                done = await attempt_once(batch.chosen(wanted), write)
            except _ReplyLostError:
                alone = IN_DOUBT
                raise
            for place, result in zip(wanted, done, strict=True):
                results[place] = alone if result is ALONE else result
            return results

        try:
            return await self._retries.run(attempt)
        except UnavailableError as error:
            if alone is IN_DOUBT:
                raise CommitUnknownError(NO_REPLY) from error
            raise
        except CommitUnknownError:
            raise
        except PersistenceError:
            return [alone] * len(batch.items)

    async def _in_statement(
        self, items: list[ItemT], write: Callable[[PinnedConnection, list[ItemT]], Awaitable[Written[ResultT]]]
    ) -> Sequence[ResultT | Alone]:
        async with self._leases.lend() as lease:
            try:
                return (await write(lease, items)).results
            except UnavailableError as error:
                if error.__cause__ is None or classify(error.__cause__, committing=True) is not Verdict.AMBIGUOUS:
                    raise
                raise _ReplyLostError("the connection closed before the reply; try again") from error.__cause__

    async def _in_transaction(
        self, items: list[ItemT], write: Callable[[PinnedConnection, list[ItemT]], Awaitable[Written[ResultT]]]
    ) -> Sequence[ResultT | Alone]:
        lease = await self._leases.take()
        try:
            await lease.begin()
            written = await write(lease, items)
            if written.proof is None:
                with translated():
                    await lease.roll_back()
            else:
                await self._commit(lease, written, written.proof)
            return written.results
        except BaseException:
            with suppress(*DRIVER_ERRORS, PersistenceError):
                await lease.roll_back()
            raise
        finally:
            self._leases.give_back(lease)

    async def _commit(self, lease: PinnedConnection, written: Written[Any], proof: CommitEvidence) -> None:
        cache = self._cache if written.touched else None
        if cache is None:
            await self._end(lease, proof)
            return
        quarantine = cache.prepare(written.touched)
        try:
            untold = await cache.before_commit(quarantine)
        except BaseException:
            await cache.after_rollback(quarantine)
            raise
        if untold:
            await lease.execute(insert(self._models.outbox), [state._asdict() for state in untold])
        await self._end(lease, proof)  # from here on only a commit tells that it was one; else the quarantine stays
        await cache.after_commit(quarantine)

    async def _end(self, lease: PinnedConnection, proof: CommitEvidence) -> None:
        """Commit, or raise."""
        try:
            await lease.commit()
        except DRIVER_ERRORS as error:
            failure = translate(error, committing=True)
            await lease.drop()
            committed = await self._settle(proof) if isinstance(failure, CommitUnknownError) else None
            if committed is None:
                raise failure from error
            if not committed:
                raise UnavailableError("the connection closed before COMMIT took effect; try again") from error
