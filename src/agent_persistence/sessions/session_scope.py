"""Scopes of transactions: what they have in common, and the one in a session."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Executable, Result, Table
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from typing_extensions import override

from agent_persistence.database.compiled_statement import CompiledStatement, summary_of
from agent_persistence.database.driver_errors import translated
from agent_persistence.database.pinned_connection import run_on
from agent_persistence.database.pool_timeouts import limited_by_pool
from agent_persistence.errors import DatabaseError, UnitOfWorkInUseError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import SavedState, TouchedState
from agent_persistence.sessions.begun_connection import BegunConnection
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS, RowEvidence, record_evidence
from agent_persistence.sessions.commit_hooks import has_touched, is_shared, touch
from agent_persistence.sessions.owner_setting import innermost, set_owner
from agent_persistence.sessions.scope import Query, Scope

_BUSY: Final = "agent_persistence.busy"
_BEGUN: Final = "agent_persistence.begun"
_ENDED: Final = (
    "the unit of work has ended, and its session with it; in a stream or a background task use the Persistence"
)


@dataclass(slots=True)
class Lifetime:
    """Whether a unit of work may still be used, where its session does not tell."""

    has_ended: bool = False


@frozen
class TransactionScope(Scope[IdT, UserIdT]):
    """One owner's data in one transaction."""

    @abstractmethod
    def session_scope(self) -> SessionScope[IdT, UserIdT]:
        """Return a scope in a session that has this transaction; one is opened if there is none."""

    @abstractmethod
    def note(self, rows: Sequence[RowEvidence], marks: Any) -> None:
        """Note evidence of the commit: rows that were written, and the marks that were returned with them."""

    @override
    async def write(
        self, statement: Query | CompiledStatement, evidence: Callable[[Any], RowEvidence], **values: Any
    ) -> Sequence[Any]:
        if isinstance(statement, CompiledStatement):
            rows = await self.fetch(statement, **values)
        else:
            rows = (await self.execute(statement.returning(*TRANSACTION_MARKS))).all()
        if rows:
            self.note([evidence(row) for row in rows], rows[-1])
        return rows

    @override
    async def lock(self, statement: Query | CompiledStatement, **values: Any) -> Sequence[Any]:
        if isinstance(statement, CompiledStatement):
            rows = await self.fetch(statement, **values)
        else:
            rows = (await self.execute(statement.add_columns(*TRANSACTION_MARKS))).all()
        if rows:
            self.note([], rows[-1])
        return rows

    @property
    @override
    def in_unit_of_work(self) -> bool:
        return True


@frozen
class SessionScope(TransactionScope[IdT, UserIdT]):
    """One owner's data in one session.

    Raises:
        UnitOfWorkInUseError: (every statement) another task is running a statement in the session.
        DatabaseError: (every statement) the unit of work has ended.
    """

    session: AsyncSession
    lifetime: Lifetime | None = None

    @override
    def session_scope(self) -> SessionScope[IdT, UserIdT]:
        return self

    @override
    async def execute(self, statement: Executable) -> Result[Any]:
        timing, work = self.options.telemetry.timing, self._execute(statement)
        return await (work if timing is None else timing.statement(*summary_of(statement), work))

    async def _execute(self, statement: Executable) -> Result[Any]:
        async with self._one_statement():
            # By SQLAlchemy's own method: SQLModel's sessions warn at each call of theirs.
            return await self.session.run_sync(lambda session: Session.execute(session, statement))

    async def entities(self, statement: Query, **values: Any) -> Sequence[Any]:
        """Run a query for objects of one mapped class, and return them; they are attached to the session."""
        timing, work = self.options.telemetry.timing, self._entities(statement, values)
        return await (work if timing is None else timing.statement(*summary_of(statement), work))

    async def _entities(self, statement: Query, values: dict[str, Any]) -> Sequence[Any]:
        async with self._one_statement():
            return await self.session.run_sync(lambda session: Session.scalars(session, statement, values).all())

    @override
    async def fetch(self, statement: CompiledStatement, **values: Any) -> Sequence[Any]:
        timing, work = self.options.telemetry.timing, self._fetch(statement, values)
        return await (work if timing is None else timing.statement(*statement.summary, work))

    async def _fetch(self, statement: CompiledStatement, values: dict[str, Any]) -> Sequence[Any]:
        session = self.session.sync_session
        async with self._one_statement():
            begun: BegunConnection | None = session.info.get(_BEGUN)
            if begun is not None and begun.serves(innermost(session)):
                return statement.rows(await begun.fetch(statement.text, statement.arguments(values)))
            connection = await self.session.connection(bind_arguments={"mapper": self.models.Thread})
            sync_connection = connection.sync_connection
            schemas = sync_connection.get_execution_options().get("schema_translate_map") if sync_connection else None
            text = statement.translated(schemas) if schemas else statement.text
            # Compiled once (decision 0010): building the statement at each call cost half a millisecond.
            result = await connection.exec_driver_sql(text, statement.arguments(values))
            if not schemas:
                session.info[_BEGUN] = BegunConnection(connection, innermost(session))
            return statement.rows(result.all())

    @override
    def note(self, rows: Sequence[RowEvidence], marks: Any) -> None:
        record_evidence(self.session.sync_session, marks, rows)

    @property
    @override
    def can_copy(self) -> bool:
        # PostgreSQL refuses COPY under row-level security, and only SQLAlchemy knows what a schema is translated to.
        options = self.session.get_bind(self.models.Thread).get_execution_options()
        return not self.options.row_level_security and "schema_translate_map" not in options

    @override
    async def copy(self, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        async with self._one_statement():
            connection = await self.session.connection(bind_arguments={"mapper": self.models.Thread})
            driver: Any = (await connection.get_raw_connection()).driver_connection
            copying = driver.copy_records_to_table(table.name, schema_name=table.schema, columns=columns, records=rows)
            await run_on(driver, copying, timeout_seconds=self.options.reply_seconds)

    @override
    def touch(self, state: TouchedState, saved: SavedState | None = None) -> None:
        touch(self.session.sync_session, state, saved)

    @property
    @override
    def has_snapshot(self) -> bool:
        return self.session.in_transaction()

    @property
    @override
    def may_be_elsewhere(self) -> bool:
        # Asking for the path of a session of the host would cost the round trip that a cache saves.
        return self.threads.schema is None and is_shared(self.session.sync_session)

    @override
    def has_touched(self, thread_id: IdT) -> bool:
        return has_touched(self.session.sync_session, thread_id)

    @asynccontextmanager
    async def _one_statement(self) -> AsyncIterator[None]:
        """Prepare a statement, and limit its time: on an engine of the host, nothing else may do so."""
        if self.lifetime is not None and self.lifetime.has_ended:
            # A session of the host reopens when it is used after its end, and nobody commits what is written then.
            raise DatabaseError(_ENDED)
        seconds, takes_connection = self.options.reply_seconds, not self.session.in_transaction()
        if takes_connection:
            seconds += self.options.wait_seconds
        limit = limited_by_pool(self._bind) if takes_connection else nullcontext()
        with translated(self._bind), _alone(self.session.sync_session.info), limit:
            async with asyncio.timeout(seconds):
                await self._prepare()
                yield

    def _bind(self) -> Engine | Connection:
        return self.session.get_bind(self.models.Thread)

    async def _prepare(self) -> None:
        session = self.session
        if self.options.row_level_security:
            await session.run_sync(set_owner, self.owner, bind=self.models.Thread)
        if session.autoflush and (session.new or session.dirty or session.deleted):
            await session.flush()  # SQLAlchemy 2.1 does this for Core statements, 2.0 does not


@contextmanager
def _alone(info: dict[Any, Any]) -> Iterator[None]:
    """Refuse a second task: a session cannot serve two at once, and would break the statement of the first."""
    if info.get(_BUSY):
        raise UnitOfWorkInUseError
    info[_BUSY] = True
    try:
        yield
    finally:
        info[_BUSY] = False
