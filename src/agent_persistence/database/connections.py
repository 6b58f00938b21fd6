"""Connections of the engine's pool that stay checked out between statements while there is work.

A checkout passes two greenlets and several event listeners, which costs more than a short statement does. So a
connection is kept for some milliseconds after a statement, and then returned to the pool for the engine's other users.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from agent_persistence.concurrency.shielding import start
from agent_persistence.concurrency.time_limit import cut_when_due, no_call
from agent_persistence.database.driver_errors import DRIVER_ERRORS, translated
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.database.pool_timeouts import has_free_connection, limited_by_pool, pool_timeout
from agent_persistence.errors import PoolTimeoutError
from agent_persistence.telemetry.metrics import PoolMetrics
from agent_persistence.telemetry.telemetry import NOTHING, Telemetry

# Measured at 32 callers that read states of 4 KB, as multiples of hand-written asyncpg: 1.8 on connections that stay
# checked out, 0.5 with a checkout by SQLAlchemy for each call.
_IDLE_SECONDS: Final = 0.02
# A steady crowd never lets its connections become idle; units of work, which use the same pool, get their turn then.
_LONGEST_SECONDS: Final = 1.0


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
