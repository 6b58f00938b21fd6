"""One transaction for the writes of several callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from agent_persistence.concurrency.batching import ALONE, IN_DOUBT, LATER, Alone, Batch
from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import outcome_unknown
from agent_persistence.database.connections import PinnedConnection, PinnedConnections
from agent_persistence.database.driver_errors import DRIVER_ERRORS, Verdict, classify, translated
from agent_persistence.errors import (
    CommitUnknownError,
    ConflictError,
    NotFoundError,
    PersistenceError,
    UnavailableError,
)
from agent_persistence.operations.commit import Commit
from agent_persistence.records import Touched
from agent_persistence.sessions.commit_evidence import CommitEvidence

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Written(Generic[ResultT]):
    """The result of a write, before its COMMIT.

    Attributes:
        results: one for each item, in their order; ``ALONE`` for an item that could not be written with the others.
        evidence: shows afterwards whether the transaction was committed; ``None`` if there is nothing to commit.
        touched: the latest states that the transaction leaves.
    """

    results: Sequence[ResultT | Alone]
    evidence: CommitEvidence | None
    touched: Touched = field(default_factory=dict)


Write = Callable[[PinnedConnection, list[ItemT]], Awaitable[Written[ResultT]]]
Execute = Callable[[list[ItemT], Write[ItemT, ResultT]], Awaitable[Sequence[ResultT | Alone]]]

_NO_REPLY: Final = "the connection closed before the reply; with the same id it can be sent again"


class _ReplyLostError(UnavailableError):
    """The connection was lost during a statement in autocommit, which may have been committed."""


@dataclass(slots=True)
class _GroupWrite(Generic[ItemT, ResultT]):
    """A batch over all of its attempts.

    Attributes:
        alone: what items without a result get: ``IN_DOUBT`` once the reply to an attempt was lost.
    """

    batch: Batch[ItemT]
    write: Write[ItemT, ResultT]
    execute: Execute[ItemT, ResultT]
    alone: Alone = ALONE

    async def attempt(self) -> Sequence[ResultT | Alone]:
        """Write the items whose callers still wait."""
        # Asked at each attempt: a caller that was cancelled may have asked for something else since, which a late write
        # would undo.
        wanted = self.batch.wanted()
        results = self.all_alone()
        if not wanted:
            return results
        try:
            done = await self.execute(self.batch.chosen(wanted), self.write)
        except _ReplyLostError:
            self.alone = IN_DOUBT
            raise
        for index, result in zip(wanted, done, strict=True):
            # In doubt, an item must not run as if it had not been sent.
            results[index] = self.alone if result is ALONE or (result is LATER and self.alone is IN_DOUBT) else result
        return results

    def all_alone(self) -> list[ResultT | Alone]:
        """Return the result that lets each item run alone."""
        return [self.alone] * len(self.batch.items)


@contextmanager
def doubtful(reason: Alone) -> Iterator[None]:
    """Let the error of an item that is written alone say that it may be written: its batch may have done so.

    A later failure does not prove that it did not.

    Raises:
        CommitUnknownError: the block failed, and the reply to the batch was lost.
    """
    try:
        yield
    except (NotFoundError, ConflictError):
        raise  # the database has answered
    except PersistenceError as error:
        if reason is IN_DOUBT:
            raise CommitUnknownError(_NO_REPLY) from error
        raise


class GroupCommit:
    """Commits writes of several callers in one transaction, following the cache protocol; all of them or none."""

    def __init__(
        self,
        connections: PinnedConnections,
        retries: Retries,
        commit: Commit,
    ) -> None:
        self._connections = connections
        self._retries = retries
        self._commit = commit

    async def run(
        self,
        batch: Batch[ItemT],
        *,
        write: Write[ItemT, ResultT],
        is_repeatable: Callable[[ItemT], bool] | None = None,
    ) -> Sequence[ResultT | Alone]:
        """Write the items; retry transient errors for callers that still wait.

        After an error that one item may have caused, each is written alone, where the error meets its own caller.

        Args:
            is_repeatable: whether an item does no harm if it is written twice, however late. If that holds for all
                of them, the statement runs in autocommit, which saves two round trips, and a lost reply needs no
                settlement.

        Raises:
            UnavailableError: no item was written.
            CommitUnknownError: it is unknown whether the items were written.
        """
        commits_alone = is_repeatable is not None and all(map(is_repeatable, batch.items))
        # One round trip instead of three (BEGIN, the statement, COMMIT). States never go this way: a version that was
        # saved twice would be two versions.
        execute: Execute[ItemT, ResultT] = self._in_statement if commits_alone else self._in_transaction
        group = _GroupWrite(batch, write, execute)
        try:
            return await self._retries.run(group.attempt)
        except UnavailableError as error:
            if group.alone is IN_DOUBT:
                raise CommitUnknownError(_NO_REPLY) from error
            raise
        except CommitUnknownError:
            raise
        except PersistenceError:
            return group.all_alone()

    async def _in_statement(self, items: list[ItemT], write: Write[ItemT, ResultT]) -> Sequence[ResultT | Alone]:
        async with self._connections.use() as connection:
            try:
                with outcome_unknown():
                    return (await write(connection, items)).results
            except UnavailableError as error:
                if error.__cause__ is None or classify(error.__cause__, committing=True) is not Verdict.AMBIGUOUS:
                    raise
                raise _ReplyLostError("the connection closed before the reply; try again") from error.__cause__

    async def _in_transaction(self, items: list[ItemT], write: Write[ItemT, ResultT]) -> Sequence[ResultT | Alone]:
        async with self._connections.use() as connection:
            try:
                await connection.begin()
                written = await write(connection, items)
                # Nothing to keep, or rows that no caller may get: each item then runs alone.
                if written.evidence is None:
                    with translated():
                        await connection.rollback()
                else:
                    await self._commit.pinned(connection, written.touched, written.evidence)
            except BaseException:
                with suppress(*DRIVER_ERRORS, PersistenceError):
                    await connection.rollback()
                raise
            return written.results
