"""A scope in a transaction on a pinned connection, until a session of SQLAlchemy is asked for.

A session, its checkout, BEGIN and COMMIT take two greenlets and a dozen objects each: as much time as the statements of
a short transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from sqlalchemy import Executable, Result, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from typing_extensions import override

from agent_persistence.concurrency.shielding import to_the_end
from agent_persistence.concurrency.time_limit import cut_when_due
from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.connections import PinnedConnections
from agent_persistence.database.driver_errors import DRIVER_ERRORS
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.errors import DatabaseError, PersistenceError, UnitOfWorkInUseError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import SavedState, Touched, TouchedState
from agent_persistence.sessions.commit_evidence import CommitEvidence, RowEvidence, adopt_evidence
from agent_persistence.sessions.commit_hooks import watch_of
from agent_persistence.sessions.session_scope import SessionScope, TransactionScope

_LEAVE_SECONDS: Final = 2.0
"""How long a ROLLBACK may take; then the connection is closed, which rolls back as well."""

_ENDED: Final = "the unit of work has ended; begin another one"


class PinnedTransaction:
    """A transaction of one task, which begins with its first statement.

    Args:
        connections: where its connection comes from.
        open_session: opens a session on a connection of SQLAlchemy, or on the engine.

    Attributes:
        connection: its connection, once it has begun.
        evidence: of its commit, once it has written.
        touched: the states that it changed, for the cache.
        session: the session that goes on with it, once one was asked for.
    """

    def __init__(
        self, connections: PinnedConnections, open_session: Callable[[AsyncConnection | None], AsyncSession]
    ) -> None:
        self._connections = connections
        self._open_session = open_session
        self._is_busy = self._has_ended = False
        self._spare: Callable[[], None] | None = None
        self.connection: PinnedConnection | None = None
        self.evidence: CommitEvidence | None = None
        self.touched: Touched = {}
        self.session: AsyncSession | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse a second task, whose statement would break that of the first; end with a statement that is cancelled.

        The server may have run it or not: a caller that goes on after a timeout must not commit half of a call.

        Raises:
            UnitOfWorkInUseError: another task is running a statement.
        """
        if self._is_busy:
            raise UnitOfWorkInUseError
        self._is_busy = True
        try:
            yield
        except asyncio.CancelledError:
            if self.connection is not None:
                self.connection.terminate()
            raise
        finally:
            self._is_busy = False

    async def begun(self) -> PinnedConnection:
        """Return the connection, on which the transaction has begun.

        Raises:
            DatabaseError: the unit of work has ended.
            PersistenceError: the driver's error, translated.
        """
        self._refuse_end()
        if self.connection is None:
            self.connection = await self._connections.take()
            self._spare = cut_when_due(self.connection.terminate)
            try:
                await self.connection.begin()
            except PersistenceError:
                self.connection.terminate()  # otherwise later statements would commit one by one
                raise
        return self.connection

    def note(self, rows: Sequence[RowEvidence], marks: Any) -> None:
        """Note rows that the transaction has written."""
        if self.evidence is None:
            self.evidence = CommitEvidence(None, marks)
        self.evidence.note(rows, in_savepoint=False)

    def join(self) -> AsyncSession:
        """Return the session that goes on with the transaction, from now on with every statement.

        Raises:
            DatabaseError: the unit of work has ended.
            UnitOfWorkInUseError: another task is running a statement.
        """
        if self.session is None:
            self._refuse_end()
            if self._is_busy:
                raise UnitOfWorkInUseError
            connection = None if self.connection is None else self.connection.hand_over()
            self.session = self._open_session(connection)
            session = self.session.sync_session
            if connection is not None:
                # Sends nothing. Otherwise a commit or rollback before the next statement would not know the connection.
                session.connection()
            if self.evidence is not None:
                adopt_evidence(session, self.evidence)
            if (watch := watch_of(session)) is not None:
                watch.touched.update(self.touched)
        return self.session

    async def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        self._has_ended = True
        if self.session is not None or not (self.connection is None or self.connection.is_clean):
            await to_the_end(self._undo())  # whoever cancels the caller
        elif self.connection is not None:
            self._give_back(self.connection)

    async def _undo(self) -> None:
        if self.session is not None:
            with suppress(*DRIVER_ERRORS):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self.session.close()
        if self.connection is not None:
            try:
                if not self.connection.is_clean:
                    await self._roll_back(self.connection)
            finally:
                self._give_back(self.connection)

    def _refuse_end(self) -> None:
        if self._has_ended:
            raise DatabaseError(_ENDED)

    def _give_back(self, connection: PinnedConnection) -> None:
        if self._spare is not None:
            self._spare()
        self._connections.give_back(connection)

    async def _roll_back(self, connection: PinnedConnection) -> None:
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await connection.rollback()
        except (*DRIVER_ERRORS, PersistenceError):
            connection.terminate()


@frozen
class PinnedScope(TransactionScope[IdT, UserIdT]):
    """One owner's data in a transaction on a pinned connection."""

    transaction: PinnedTransaction

    @override
    def session_scope(self) -> SessionScope[IdT, UserIdT]:
        return SessionScope(self.models, self.owner, self.options, self.recent, self.transaction.join())

    @override
    async def execute(self, statement: Executable) -> Result[Any]:
        if self.transaction.session is not None:
            return await self.session_scope().execute(statement)
        with self.transaction.alone():
            return await (await self.transaction.begun()).execute(statement)

    @override
    async def fetch(self, statement: CompiledStatement, **values: Any) -> Sequence[Any]:
        if self.transaction.session is not None:
            return await self.session_scope().fetch(statement, **values)
        with self.transaction.alone():
            return await (await self.transaction.begun()).fetch(statement, **values)

    @override
    def note(self, rows: Sequence[RowEvidence], marks: Any) -> None:
        if self.transaction.session is not None:
            self.session_scope().note(rows, marks)
        else:
            self.transaction.note(rows, marks)

    @property
    @override
    def can_copy(self) -> bool:
        return True

    @override
    async def copy(self, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        if self.transaction.session is not None:
            await self.session_scope().copy(table, columns, rows)
            return
        with self.transaction.alone():
            connection = await self.transaction.begun()
            await connection.copy(table, columns, rows)

    @override
    def touch(self, state: TouchedState, saved: SavedState | None = None) -> None:
        if self.transaction.session is not None:
            self.session_scope().touch(state, saved)
        else:
            self.transaction.touched[state] = saved

    @property
    @override
    def has_snapshot(self) -> bool:
        session = self.transaction.session
        return self.transaction.connection is not None if session is None else session.in_transaction()

    @property
    @override
    def may_be_elsewhere(self) -> bool:
        return self.transaction.session is not None and self.session_scope().may_be_elsewhere

    @override
    def has_touched(self, thread_id: IdT) -> bool:
        if self.transaction.session is not None:
            return self.session_scope().has_touched(thread_id)
        return any(touched.thread_id == thread_id for touched in self.transaction.touched)
