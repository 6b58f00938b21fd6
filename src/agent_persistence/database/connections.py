"""Connections of the engine's pool that stay checked out between statements while there is work.

A checkout passes two greenlets and several event listeners, which costs more than a short statement does. So a
connection is kept for some milliseconds after a statement, and then returned to the pool for the engine's other users.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import Connection, Engine, Executable, Result, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from agent_persistence.concurrency.shielding import start
from agent_persistence.concurrency.time_limit import cut_when_due, no_call
from agent_persistence.database.compiled_statement import CompiledStatement, summary_of
from agent_persistence.database.driver_errors import DRIVER_ERRORS, translate, translated
from agent_persistence.database.pool_timeouts import has_free_connection, limited_by_pool, pool_timeout
from agent_persistence.errors import DatabaseError, PersistenceError, PoolTimeoutError, UnavailableError
from agent_persistence.telemetry.metrics import PoolMetrics
from agent_persistence.telemetry.telemetry import NOTHING, Telemetry

T = TypeVar("T")

_statement_log: Final = logging.getLogger("sqlalchemy.engine.Engine")

# Measured at 32 callers that read states of 4 KB, as multiples of hand-written asyncpg: 1.8 on connections that stay
# checked out, 0.5 with a checkout by SQLAlchemy for each call.
_IDLE_SECONDS: Final = 0.02
# A steady crowd never lets its connections become idle; units of work, which use the same pool, get their turn then.
_LONGEST_SECONDS: Final = 1.0
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


class _Use:
    """The block of ``PinnedConnections.use``."""

    __slots__ = ("_connections", "_pinned", "_spare")

    def __init__(self, connections: PinnedConnections) -> None:
        self._connections = connections

    async def __aenter__(self) -> PinnedConnection:
        self._pinned = pinned = await self._connections.acquire()
        self._spare = cut_when_due(pinned.terminate)
        return pinned

    async def __aexit__(self, *_error: object) -> None:
        if self._spare is not None:
            self._spare()
        self._connections.release(self._pinned)


class PinnedConnections:
    """Pins connections of the pool for one caller at a time; callers beyond their number wait for a release.

    Args:
        most: maximum number of connections taken from the pool.
        wait_seconds: the longest wait for one.
        reply_seconds: how long a statement, a COPY or a COMMIT may take.
        telemetry: counts the connections, and measures what runs on them.

    Attributes:
        answered_at: when a connection was released last on which the server had answered, in the event loop's time.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        most: int,
        wait_seconds: float,
        reply_seconds: float,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._engine = engine
        self._telemetry = telemetry or Telemetry()
        self.answered_at = float("-inf")
        # A statement alone is one round trip in AUTOCOMMIT; SQLAlchemy's BEGIN and ROLLBACK around it make three.
        self._committing = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._most = most
        self._wait_seconds = wait_seconds
        self._reply_seconds = reply_seconds
        self._checked_out = 0
        self._connecting = 0  # callers that wait for the pool, whose connections units of work may hold
        self._idle: list[PinnedConnection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._returning: set[asyncio.Task[None]] = set()
        self._invalidated_at = 0.0

    def use(self) -> _Use:
        """Acquire a connection for the length of a block, which ends with it when the current call takes too long.

        Raises:
            PoolTimeoutError: no connection was released in time.
        """
        return _Use(self)

    def acquire(self) -> Awaitable[PinnedConnection]:
        """Acquire a connection; ``release`` must follow.

        Raises:
            PoolTimeoutError: no connection was released in time.
        """
        return self._waited_for(self._acquire())

    def take(self) -> Awaitable[PinnedConnection]:
        """Take a connection for a transaction of the caller's, which may last: an idle one, or a new one of the pool.

        It does not count as pinned until ``give_back``, so transactions and single statements do not wait for each
        other while the pool has connections.

        Raises:
            PersistenceError: the pool has no connection, or the database cannot be reached.
        """
        return self._waited_for(self._take())

    def _waited_for(self, work: Coroutine[Any, Any, PinnedConnection]) -> Awaitable[PinnedConnection]:
        timing = self._telemetry.timing
        if timing is None:
            return work
        if self._idle:  # nothing to wait for: not worth a coroutine and two looks at the clock
            timing.wait.add(0.0)
            return work
        return timing.connection(work)

    async def _acquire(self) -> PinnedConnection:
        while True:
            if self._idle:
                # The last one used, so that the others become idle for long enough to be returned.
                pinned = self._idle.pop()
                if self._may_serve(pinned):
                    return pinned
                self._return(pinned)
            elif self._checked_out < self._most:
                return await self._check_out()
            else:
                # Only a wake-up: a caller that did not wait may take the connection first, so the loop looks again.
                await self._wait()

    def release(self, pinned: PinnedConnection) -> None:
        """Release a connection to the next caller. Nothing is awaited, so a cancelled caller can do it too."""
        pinned.used_at = now = asyncio.get_running_loop().time()
        if not self._may_serve(pinned):
            self._return(pinned)
            return
        self.answered_at = now
        if now - pinned.checked_out_at > _LONGEST_SECONDS:
            self._return(pinned)
            return
        self._idle.append(pinned)
        self._wake()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._return_idle)

    async def _take(self) -> PinnedConnection:
        while self._idle:
            pinned = self._idle.pop()
            if self._may_serve(pinned):
                self._checked_out -= 1
                self._wake()
                return pinned
            self._return(pinned)
        with translated(self._bind), limited_by_pool(self._bind):
            # On an engine of the host, nothing else may limit it.
            async with asyncio.timeout(self._wait_seconds + self._reply_seconds):
                return await self._connect()

    def give_back(self, pinned: PinnedConnection) -> None:
        """Give back a connection that was taken. Nothing is awaited, so a cancelled caller can do it too."""
        self._checked_out += 1
        if pinned.is_handed_over or self._checked_out > self._most:
            self._return(pinned)
        else:
            self.release(pinned)

    async def aclose(self) -> None:
        """Return every idle connection to the pool; those that are released later are closed.

        The engine, which may be disposed of by then, would not close these.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle, self._idle = self._idle, []
        for pinned in idle:
            self._return(pinned)
        await asyncio.gather(*self._returning, return_exceptions=True)
        self._invalidated_at = asyncio.get_running_loop().time()

    async def invalidate(self) -> None:
        """Close all pinned connections, now or when they are released; call it before the engine is disposed of."""
        self._invalidated_at = asyncio.get_running_loop().time()
        await self.aclose()

    def metrics(self) -> PoolMetrics:
        """Return the numbers of connections: those of the pool, of which some are pinned and idle."""
        pool, timing = self._engine.sync_engine.pool, self._telemetry.timing
        # A pool of the host may be of a kind that counts nothing.
        used, free, most = self._checked_out, 0, self._most
        if isinstance(pool, QueuePool):
            used, free, most = pool.checkedout(), pool.checkedin(), pool.size() + max(pool._max_overflow, 0)  # noqa: SLF001 - it has no public name
        return PoolMetrics(
            used=max(used - len(self._idle), 0),
            idle=free + len(self._idle),
            most=most,
            waiting=len(self._waiting) + self._connecting,
            timeouts=self._telemetry.counts.pool_timeouts,
            wait=NOTHING if timing is None else timing.wait.snapshot(),
        )

    def _may_serve(self, pinned: PinnedConnection) -> bool:
        """Whether a connection may serve another caller, here or from the pool.

        Not after ``engine.dispose()``: the pool that it came from would keep it open, and give it to no caller.
        """
        is_current = pinned.pool is self._engine.sync_engine.pool and pinned.checked_out_at > self._invalidated_at
        return is_current and pinned.is_clean

    async def _check_out(self) -> PinnedConnection:
        self._checked_out += 1
        try:
            return await self._connect()
        except BaseException:
            # A cancelled caller, too, gives its place back; otherwise the limit would shrink with each one.
            self._checked_out -= 1
            self._wake()
            raise

    async def _connect(self) -> PinnedConnection:
        # A pool of the host may let callers wait for longer than a call lasts; the call could not tell why it ended.
        waits = None if has_free_connection(self._bind()) else self._wait_seconds
        self._connecting += 1
        try:
            # It will serve other calls as well; each has it cut in its own time.
            with translated(self._bind), limited_by_pool(self._bind), no_call():
                async with asyncio.timeout(waits):
                    connection = await self._committing.connect()
                driver: Any = (await connection.get_raw_connection()).driver_connection
        except PoolTimeoutError:
            self._telemetry.counts.pool_timeouts += 1
            raise
        finally:
            self._connecting -= 1
        now, engine = asyncio.get_running_loop().time(), self._bind()
        return PinnedConnection(
            connection, driver, engine, now, reply_seconds=self._reply_seconds, telemetry=self._telemetry
        )

    def _bind(self) -> Engine:
        return self._engine.sync_engine

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            # Woken at the same moment: the next caller gets the connection, or it would wait although one is free.
            if waiter.done() and not waiter.cancelled():
                self._wake()
            if isinstance(error, TimeoutError):
                self._telemetry.counts.pool_timeouts += 1
                raise pool_timeout(self._bind()) from error
            raise

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _return_idle(self) -> None:
        """Return connections that were not used for a while; look again later for the others."""
        loop = asyncio.get_running_loop()
        due = loop.time() - _IDLE_SECONDS
        for pinned in [pinned for pinned in self._idle if pinned.used_at <= due]:
            self._idle.remove(pinned)
            self._return(pinned)
        self._timer = loop.call_later(_IDLE_SECONDS, self._return_idle) if self._idle else None

    def _return(self, pinned: PinnedConnection) -> None:
        task = start(self._close(pinned))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _close(self, pinned: PinnedConnection) -> None:
        try:
            with suppress(*DRIVER_ERRORS):
                if self._may_serve(pinned):
                    await pinned.connection.close()
                elif not pinned.connection.closed:
                    await pinned.discard()
        finally:
            self._checked_out -= 1
            self._wake()
