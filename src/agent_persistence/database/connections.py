"""Connections of the engine's pool, lent to one statement after the other for as long as there is work.

A checkout passes through two greenlets and several listeners, which costs more than a short statement does. So a
connection is kept between statements, for milliseconds: then it is back in the pool, for whoever uses the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
from sqlalchemy import Engine, Executable, Result
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agent_persistence.concurrency.shielding import start
from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.driver_errors import DRIVER_ERRORS, translate, translated
from agent_persistence.errors import PersistenceError, PoolTimeoutError, UnavailableError

_statement_log: Final = logging.getLogger("sqlalchemy.engine.Engine")

_IDLE_SECONDS: Final = 0.02
_LONGEST_SECONDS: Final = 1.0  # then others who wait for the pool have their turn
_CLOSED: Final = "the connection was closed; try again"


class PinnedConnection:
    """A connection that commits each statement, unless it is told to begin a transaction.

    Attributes:
        connection: SQLAlchemy's, for statements that are not compiled.
    """

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection, engine: Engine, now: float) -> None:
        self.connection = connection
        self._driver = driver
        self._engine = engine
        self.since = self.used = now

    async def fetch(self, statement: CompiledStatement, **values: Any) -> list[Any]:
        """Run a compiled statement.

        Raises:
            PersistenceError: what the driver raised, in our words.
        """
        arguments = statement.arguments(values)
        try:
            if _is_observed(self._engine):
                rows = list(await self._observed(self.connection.exec_driver_sql(statement.text, arguments)))
            else:
                rows = await self._driver.fetch(statement.text, *arguments)
        except DRIVER_ERRORS as error:
            raise self._in_our_words(error) from error
        return statement.rows(rows)

    async def execute(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None = None) -> Result[Any]:
        """Run a statement that is not compiled.

        Raises:
            PersistenceError: what the driver raised, in our words.
        """
        with translated():
            return await self._observed(self.connection.execute(statement, rows))

    async def begin(self) -> None:
        """Begin a transaction.

        Raises:
            PersistenceError: what the driver raised, in our words.
        """
        try:
            await self._driver.execute("BEGIN;")
        except DRIVER_ERRORS as error:
            raise self._in_our_words(error) from error

    async def commit(self) -> None:
        """Commit it. The driver's errors leave as they are, as from `roll_back`.

        Raises:
            UnavailableError: the connection was closed before, so nothing was sent.
        """
        if _is_observed(self._engine):  # SQLAlchemy itself sends nothing
            if not self.connection.in_transaction():
                await self.connection.begin()
            await self.connection.commit()
        if self._driver.is_closed():
            raise UnavailableError(_CLOSED)
        await self._driver.execute("COMMIT;")

    async def roll_back(self) -> None:
        """Undo what is not committed, if anything is."""
        if self.connection.in_transaction():
            await self.connection.rollback()
        if self._driver.is_in_transaction():
            await self._driver.execute("ROLLBACK;")

    async def drop(self) -> None:
        """Close the connection, which makes room for another."""
        with suppress(*DRIVER_ERRORS):
            await self.connection.invalidate()
        with suppress(*DRIVER_ERRORS):
            await self.connection.close()

    async def _observed(self, execution: Awaitable[Result[Any]]) -> Result[Any]:
        """Let SQLAlchemy run a statement; what it takes for a transaction then is none, unless one was begun."""
        result = await execution
        if not self._driver.is_in_transaction():
            await self.connection.rollback()
        return result

    def _in_our_words(self, error: BaseException) -> PersistenceError:
        if isinstance(error, asyncpg.InterfaceError) and self._driver.is_closed():
            return UnavailableError(_CLOSED)
        return translate(error)

    @property
    def is_clean(self) -> bool:
        """Whether another statement may run on it."""
        return not self._driver.is_closed() and not self._driver.is_in_transaction()


def _is_observed(engine: Engine) -> bool:
    """Whether somebody listens to the engine's statements, or has them logged; then they go the long way."""
    listeners = engine.dispatch
    told = listeners.before_cursor_execute or listeners.after_cursor_execute or listeners.commit
    return bool(told or _statement_log.isEnabledFor(logging.INFO))


class ConnectionPins:
    """Lends connections; whoever comes when all are lent waits for the next one that is given back.

    Args:
        most: so many are taken from the pool at most.
        wait_seconds: the longest wait for one.
    """

    def __init__(self, engine: AsyncEngine, *, most: int, wait_seconds: float) -> None:
        self._engine = engine
        self._committing = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._most = most
        self._wait_seconds = wait_seconds
        self._taken = 0
        self._idle: list[PinnedConnection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._renewed = 0.0

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[PinnedConnection]:
        """Lend a connection for the length of a block.

        Raises:
            PoolTimeoutError: none was given back in time.
        """
        lease = await self.take()
        try:
            yield lease
        finally:
            self.give_back(lease)

    async def take(self) -> PinnedConnection:
        """Borrow a connection; give it back."""
        while True:
            if self._idle:
                lease = self._idle.pop()
                if lease.is_clean:
                    return lease
                self._end(lease)
            elif self._taken < self._most:
                return await self._open()
            else:
                await self._wait()

    def give_back(self, lease: PinnedConnection) -> None:
        """Let others have the connection; nothing is awaited, so a cancelled caller can do so as well."""
        lease.used = now = asyncio.get_running_loop().time()
        if not lease.is_clean or now - lease.since > _LONGEST_SECONDS or lease.since <= self._renewed:
            self._end(lease)
            return
        self._idle.append(lease)
        self._wake()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._return_idle)

    async def aclose(self) -> None:
        """Give every idle connection back to the pool."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle, self._idle = self._idle, []
        for lease in idle:
            await self._close(lease)

    async def renew(self) -> None:
        """Before the engine is disposed of: its old pool closes nothing that comes back later, so that is done here."""
        self._renewed = asyncio.get_running_loop().time()
        await self.aclose()

    async def _open(self) -> PinnedConnection:
        self._taken += 1
        try:
            with translated():
                connection = await self._committing.connect()
                driver: Any = (await connection.get_raw_connection()).driver_connection
        except BaseException:
            self._taken -= 1
            self._wake()
            raise
        return PinnedConnection(connection, driver, self._engine.sync_engine, asyncio.get_running_loop().time())

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await waiter
        except TimeoutError as error:
            raise PoolTimeoutError("every connection is in use; raise PERSISTENCE_POOL_SIZE") from error
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # the connection that was meant for this one
            raise

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _return_idle(self) -> None:
        """Return what has not been used for a while; what is in use returns later."""
        loop = asyncio.get_running_loop()
        due = loop.time() - _IDLE_SECONDS
        for lease in [lease for lease in self._idle if lease.used <= due]:
            self._idle.remove(lease)
            self._end(lease)
        self._timer = loop.call_later(_IDLE_SECONDS, self._return_idle) if self._idle else None

    def _end(self, lease: PinnedConnection) -> None:
        start(self._close(lease))

    async def _close(self, lease: PinnedConnection) -> None:
        try:
            with suppress(*DRIVER_ERRORS):
                if lease.is_clean and lease.since > self._renewed:
                    await lease.connection.close()
                elif not lease.connection.closed:
                    await lease.drop()
        finally:
            self._taken -= 1
            self._wake()
