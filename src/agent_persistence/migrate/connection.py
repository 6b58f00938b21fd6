"""The connection for migrations: direct to the server, with its own time limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, cast

from sqlalchemy import AdaptedConnection, Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.embedded import default_folder, embedded_servers
from agent_persistence.errors import PoolerError, SettingsError
from agent_persistence.settings import PersistenceSettings

# A pooler would mix up prepared statements before it could be detected.
_NO_PREPARED_STATEMENTS: Final = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}

# Time limits of the server or the role are for requests, not for a long index build. The check of the client's
# connection ends the work, and frees the lock, of a migration that was killed: 3 s later in an experiment.
_SESSION_SETTINGS: Final = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "client_connection_check_interval": "2s",
}
# By way of pg_settings, so that a name that an older server does not know is skipped; SET would fail.
_SET: Final = text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")
_RESET: Final = text("SELECT set_config(name, reset_val, false) FROM pg_settings WHERE name = :name")
_PROCESS: Final = text("SELECT pg_backend_pid()")
_POOLER_PROBES: Final = 5
_PROBE_SECONDS: Final = 2.0


@asynccontextmanager
async def open_connection(settings: PersistenceSettings) -> AsyncIterator[AsyncConnection]:
    """Connect to the address for migrations, within a block.

    Raises:
        SettingsError: the settings name no address.
    """
    with _address(settings) as url:
        engine = create_async_engine(
            url.sqlalchemy_url,
            connect_args={"timeout": settings.connect_timeout, **url.connect_args, **_NO_PREPARED_STATEMENTS},
            poolclass=NullPool,
            hide_parameters=True,
        )
        async with engine.connect() as connection:
            yield connection


@contextmanager
def migration_session(connection: Connection, schema: str | None) -> Iterator[None]:
    """Prepare the session to migrate ``schema``, and restore it afterwards.

    Raises:
        PoolerError: the connection passes a pooler; nothing was set.
    """
    _refuse_pooler(connection)
    # In no transaction until the revisions run: CREATE INDEX CONCURRENTLY of another session waits for every
    # transaction.
    connection.execution_options(isolation_level="AUTOCOMMIT")
    dialect, default_schema = connection.dialect, connection.dialect.default_schema_name
    for name, value in _SESSION_SETTINGS.items():
        connection.execute(_SET, {"name": name, "value": value})
    if schema is not None:
        # ``schema=`` in every operation makes the same tables, but lost: each author of a revision must think of it.
        search_path = dialect.identifier_preparer.quote_identifier(schema)
        connection.execute(_SET, {"name": "search_path", "value": search_path})
        dialect.default_schema_name = schema
    connection.commit()
    try:
        yield
    finally:
        dialect.default_schema_name = default_schema
        _reset(connection)


def pause(connection: Connection, seconds: float) -> None:
    """Sleep without blocking the event loop of the connection."""
    _adapted(connection).run_async(lambda _driver: asyncio.sleep(seconds))


@contextmanager
def _address(settings: PersistenceSettings) -> Iterator[DatabaseUrl]:
    """Yield the address for migrations; if it is ``embedded``, the servers run within the block."""
    if settings.migration_database is not None:
        yield settings.migration_database
    elif settings.database_url is None:
        raise SettingsError("PERSISTENCE_DATABASE_URL", "is not set; it names the database to migrate")
    else:
        with embedded_servers(settings.embedded_dir or default_folder()) as servers:
            yield DatabaseUrl.parse(servers.database_url, "PERSISTENCE_DATABASE_URL")


def _refuse_pooler(connection: Connection) -> None:
    """Refuse a pooler that gives each transaction another connection to the server.

    A pooler answers with another process id than the one of its greeting. One that keeps a connection for a client's
    whole session is no hindrance, and a managed database may have no other way in.
    """
    greeted_by = _adapted(connection).driver_connection.get_server_pid()
    first = _answered_by(connection)
    if greeted_by == first:
        return
    for _ in range(_POOLER_PROBES):
        # Between its transactions, a connection of the server is free for the next client: the last one used first.
        others = _adapted(connection).run_async(lambda _driver: _answered_to_another(connection))
        if others is None:
            return
        if others == first or _answered_by(connection) != first:
            raise PoolerError


def _answered_by(connection: Connection) -> int | None:
    pid: int | None = connection.scalar(_PROCESS)
    connection.rollback()
    return pid


async def _answered_to_another(connection: Connection) -> int | None:
    """Return which process answers another client; ``None`` if it has to wait, because this one keeps the only one."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS), AsyncEngine(connection.engine).connect() as other:
            pid: int | None = await other.scalar(_PROCESS)
            return pid
    except TimeoutError:
        return None


def _reset(connection: Connection) -> None:
    if connection.closed or connection.invalidated:
        return
    connection.rollback()
    for name in (*_SESSION_SETTINGS, "search_path"):
        connection.execute(_RESET, {"name": name})
    connection.commit()
    connection.execution_options(isolation_level=connection.default_isolation_level)


def _adapted(connection: Connection) -> AdaptedConnection:
    # asyncpg's connection in SQLAlchemy's adapter; SQLAlchemy types it for every driver.
    return cast("AdaptedConnection", connection.connection.dbapi_connection)
