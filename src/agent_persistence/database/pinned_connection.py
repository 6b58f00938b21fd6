"""A connection that stays checked out between statements, and how the driver's work is awaited on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import Connection, Engine, Executable, Result, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from agent_persistence.database.compiled_statement import CompiledStatement, summary_of
from agent_persistence.database.driver_errors import DRIVER_ERRORS, translate, translated
from agent_persistence.errors import DatabaseError, PersistenceError, UnavailableError
from agent_persistence.telemetry.telemetry import Telemetry

T = TypeVar("T")

_statement_log: Final = logging.getLogger("sqlalchemy.engine.Engine")
_CLOSED: Final = "the connection was closed; try again"
_FAILED_EARLIER: Final = (
    "nothing was saved: an earlier statement of the transaction failed, which undoes all of it; "
    "let its error leave the unit of work"
)


class PinnedConnection:
    """A connection that stays checked out between statements. Each one commits, unless ``begin`` was called.

    Attributes:
        connection: SQLAlchemy's connection, for statements that are not compiled.
        checked_out_at: when it was checked out, in the event loop's time.
        used_at: when it was last released.
        pool: the pool that it came from; the engine has another one once it was disposed of.
        is_handed_over: whether a session of SQLAlchemy uses it.
        info: notes on the connection, kept until it is closed, whichever caller uses it.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        driver: asyncpg.Connection,
        engine: Engine,
        now: float,
        *,
        reply_seconds: float,
        telemetry: Telemetry,
    ) -> None:
        self.connection = connection
        # Given with each statement: on an engine of the host, nothing else may limit it.
        self._reply_seconds = reply_seconds
        self._driver = driver
        self._engine = engine
        self._telemetry = telemetry
        self.checked_out_at = self.used_at = now
        self.pool = engine.pool
        assert connection.sync_connection is not None  # noqa: S101 - it is connected; for the type checker
        self.info = connection.sync_connection.info
        self.is_handed_over = False

    def fetch(self, statement: CompiledStatement, **values: Any) -> Awaitable[list[Any]]:
        """Run a compiled statement, and return its rows as named tuples.

        Raises:
            PersistenceError: the driver's error, translated.
        """
        timing, work = self._telemetry.timing, self._fetch(statement, values)
        return work if timing is None else timing.statement(*statement.summary, work)

    def execute(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None = None) -> Awaitable[Result[Any]]:
        """Run a statement that is not compiled, once for each row of parameters.

        Raises:
            PersistenceError: the driver's error, translated.
        """
        timing, work = self._telemetry.timing, self._execute(statement, rows)
        return work if timing is None else timing.statement(*summary_of(statement), work)

    def begin(self) -> Awaitable[None]:
        """Begin a transaction.

        Raises:
            PersistenceError: the driver's error, translated.
        """
        return self._measured("BEGIN", self._begin())

    def commit(self) -> Awaitable[None]:
        """Commit the transaction. Driver errors pass unchanged, so that the caller can tell what became of it.

        Raises:
            UnavailableError: the connection was closed before COMMIT was sent.
            DatabaseError: a statement had failed, so the server rolled back.
        """
        return self._measured("COMMIT", self._commit())

    def _measured(self, command: str, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        timing = self._telemetry.timing
        return work if timing is None else timing.statement(command, "", work)

    async def _fetch(self, statement: CompiledStatement, values: Mapping[str, Any]) -> list[Any]:
        arguments = statement.arguments(values)
        try:
            if is_observed(self._engine):
                rows = list(await self._observed(self.connection.exec_driver_sql(statement.text, arguments)))
            else:
                # asyncpg directly: SQLAlchemy's cursor, result and event layers cost three times a short statement.
                rows = await self._driver.fetch(statement.text, *arguments, timeout=self._reply_seconds)
        except (*DRIVER_ERRORS, AttributeError) as error:
            raise self._translated(error) from error
        return statement.rows(rows)

    async def _execute(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None) -> Result[Any]:
        with translated():
            return await self._observed(self.connection.execute(statement, rows))

    async def _begin(self) -> None:
        try:
            # Not by SQLAlchemy: its connection is in AUTOCOMMIT, where it sends no BEGIN.
            await self._driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED;", timeout=self._reply_seconds)
        except DRIVER_ERRORS as error:
            raise self._translated(error) from error

    async def _commit(self) -> None:
        # For the listeners: in AUTOCOMMIT SQLAlchemy itself sends nothing.
        if is_observed(self._engine):
            if not self.connection.in_transaction():
                await self.connection.begin()
            await self.connection.commit()
        # Known before COMMIT is sent, so the work is certainly undone and may be repeated. Without this check the
        # driver's error would leave the outcome unknown.
        if self._driver.is_closed():
            raise UnavailableError(_CLOSED)
        if await self._driver.execute("COMMIT;", timeout=self._reply_seconds) == "ROLLBACK":
            raise DatabaseError(_FAILED_EARLIER)
        self._end_believed()

    async def rollback(self) -> None:
        """Roll the transaction back, if there is one. Driver errors pass unchanged."""
        if self.connection.in_transaction():
            await self.connection.rollback()
        # A closed connection has no transaction any more, and asyncpg fails when it is asked for it.
        if not self._driver.is_closed() and self._driver.is_in_transaction():
            await self._driver.execute("ROLLBACK;", timeout=self._reply_seconds)

    async def copy(self, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows by COPY.

        Raises:
            PersistenceError: the driver's error, translated.
        """
        copying = self._driver.copy_records_to_table(
            table.name, schema_name=table.schema, columns=columns, records=rows
        )
        try:
            await self._measured("COPY", run_on(self._driver, copying, timeout_seconds=self._reply_seconds))
        except DRIVER_ERRORS as error:
            raise self._translated(error) from error

    def hand_over(self) -> AsyncConnection:
        """Leave the transaction that ``begin`` began to SQLAlchemy, and return its connection.

        Nothing is sent, so it can be called where nothing can be awaited. The connection is not pinned again.
        """
        connection = self._end_believed()
        connection.execution_options(isolation_level="READ COMMITTED")
        # SQLAlchemy has no public way to take over a transaction that the driver began: these are the attributes that
        # it sets itself after BEGIN. Set here and nowhere else, tested on every supported version.
        adapter: Any = connection.connection.dbapi_connection
        adapter._transaction = _Begun(self._driver)  # noqa: SLF001
        if hasattr(adapter, "_started"):
            adapter._started = True  # noqa: SLF001 - earlier versions ask this one
        self.is_handed_over = True
        return self.connection

    async def discard(self) -> None:
        """Close the connection instead of returning it, so that the pool can open another one."""
        self.terminate()
        with suppress(*DRIVER_ERRORS):
            await self.connection.invalidate()
        with suppress(*DRIVER_ERRORS):
            await self.connection.close()

    def terminate(self) -> None:
        """Close the connection at once, without a word to the server, which may not answer."""
        self._driver.terminate()

    @property
    def server_pid(self) -> int:
        """The number of the server process, as the driver was told."""
        pid: int = self._driver.get_server_pid()
        return pid

    @property
    def is_clean(self) -> bool:
        """Whether another statement may run: the connection is open and in no transaction."""
        return not self._driver.is_closed() and not self._driver.is_in_transaction()

    async def _observed(self, execution: Awaitable[Result[Any]]) -> Result[Any]:
        """Let SQLAlchemy run a statement, and end the transaction it believes in unless ``begin`` was called."""
        async with asyncio.timeout(self._reply_seconds):
            result = await execution
        if self.is_clean:
            await self.connection.rollback()
        return result

    def _end_believed(self) -> Connection:
        """End the transaction that SQLAlchemy believes in after ``execute``. In AUTOCOMMIT, nothing is sent for it."""
        connection = self.connection.sync_connection
        assert connection is not None  # noqa: S101 - it is connected; for the type checker
        if connection.in_transaction():
            connection.rollback()
        return connection

    def _translated(self, error: BaseException) -> PersistenceError:
        if isinstance(error, TimeoutError):
            # asyncpg would let the next statement wait until the server confirms the cancellation of this one.
            self.terminate()
        return translate_from(self._driver, error)


def translate_from(driver: asyncpg.Connection, error: BaseException) -> PersistenceError:
    """Translate an error of the driver that did not pass through SQLAlchemy."""
    # asyncpg prepares and executes in two steps, and raises AttributeError if the connection is closed in between.
    if isinstance(error, asyncpg.InterfaceError | AttributeError) and driver.is_closed():
        return UnavailableError(_CLOSED)
    return translate(error)


class _Begun:
    """A transaction that was begun by SQL, in the form in which SQLAlchemy ends it."""

    def __init__(self, driver: asyncpg.Connection) -> None:
        self._driver = driver

    async def commit(self) -> None:
        await self._driver.execute("COMMIT;")

    async def rollback(self) -> None:
        await self._driver.execute("ROLLBACK;")


async def run_on(driver: asyncpg.Connection, work: Coroutine[Any, Any, T], *, timeout_seconds: float) -> T:
    """Await work of the driver that has no time limit, and would not notice that its connection was closed: a COPY.

    Raises:
        ConnectionDoesNotExistError: the connection was closed.
        TimeoutError: the work took too long; the connection is closed.
    """
    task = asyncio.ensure_future(work)

    def stop(_closed: object) -> None:
        task.cancel()

    driver.add_termination_listener(stop)
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.wait([task])
        if task.cancelled():
            raise asyncpg.ConnectionDoesNotExistError("the connection was closed during COPY")
        return task.result()
    finally:
        driver.remove_termination_listener(stop)
        if not task.done():
            # Otherwise the server would wait for the rest of the data.
            driver.terminate()
            task.cancel()


def is_observed(target: Engine | Connection) -> bool:
    """Whether an engine or a connection has statement listeners, or statements are logged: SQLAlchemy sends them."""
    listeners = target.dispatch
    told = listeners.before_cursor_execute or listeners.after_cursor_execute or listeners.commit
    return bool(told or _statement_log.isEnabledFor(logging.INFO))
