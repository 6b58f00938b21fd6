"""COMMIT in the order of the cache protocol, and the settlement of one whose reply was lost."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import OutcomeUnknown, is_cut
from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.driver_errors import DRIVER_ERRORS, translate, translated
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.errors import CommitUnknownError, PersistenceError, StatementTimeoutError, UnavailableError
from agent_persistence.operations.session_factory import LONGEST_IDLE, SessionFactory
from agent_persistence.records import ANY_USER, Touched
from agent_persistence.repositories.maintenance.outbox import add_to_outbox
from agent_persistence.sessions.commit_evidence import CommitEvidence, evidence_of, was_committed
from agent_persistence.sessions.commit_hooks import is_shared
from agent_persistence.sessions.owner_setting import set_local
from agent_persistence.sessions.pinned_scope import PinnedScope
from agent_persistence.sessions.session_scope import TransactionScope

# So that the server ends the transaction before the quarantine expires, should this process stall now.
_LIMIT_IDLING: Final = CompiledStatement(
    select(set_local("idle_in_transaction_session_timeout", str(int(LONGEST_IDLE * 1000))).label("milliseconds"))
)


class Commit:
    """Commits transactions; asks the database what became of those whose connection closed during COMMIT.

    Args:
        longest_transaction: seconds after which the server ends a transaction, or one that idles.
    """

    def __init__(self, sessions: SessionFactory[Any, Any], retries: Retries, *, longest_transaction: float) -> None:
        self._sessions = sessions
        self._retries = retries
        self._longest_transaction = longest_transaction

    def judge(self, error: UnavailableError, *, seconds_of_work: float) -> PersistenceError:
        """Return the error of a transaction that lost its connection: another one if its work took too long.

        The server closes the connection of such a transaction without saying why, and would close the next one as well.
        The time after the work does not count: a process that stalled before COMMIT may not stall again.
        """
        if seconds_of_work < self._longest_transaction or is_cut() or isinstance(error.__cause__, TimeoutError):
            return error
        too_long = StatementTimeoutError("the transaction was open for longer than its time limits allow")
        too_long.__cause__ = error
        return too_long

    async def scope(self, scope: TransactionScope[Any, Any]) -> None:
        """Commit the transaction of a scope.

        Raises:
            UnavailableError: the transaction is rolled back.
            CommitUnknownError: the database cannot tell what became of it.
            PersistenceError: the database refused a statement of the flush, or the COMMIT.
        """
        if not isinstance(scope, PinnedScope) or scope.transaction.session is not None:
            await self._session(scope.session_scope().session)
        elif (connection := scope.transaction.connection) is not None:
            await self.pinned(connection, scope.transaction.touched, scope.transaction.evidence)

    async def pinned(self, connection: PinnedConnection, touched: Touched, evidence: CommitEvidence | None) -> None:
        """Commit the transaction of a pinned connection, following the cache protocol.

        Args:
            touched: the states that it changed, with the new values.

        Raises:
            UnavailableError: the transaction is rolled back.
            CommitUnknownError: the database cannot tell what became of it.
            PersistenceError: the database refused the COMMIT.
        """
        cache = self._sessions.cache if touched else None
        if cache is None:
            await self._send(connection, evidence)
            return
        if not self._sessions.limits_idling:
            await connection.fetch(_LIMIT_IDLING)
        # The order of the cache protocol: quarantine all keys in one round trip, COMMIT, publish the values in one
        # round trip.
        quarantine = cache.prepare(touched)
        try:
            untold = await cache.before_commit(quarantine)
        except BaseException:
            await cache.after_rollback(quarantine)
            raise
        # Redis did not confirm these quarantines. Their invalidation commits with the states and is delivered by a
        # sweep.
        if untold:
            thread_ids, owners = zip(*untold, strict=True)
            await connection.fetch(add_to_outbox(self._sessions.models), thread_ids=thread_ids, owners=owners)
        # An error from here on does not prove a rollback, so only a commit lifts the quarantine; else it expires.
        await self._send(connection, evidence)
        await cache.after_commit(quarantine)

    async def _send(self, connection: PinnedConnection, evidence: CommitEvidence | None) -> None:
        with OutcomeUnknown():
            try:
                await connection.commit()
            except DRIVER_ERRORS as error:
                # Before the database is asked: the pool may have no other connection.
                await connection.discard()
                # Settled once for all callers of a batch: one transaction wrote for all of them.
                await self.settle(error, evidence, otherwise=False)

    async def _session(self, session: AsyncSession) -> None:
        """Commit a session.

        Raises:
            UnavailableError: the transaction is rolled back.
            CommitUnknownError: the database cannot tell what became of it.
            PersistenceError: the database refused a statement of the flush, or the COMMIT.
        """
        evidence, shared = evidence_of(session.sync_session), is_shared(session.sync_session)
        if shared:
            with translated():
                await session.flush()  # apart from COMMIT, so that its errors are known to mean a rollback
        with OutcomeUnknown():
            try:
                # On an engine of the host, nothing else limits it.
                async with asyncio.timeout(self._sessions.options.reply_seconds):
                    await session.commit()
            except DRIVER_ERRORS as error:
                # Without evidence nothing of ours was written; only the host may have written something.
                await self.settle(error, evidence, otherwise=None if shared else False)

    async def settle(self, error: BaseException, evidence: CommitEvidence | None, *, otherwise: bool | None) -> None:
        """Return if a transaction is committed although its COMMIT raised.

        Args:
            error: the driver's error.
            otherwise: the answer where there is no evidence; ``None`` if it is unknown.

        Raises:
            UnavailableError: the transaction is rolled back.
            CommitUnknownError: the database cannot tell what became of it.
            PersistenceError: the database refused the COMMIT.
        """
        # Only a lost connection leaves the outcome open. Any other error is the server's answer: it refused the COMMIT
        # and rolled back.
        failure = translate(error, committing=True)
        if not isinstance(failure, CommitUnknownError):
            raise failure from error
        committed = await self._ask(evidence) if evidence else otherwise
        self._sessions.telemetry.settled(committed=committed)
        if committed is None:
            raise failure from error
        if not committed:
            raise UnavailableError("the connection closed before COMMIT took effect; try again") from error

    async def _ask(self, evidence: CommitEvidence) -> bool | None:
        """Ask the database, as long as retries may last; ``None`` if it stays away or cannot tell."""
        try:
            # The caller's connection is gone and a crowd may be asking: this waits for the pool instead of answering
            # that the outcome is unknown.
            return await self._retries.run(partial(self._ask_once, evidence), waits_for_pool=True)
        except PersistenceError:
            return None

    async def _ask_once(self, evidence: CommitEvidence) -> bool | None:
        async with self._sessions.single_read(ANY_USER) as scope:
            return await was_committed(evidence, scope.execute)
