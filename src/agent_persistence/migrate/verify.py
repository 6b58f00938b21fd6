"""Verification that the schema is the one that this version needs, when an application starts."""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agent_persistence.database.driver_errors import translated
from agent_persistence.errors import (
    IdTypeMismatchError,
    InvalidIndexError,
    MissingRightsError,
    NotMigratedError,
    SchemaError,
    SequenceBehindError,
)
from agent_persistence.ids import IdKind
from agent_persistence.migrate import catalog, config
from agent_persistence.migrate.preflight import TABLES, refuse_other_id_types, refuse_unusable_schema
from agent_persistence.models import build_models
from agent_persistence.settings import PersistenceSettings

logger = logging.getLogger("agent_persistence")

# Compared in addition to ``persistence_config``, which does not notice a column that was altered by hand.
_ID_COLUMNS: Final = {
    ("threads", "thread_id"): "id_type",
    ("states", "thread_id"): "id_type",
    ("messages", "thread_id"): "id_type",
    ("messages", "message_id"): "id_type",
    ("threads", "user_id"): "user_id_type",
}
# By what their version() holds.
_OTHER_ENGINES: Final = {
    "CockroachDB": "CockroachDB",
    "-YB-": "YugabyteDB",
    "DSQL": "Aurora DSQL",
    "Redshift": "Redshift",
    "Materialize": "Materialize",
}
_OURS: Final = "agent-persistence upgrade"
_OF_THE_HOST: Final = "alembic upgrade heads"
_KINDS: Final[dict[str, IdKind]] = {
    "character varying(255)": "string",
    "integer": "int",
    "bigint": "bigint",
    "uuid": "uuid",
}


async def verify(database: AsyncEngine | AsyncConnection, settings: PersistenceSettings) -> None:
    """Refuse a database on which this version cannot work.

    A newer schema passes with a warning: revisions keep the previous release running, and its last instances may be
    restarted after the upgrade.

    Args:
        database: an engine of the application, or a connection.
        settings: the id types, and the names of the schema and the version table.

    Raises:
        NotMigratedError: the schema is older, or missing; the message names the command.
        IdTypeMismatchError: the database was created with other id types than the settings name.
        InvalidIndexError: an interrupted migration has left an index invalid.
        MissingRightsError: the role may not use the schema, or lacks rights on some tables that it needs to write.
        SequenceBehindError: a sequence is behind the rows that it numbers, as far as a sample shows.
        SchemaError: a column that every version has is missing.
        UnavailableError: the database cannot be reached.
    """
    engine = database if isinstance(database, AsyncEngine) else database.engine
    with translated(lambda: engine.sync_engine):
        if isinstance(database, AsyncConnection):
            await database.run_sync(_verify, settings)
        else:
            async with database.connect() as connection:
                await connection.run_sync(_verify, settings)


def _verify(connection: Connection, settings: PersistenceSettings) -> None:
    refuse_other_engines(str(connection.scalar(text("SELECT version()"))))
    schema = catalog.schema_in_use(connection, settings.db_schema)
    refuse_unusable_schema(connection, schema)
    refuse_other_id_types(connection, schema, settings)
    refuse_behind(connection, schema, settings)
    refuse_changed_by_hand(connection, schema, settings)
    if names := catalog.unfinished_indexes(connection, schema, TABLES):
        raise InvalidIndexError(names)
    _refuse_missing_rights(connection, schema)
    _refuse_behind_sequences(connection, schema)


def refuse_other_engines(version: str) -> None:
    """Refuse engines that speak PostgreSQL's protocol and order rows otherwise.

    Raises:
        SchemaError: it names the engine.
    """
    for mark, engine in _OTHER_ENGINES.items():
        if mark in version:
            raise SchemaError(
                f"{engine} is not supported: its numbers do not follow the order of commits; use PostgreSQL itself"
            )


def refuse_behind(connection: Connection, schema: str, settings: PersistenceSettings) -> None:
    """Refuse a schema that is older than this version; warn of a newer one.

    Raises:
        NotMigratedError: the message names the command.
        SchemaError: the tables exist, and the version table records no revision.
    """
    found = catalog.revisions(connection, schema, settings.version_table)
    if not catalog.recorded_config(connection, schema):
        elsewhere = [] if settings.db_schema else [one for one in catalog.schemas_of_ours(connection) if one != schema]
        raise NotMigratedError(None, config.head(), elsewhere=elsewhere)
    refuse_unrecorded(found, settings.version_table)
    theirs = [revision for revision in found if not config.is_ours(revision)]
    command = _OF_THE_HOST if theirs else _OURS
    if config.head() in found:
        return
    if behind := [revision for revision in found if config.is_known(revision)]:
        raise NotMigratedError(behind[0], config.head(), command)
    # A revision of the host that depends on ours replaces it in the version table, so only the columns tell.
    if len(theirs) < len(found):
        warn_ahead(found)
    elif not _has_all_columns(connection, schema, settings):
        raise NotMigratedError(theirs[0], config.head(), command)


def _refuse_missing_rights(connection: Connection, schema: str) -> None:
    # A role that only reads is fine; one that writes needs them all, or background work fails again and again.
    if catalog.missing_grants(connection, schema, {"threads": ("INSERT",)}):
        return
    if grants := catalog.missing_grants(connection, schema, catalog.RIGHTS):
        raise MissingRightsError(catalog.role_of(connection), grants)


def refuse_unrecorded(found: list[str], version_table: str) -> None:
    """Refuse tables of ours whose revision is not recorded; it would be the host's Alembic that upgrades them.

    Raises:
        SchemaError: no revision was found.
    """
    if not found:
        raise SchemaError(
            f"the tables exist, but {version_table} records no revision; if your own Alembic runs our revisions, "
            "set PERSISTENCE_VERSION_TABLE to its version table (alembic_version), else restore ours with alembic stamp"
        )


def _has_all_columns(connection: Connection, schema: str, settings: PersistenceSettings) -> bool:
    tables = build_models(settings.id_types, schema=settings.db_schema).metadata.sorted_tables
    return all({*table.columns.keys()} <= {*catalog.column_types(connection, schema, table.name)} for table in tables)


def _refuse_behind_sequences(connection: Connection, schema: str) -> None:
    if behind := [table for table, is_behind in catalog.sequences(connection, schema).items() if is_behind]:
        columns = [f"{table}.{catalog.NUMBERED[table]}" for table in behind]
        raise SequenceBehindError(columns, " ".join(catalog.advance(schema, table) for table in behind))


def warn_ahead(found: list[str]) -> None:
    """Log a warning that the schema is newer than this version."""
    logger.warning(
        "the database is at revision %s, which this version (at %s) does not know; going on",
        ", ".join(found),
        config.head(),
        extra={"event_name": "schema.newer"},
    )


def refuse_changed_by_hand(connection: Connection, schema: str, settings: PersistenceSettings) -> None:
    """Refuse a migrated schema whose columns of ids or sequences are no longer those that a revision made.

    Raises:
        IdTypeMismatchError: a column of ids has another type than the settings say.
        SchemaError: such a column is missing, or a sequence hands out numbers ahead.
    """
    if caching := catalog.caching_sequences(connection, schema):
        raise SchemaError(
            f"a sequence hands out numbers ahead, so they do not follow the order of commits; run: {caching}"
        )
    given: dict[str, IdKind] = {"id_type": settings.id_type, "user_id_type": settings.user_id_type}
    for (table, column), key in _ID_COLUMNS.items():
        found = catalog.column_types(connection, schema, table).get(column)
        if found is None:
            raise SchemaError(f"{table}.{column} is missing, though the schema is migrated: it was dropped by hand")
        if _KINDS.get(found, found) != given[key]:
            raise IdTypeMismatchError(f"PERSISTENCE_{key.upper()}", _KINDS.get(found, found), given[key])
