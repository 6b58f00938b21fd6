"""The SQLAlchemy engine, with the time limits of the settings."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from weakref import WeakSet

import asyncpg
from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.concurrency.time_limit import cut_when_due
from agent_persistence.database.driver_errors import DRIVER_ERRORS
from agent_persistence.database.pinned_connection import is_observed
from agent_persistence.database.pool_timeouts import OWN_POOL
from agent_persistence.settings import PersistenceSettings

T = TypeVar("T")

_TRANSACTION_TIMEOUT_SINCE: Final = 17
_PING_AFTER_SECONDS: Final = 10.0
_PING_SECONDS: Final = 2.0
_RETURNED_AT: Final = "agent_persistence.returned_at"
_SPARE: Final = "agent_persistence.spare"


def make_engine(url: DatabaseUrl, settings: PersistenceSettings, *, keeps_cache: bool) -> AsyncEngine:
    """Create an engine on which every wait has a time limit. Nothing connects yet.

    Args:
        keeps_cache: whether this process invalidates cached states itself, so that the triggers of ``outside-writes``
            skip its writes.
    """
    # Without pool_pre_ping, which costs 0.6 ms a session: only connections that were idle for seconds are tried.
    engine = create_async_engine(
        url.sqlalchemy_url,
        connect_args=_connect_args(url, settings, keeps_cache=keeps_cache),
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout,
        pool_recycle=settings.pool_recycle,
        # The connection that was returned last: it knows the prepared statements and their plans, and need not be
        # pinged. In turns, a lone caller would ping and prepare on each of the pool's.
        pool_use_lifo=True,
        # Parameters are message contents, which must not reach exceptions and logs.
        hide_parameters=True,
        execution_options=OWN_POOL,
    )
    if not settings.pgbouncer:
        _limit_transactions(engine, settings.transaction_timeout)
    event.listen(engine.sync_engine, "checkin", _remember_return)
    event.listen(engine.sync_engine, "checkout", _ping_idle)
    # Not on a host's engine, whose client limit may be shorter than the server's: there it tells of one slow statement.
    give_up_silent_connections(engine)
    return engine


def obey_time_limits(engine: AsyncEngine) -> None:
    """Let the connections of an engine, ours or the host's, be cut when the call that uses them has taken too long."""
    if not event.contains(engine.sync_engine, "checkout", _arm):
        event.listen(engine.sync_engine, "checkout", _arm)
        event.listen(engine.sync_engine, "checkin", _disarm)


def wants_sessions(engine: Engine) -> bool:
    """Whether the host has listeners on an engine or its pool which want to see each transaction pass by."""
    told, pool = engine.dispatch, engine.pool.dispatch
    hosts = {*engine.dialect.dispatch.handle_error, *pool.checkout, *pool.checkin, *pool.reset} - _OURS
    return bool(hosts or is_observed(engine) or told.begin or told.rollback or told.savepoint)


def _arm(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    record.info[_SPARE] = cut_when_due(connection.driver_connection.terminate)


def _disarm(_connection: Any, record: ConnectionPoolEntry) -> None:
    if (spare := record.info.pop(_SPARE, None)) is not None:
        spare()


def give_up_silent_connections(engine: AsyncEngine) -> None:
    """Close each connection of an engine whose statement got no reply within the client's limit."""
    event.listen(engine.sync_engine, "handle_error", _give_up)


def _give_up(context: ExceptionContext) -> None:
    """Replace a connection whose statement got no reply in time, and all idle ones: they lead to the same server.

    Otherwise each of them would cost a caller the same time limit, and a ROLLBACK on this one another one.
    """
    if isinstance(context.original_exception, TimeoutError):
        context.is_disconnect = True
        if context.connection is not None:
            # SQLAlchemy would wait two seconds for the server to take leave.
            context.connection.connection.driver_connection.terminate()  # type: ignore[union-attr]  # it is open


def gives_up(engine: Engine) -> bool:
    """Whether connections of an engine are closed when a statement gets no reply in time."""
    return event.contains(engine, "handle_error", _give_up)


def _remember_return(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_RETURNED_AT] = time.monotonic()


def _ping_idle(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Try a connection that was idle for seconds; firewalls forget such a one, and the server may have closed it."""
    if time.monotonic() - record.info.get(_RETURNED_AT, math.inf) < _PING_AFTER_SECONDS:
        return
    try:
        run_or_terminate(connection, _ping)
    except BaseException as error:
        if not isinstance(error, DRIVER_ERRORS):
            raise
        # The pool opens a new connection, and replaces the others that are as old without trying them.
        raise InvalidatePoolError from error


_OURS: Final = frozenset({_arm, _disarm, _give_up, _remember_return, _ping_idle})


def run_or_terminate(connection: Any, work: Callable[[Any], Awaitable[T]]) -> T:
    """Run something on a connection that is new, or about to be used; close it if that fails.

    At once, and for a cancelled caller too: SQLAlchemy would wait two seconds for the server to take leave.
    """
    try:
        done: T = connection.run_async(work)
    except BaseException:
        connection.driver_connection.terminate()
        raise
    return done


async def _ping(driver: asyncpg.Connection) -> None:
    await driver.execute("SELECT", timeout=_PING_SECONDS)


def _connect_args(url: DatabaseUrl, settings: PersistenceSettings, *, keeps_cache: bool) -> dict[str, Any]:
    patience = {"timeout": settings.connect_timeout, "command_timeout": settings.reply_seconds}
    arguments = {**patience, **url.connect_args}
    if settings.pgbouncer:
        # Unnamed statements only: a named one exists on one server connection, which the next transaction may not get.
        # The pooler also refuses start-up parameters, so there the timeouts are set with ALTER ROLE.
        return {**arguments, "statement_cache_size": 0, "prepared_statement_cache_size": 0}
    limits = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    server_settings = {name: str(int(seconds * 1000)) for name, seconds in limits.items()}
    # Whatever the default of the role or the database: a statement must see what was committed before it began.
    server_settings["default_transaction_isolation"] = "read committed"
    server_settings["agent_persistence.keeps_cache"] = "on" if keeps_cache else "off"
    return {**arguments, "server_settings": {**server_settings, **arguments.get("server_settings", {})}}


def _limit_transactions(engine: AsyncEngine, seconds: float) -> None:
    """Keep transactions shorter than the cache's quarantine, on PostgreSQL 17 or newer."""

    # After connecting, not as a start-up parameter: a server before 17 refuses a connection that names it.
    @event.listens_for(engine.sync_engine, "connect")
    def set_transaction_timeout(connection: Any, _record: Any) -> None:
        if connection.driver_connection.get_server_version().major >= _TRANSACTION_TIMEOUT_SINCE:
            statement = f"SET transaction_timeout = {int(seconds * 1000)}"
            run_or_terminate(connection, lambda driver: driver.execute(statement))


def terminator_of(engine: AsyncEngine) -> Callable[[], None]:
    """Return a function that closes all connections of a new engine at once, without telling the server.

    It is for a server that no longer answers. Callers that wait on a connection get an error.
    """
    # Weak: connections that the pool has replaced must not be kept alive.
    connections: WeakSet[Any] = WeakSet()

    @event.listens_for(engine.sync_engine, "connect")
    def remember(connection: Any, _record: Any) -> None:
        connections.add(connection.driver_connection)

    def terminate() -> None:
        for connection in list(connections):
            connection.terminate()

    return terminate
