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
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from agent_persistence.concurrency.process_lock import ProcessLock
from agent_persistence.database.driver_errors import translated
from agent_persistence.errors import SchemaError
from agent_persistence.migrate import catalog
from agent_persistence.migrate.config import alembic_config, is_known
from agent_persistence.migrate.connection import open_connection
from agent_persistence.migrate.verify import warn_ahead
from agent_persistence.settings import PersistenceSettings

_one_at_a_time: Final = ProcessLock()
_POLL_SECONDS: Final = 0.05


async def upgrade(settings: PersistenceSettings, revision: str = "head") -> None:
    """Upgrade the database to a revision, by default the newest of this version.

    Any number of processes may do so at once, and the event loop is not blocked. A database that is newer than this
    version is left unchanged, with a warning.

    Raises:
        SettingsError: no address is set.
        PoolerError: the address is that of a pooler.
        MigrationLockTimeoutError: another migration took too long.
        SchemaConflictError: objects of another program have our names; nothing was created.
        IdTypeMismatchError: the database was created with other id types.
        UnavailableError: the database cannot be reached.
    """
    async with _connected(settings) as connection:
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

    Raises:
        SchemaError: there is no such revision, or an error of :func:`upgrade`.
    """
    async with _connected(settings) as connection:
        await run(connection, alembic_config(settings), partial(command.downgrade, revision=revision))


async def current(settings: PersistenceSettings, connection: AsyncConnection | None = None) -> str | None:
    """Return the revision of the database, or ``None`` if it was not created."""
    if connection is None:
        async with _connected(settings) as own:
            return await current(settings, own)
    with translated():
        found = await connection.run_sync(_revisions, settings)
    return ", ".join(found) or None


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
async def _connected(settings: PersistenceSettings) -> AsyncIterator[AsyncConnection]:
    try:
        with translated():
            async with open_connection(settings) as connection:
                yield connection
    except CommandError as error:
        raise SchemaError(str(error)) from error


def _revisions(connection: Connection, settings: PersistenceSettings) -> list[str]:
    schema = catalog.schema_in_use(connection, settings.db_schema)
    return catalog.revisions(connection, schema, settings.version_table)
