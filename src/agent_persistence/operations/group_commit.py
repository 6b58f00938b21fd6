"""One transaction for the writes of several callers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

from agent_persistence.concurrency.batching import ALONE, IN_DOUBT, LATER, Alone, Batch
from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import OutcomeUnknown
from agent_persistence.database.connections import PinnedConnections
from agent_persistence.database.driver_errors import DRIVER_ERRORS, Verdict, classify, translated
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.database.server_process import ServerProcess, has_ended, process_behind
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
from agent_persistence.telemetry.telemetry import Telemetry

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Written(Generic[ResultT]):
    """The result of a write, before its COMMIT.

    Attributes:
        results: one for each item, in their order; ``ALONE`` for an item that could not be written with the others.
        evidence: makes what shows afterwards whether the transaction was committed; ``None`` if there is nothing to
            commit. Not called for a statement in autocommit, which needs none.
        touched: the latest states that the transaction leaves, for the cache.
    """

    results: Sequence[ResultT | Alone]
    evidence: Callable[[], CommitEvidence] | None
    touched: Touched = field(default_factory=dict)


Results = Sequence[ResultT | Exception | Alone]
"""One for each item, in their order."""
Write = Callable[[PinnedConnection, list[ItemT]], Awaitable[Written[ResultT]]]
Find = Callable[[PinnedConnection, list[ItemT], float], Awaitable[Results[ResultT] | None]]

_NOT_ASKED: Final = "the connection closed before the reply, and the outcome is unknown; read before you write again"
_NO_REPLY: Final = "the connection closed before the reply; with the same id it can be sent again"


class _ReplyLostError(UnavailableError):
    """The connection was lost during a statement in autocommit, which may have been committed."""


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
        telemetry: Telemetry | None = None,
    ) -> None:
        self._connections = connections
        self._telemetry = telemetry or Telemetry()
        self._retries = retries
        self._commit = commit

    async def run(
        self,
        batch: Batch[ItemT],
        *,
        write: Write[ItemT, ResultT],
        is_repeatable: Callable[[ItemT], bool] | None = None,
        find: Find[ItemT, ResultT] | None = None,
    ) -> Results[ResultT]:
        """Write the items; retry transient errors for callers that still wait.

        After an error that one item may have caused, each is written alone, where the error meets its own caller.

        Args:
            is_repeatable: whether an item does no harm if it is written twice, however late. If that holds for all
                of them, the statement runs in autocommit, which saves two round trips, and a lost reply needs no
                settlement.
            find: returns the results of a write whose reply was lost, given how many seconds ago it was sent, and an
                error for an item whose outcome cannot be found; ``None`` if nothing was written. With it the write is
                one statement in autocommit too.

        Raises:
            UnavailableError: no item was written.
            CommitUnknownError: it is unknown whether the items were written.
        """
        repeatable = is_repeatable is not None and all(map(is_repeatable, batch.items))
        alone = ALONE

        async def attempt() -> Results[ResultT]:
            nonlocal alone
            # Asked at each attempt: a caller that was cancelled may have asked for something else since, which a late
            # write would undo.
            wanted = batch.wanted()
            results: list[ResultT | Exception | Alone] = [alone] * len(batch.items)
            if not wanted:
                return results
            try:
                done = await self._execute([batch.items[index] for index in wanted], write, find, repeatable=repeatable)
            except _ReplyLostError:
                alone = IN_DOUBT
                raise
            for index, result in zip(wanted, done, strict=True):
                # In doubt, an item must not run as if it had not been sent.
                results[index] = alone if result is ALONE or (result is LATER and alone is IN_DOUBT) else result
            return results

        try:
            return await self._retries.run(attempt)
        except UnavailableError as error:
            if alone is IN_DOUBT:
                raise CommitUnknownError(_NO_REPLY) from error
            raise
        except CommitUnknownError:
            raise
        except PersistenceError:
            return [alone] * len(batch.items)

    async def _execute(
        self,
        items: list[ItemT],
        write: Write[ItemT, ResultT],
        find: Find[ItemT, ResultT] | None,
        *,
        repeatable: bool,
    ) -> Results[ResultT]:
        """Write the items: in autocommit, one round trip, if a lost reply does no harm or can be found out.

        Otherwise in a transaction, which is three: BEGIN, the statement, COMMIT.
        """
        async with self._connections.use() as connection:
            process = None if repeatable or find is None else await process_behind(connection)
            if process is None and not repeatable:
                return await self._transact(connection, items, write)
            sent_at = time.monotonic()
            try:
                with OutcomeUnknown():
                    return (await write(connection, items)).results
            except UnavailableError as error:
                if not _is_reply_lost(error):
                    raise
                lost = error
        if process is None or find is None:
            raise _ReplyLostError("the connection closed before the reply; try again") from lost.__cause__
        # Without the connection, which was closed: there may be no other one.
        with OutcomeUnknown():
            return await self._find(partial(self._find_once, process, find, items, sent_at), lost)

    async def _find(
        self, attempt: Callable[[], Awaitable[Results[ResultT] | None]], lost: UnavailableError
    ) -> Results[ResultT]:
        try:
            # A crowd may be asking: this waits for the pool instead of answering that the outcome is unknown.
            found = await self._retries.run(attempt, waits_for_pool=True)
        except CommitUnknownError:
            self._telemetry.settled(committed=None)
            raise
        except PersistenceError as error:
            self._telemetry.settled(committed=None)
            raise CommitUnknownError(_NOT_ASKED) from error
        self._telemetry.settled(committed=found is not None)
        if found is None:
            raise UnavailableError("the connection closed before anything was saved; try again") from lost.__cause__
        return found

    async def _find_once(
        self, process: ServerProcess, find: Find[ItemT, ResultT], items: list[ItemT], sent_at: float
    ) -> Results[ResultT] | None:
        async with self._connections.use() as connection:
            # Else the statement might still be on its way, and be executed after the answer.
            if not await has_ended(connection, process):
                raise UnavailableError("the statement may still run; ask again")
            return await find(connection, items, time.monotonic() - sent_at)

    async def _transact(
        self, connection: PinnedConnection, items: list[ItemT], write: Write[ItemT, ResultT]
    ) -> Results[ResultT]:
        try:
            await connection.begin()
            written = await write(connection, items)
            # Nothing to keep, or rows that no caller may get: each item then runs alone.
            if written.evidence is None:
                with translated():
                    await connection.rollback()
            else:
                await self._commit.pinned(connection, written.touched, written.evidence())
        except BaseException:
            with suppress(*DRIVER_ERRORS, PersistenceError):
                await connection.rollback()
            raise
        return written.results


def _is_reply_lost(error: UnavailableError) -> bool:
    """Whether a statement in autocommit that raised this error may have been committed."""
    return error.__cause__ is not None and classify(error.__cause__, committing=True) is Verdict.AMBIGUOUS
