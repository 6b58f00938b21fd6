"""The contents of ``env.py``: how Alembic connects, and its options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import DropTable

from agent_persistence.database.driver_errors import translated
from agent_persistence.errors import InvalidInputError, PersistenceError
from agent_persistence.migrate import catalog, preflight
from agent_persistence.migrate.autogenerate import comparison_options
from agent_persistence.migrate.connection import migration_session, open_connection
from agent_persistence.migrate.host import context_options
from agent_persistence.migrate.lock import migration_lock
from agent_persistence.migrate.offline import write_script
from agent_persistence.migrate.retry import run_patiently
from agent_persistence.settings import PersistenceSettings


def run_env() -> None:
    """Run the current Alembic command; ``env.py`` is this call.

    The settings are ``config.attributes["settings"]``, else the environment's. The connection is
    ``config.attributes["connection"]``, else a new one.
    """
    with _told_to_the_command_line():
        settings = context.config.attributes.get("settings") or PersistenceSettings()
        connection = context.config.attributes.get("connection")
        if context.is_offline_mode():
            write_script(settings)
        elif isinstance(connection, Connection):
            _run(connection, settings)
        else:
            asyncio.run(_connect_and_run(connection, settings))


async def _connect_and_run(engine: AsyncEngine | None, settings: PersistenceSettings) -> None:
    with translated():
        async with engine.connect() if engine else open_connection(settings) as connection:
            await connection.run_sync(_run, settings)


def _run(connection: Connection, settings: PersistenceSettings) -> None:
    if connection.in_transaction():
        raise InvalidInputError("connection", "is inside a transaction; a migration needs one that is not")
    with migration_session(connection, settings.db_schema):
        if _changes_the_database():
            _migrate(connection, settings)
        else:
            _compare(connection, settings)


def _migrate(connection: Connection, settings: PersistenceSettings) -> None:
    schema = catalog.schema_in_use(connection, settings.db_schema)
    connection.commit()
    timeout = settings.migration_lock_timeout
    with migration_lock(connection, schema, settings.version_table, timeout_seconds=timeout):
        if settings.db_schema is not None:
            preflight.create_schema(connection, settings.db_schema)
        preflight.refuse_unusable_schema(connection, schema)
        preflight.refuse_no_right_to_create(connection, schema)
        preflight.refuse_foreign_objects(connection, schema, settings.version_table)
        preflight.refuse_other_id_types(connection, schema, settings)
        connection.commit()
        run_patiently(connection, partial(_run_revisions, connection, settings), timeout_seconds=timeout)
        # After a downgrade to base nothing of ours stays: a table of this name is what other tools take for theirs.
        if catalog.has_nothing_of_ours(connection, schema, settings.version_table):
            connection.execute(DropTable(Table(settings.version_table, MetaData(), schema=schema)))
        connection.commit()


def _compare(connection: Connection, settings: PersistenceSettings) -> None:
    schema = catalog.schema_in_use(connection, settings.db_schema)
    preflight.refuse_other_id_types(connection, schema, settings)
    connection.commit()
    # Without ``dont_mutate`` Alembic creates its version table in an empty database that is only looked at.
    _run_revisions(connection, settings, dont_mutate=True)


def _run_revisions(connection: Connection, settings: PersistenceSettings, **options: Any) -> None:
    connection.execution_options(isolation_level="READ COMMITTED")
    context.configure(
        connection=connection,
        version_table=settings.version_table,
        **context_options(settings),
        **comparison_options(settings),
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def _changes_the_database() -> bool:
    """Whether the command moves to a revision (upgrade, downgrade, stamp) or only reads (current, check, revision)."""
    try:
        # Alembic does not name the command, but only a command that moves has a destination.
        context.get_revision_argument()
    except KeyError:
        return False
    return True


@contextmanager
def _told_to_the_command_line() -> Iterator[None]:
    """Under the ``alembic`` command, show progress, and end with one line instead of a traceback."""
    if context.config.cmd_opts is None:
        yield
        return
    logging.basicConfig(format="%(levelname)s [%(name)s] %(message)s")
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    logging.getLogger("agent_persistence").setLevel(logging.INFO)
    try:
        yield
    except PersistenceError as error:
        raise CommandError(str(error)) from error
