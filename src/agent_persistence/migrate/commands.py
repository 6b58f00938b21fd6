"""Alembic's commands for programs: awaited, on a connection opened for them, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, func, select, table, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agent_persistence.concurrency.process_lock import ProcessLock
from agent_persistence.database.driver_errors import translated
from agent_persistence.errors import SchemaError, SettingsError
from agent_persistence.migrate import catalog
from agent_persistence.migrate.config import alembic_config, is_known, is_ours
from agent_persistence.migrate.connection import open_connection
from agent_persistence.migrate.preflight import refuse_unusable_schema
from agent_persistence.migrate.verify import refuse_unrecorded, warn_ahead
from agent_persistence.settings import PersistenceSettings

_one_at_a_time: Final = ProcessLock()
_POLL_SECONDS: Final = 0.05
# By the start of the server, and not by its identifier, which not every role may read.
_DATABASE: Final = text("SELECT oid, pg_postmaster_start_time() FROM pg_database WHERE datname = current_database()")


async def upgrade(settings: PersistenceSettings, revision: str = "head", *, engine: AsyncEngine | None = None) -> None:
    """Upgrade the database to a revision, by default the newest of this version.

    Any number of processes may do so at once, and the event loop is not blocked. A database that is newer than this
    version is left unchanged, with a warning.

    Args:
        settings: the address, and what the tables are like.
        revision: the revision.
        engine: upgrade the database of this engine, whatever address the settings name. It is migrated through
            ``migration_database_url`` if that is set.

    Raises:
        SettingsError: no address is set, or ``migration_database_url`` leads to another database than the engine.
        PoolerError: the address is that of a pooler.
        MigrationLockTimeoutError: another migration took too long.
        SchemaConflictError: objects of another program have our names; nothing was created.
        IdTypeMismatchError: the database was created with other id types.
        UnavailableError: the database cannot be reached.
    """
    async with _connected(settings, engine) as connection:
        await connection.run_sync(_refuse_history_of_host, settings)
        await connection.rollback()
        try:
            await run(connection, alembic_config(settings), partial(command.upgrade, revision=revision))
        except CommandError:
            # Alembic cannot locate a revision of a later version. Instances of the previous release may restart after
            # an upgrade, and must not fail because of it.
            found = await connection.run_sync(_revisions, settings)
            if not found or any(is_known(known) for known in found):
                raise
            warn_ahead(found)


async def downgrade(settings: PersistenceSettings, revision: str) -> None:
    """Downgrade the database to a revision; ``"base"`` drops all tables with their rows.

    Args:
        settings: the address, and what the tables are like.
        revision: a revision such as ``"ap0001"``, ``"-1"`` for the one before, or ``"base"``.

    Raises:
        SchemaError: there is no such revision, or an error of :func:`upgrade`.
    """
    async with _connected(settings) as connection:
        await run(connection, alembic_config(settings), partial(command.downgrade, revision=revision))


async def current(settings: PersistenceSettings, connection: AsyncConnection | None = None) -> str | None:
    """Return the revision of the database, or ``None`` if it was not created.

    Args:
        settings: the address, and the names of the schema and the version table.
        connection: ask on this one, whatever address the settings name.

    Raises:
        SettingsError: no address is set.
        UnavailableError: the database cannot be reached.
    """
    if connection is None:
        async with _connected(settings) as own:
            return await current(settings, own)
    with translated():
        found = await connection.run_sync(_revisions, settings)
    return ", ".join(found) or None


async def count_threads(settings: PersistenceSettings) -> int:
    """Return how many threads the database has, of every owner; 0 if it has no tables.

    Args:
        settings: the address, and the name of the schema.

    Raises:
        SettingsError: no address is set.
        UnavailableError: the database cannot be reached.
    """
    async with _connected(settings) as connection:
        return await connection.run_sync(_threads, settings)


async def run(connection: AsyncConnection, config: Config, alembic_command: Callable[[Config], Any]) -> None:
    """Run an Alembic command on this connection."""
    # Alembic keeps its context in module globals, so not even two threads may use it at once.
    while not _one_at_a_time.acquire(blocking=False):  # noqa: ASYNC110  # an event belongs to one loop, threads have several
        await asyncio.sleep(_POLL_SECONDS)
    try:
        await connection.run_sync(_run, config, alembic_command)
    finally:
        _one_at_a_time.release()


def _run(connection: Connection, config: Config, alembic_command: Callable[[Config], Any]) -> None:
    config.attributes["connection"] = connection
    alembic_command(config)


@asynccontextmanager
async def _connected(
    settings: PersistenceSettings, engine: AsyncEngine | None = None
) -> AsyncIterator[AsyncConnection]:
    has_address = engine is None or settings.migration_database_url is not None
    try:
        with translated():
            async with open_connection(settings) if has_address or engine is None else engine.connect() as connection:
                if has_address and engine is not None:
                    await _refuse_another_database(connection, engine)
                yield connection
    except CommandError as error:
        raise SchemaError(str(error)) from error


async def _refuse_another_database(connection: AsyncConnection, engine: AsyncEngine) -> None:
    async with engine.connect() as other:
        databases = [tuple((await one.execute(_DATABASE)).one()) for one in (connection, other)]
    await connection.rollback()
    if databases[0] != databases[1]:
        raise SettingsError(
            "PERSISTENCE_MIGRATION_DATABASE_URL", "leads to another database than the engine; nothing was migrated"
        )


def _refuse_history_of_host(connection: Connection, settings: PersistenceSettings) -> None:
    """Refuse tables that the host's Alembic upgrades: ours would create them again, or not know where to begin."""
    schema = catalog.schema_in_use(connection, settings.db_schema)
    refuse_unusable_schema(connection, schema)
    if not catalog.recorded_config(connection, schema):
        return
    found = catalog.revisions(connection, schema, settings.version_table)
    refuse_unrecorded(found, settings.version_table)
    if theirs := [revision for revision in found if not is_ours(revision)]:
        raise SchemaError(
            f"{settings.version_table} records revisions of another history ({', '.join(theirs)}), "
            "which upgrades our tables too; run: alembic upgrade heads"
        )


def _threads(connection: Connection, settings: PersistenceSettings) -> int:
    schema = catalog.schema_in_use(connection, settings.db_schema)
    if not catalog.column_types(connection, schema, "threads"):
        return 0
    with catalog.all_rows(connection):
        return connection.scalar(select(func.count()).select_from(table("threads", schema=schema))) or 0


def _revisions(connection: Connection, settings: PersistenceSettings) -> list[str]:
    schema = catalog.schema_in_use(connection, settings.db_schema)
    return catalog.revisions(connection, schema, settings.version_table)
