"""The checks of ``doctor`` in the database."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Dialect, Index, PrimaryKeyConstraint, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import AddConstraint, CreateIndex

from agent_persistence import migrate
from agent_persistence.cli.checkup_integrity import examine_integrity
from agent_persistence.cli.failures import describe, exit_code_of, no_connection
from agent_persistence.cli.finding import Finding, Level
from agent_persistence.database.driver_errors import TOO_MANY_CONNECTIONS, sqlstate_of, translated
from agent_persistence.errors import NotMigratedError, PersistenceError, SchemaError
from agent_persistence.migrate import catalog
from agent_persistence.migrate.config import is_known, is_ours
from agent_persistence.migrate.optional import OBJECTS, present, unprotected_tables
from agent_persistence.migrate.preflight import TABLES, refuse_unusable_schema
from agent_persistence.migrate.verify import refuse_behind, refuse_changed_by_hand
from agent_persistence.models import build_models
from agent_persistence.settings import PersistenceSettings

_HISTORIES = "docs/howto/migrations.md, 'One history for both'"
_UPGRADE = "agent-persistence upgrade"
_ADD = "agent-persistence optional add"
_TIME_TO_COMPARE = text("SET LOCAL statement_timeout = '2s'")
_SECURED = text("SELECT row_security_active(format('%I.%I', CAST(:schema AS text), 'threads'))")


async def examine_database(engine: AsyncEngine, settings: PersistenceSettings) -> list[Finding]:
    """Check the server, the schema and its indexes."""
    address = settings.database.safe if settings.database else ""
    try:
        with translated():
            async with engine.connect() as connection:
                return await connection.run_sync(lambda sync: [*_findings(sync, settings, address)])
    except PersistenceError as error:
        # A server that is full says in the error itself what to do.
        is_away = no_connection(error) and sqlstate_of(error) != TOO_MANY_CONNECTIONS
        remedy = "start the server, or correct PERSISTENCE_DATABASE_URL" if is_away else None
        return [Finding(Level.FAIL, "database", f"{address}: {describe(error)}", remedy, exit_code_of(error))]


def _findings(connection: Connection, settings: PersistenceSettings, address: str) -> Iterator[Finding]:
    version = connection.scalar(text("SHOW server_version"))
    yield Finding(Level.OK, "database", f"PostgreSQL {version} at {address}")
    yield from _read_only(connection)
    schema = catalog.schema_in_use(connection, settings.db_schema)
    try:
        refuse_unusable_schema(connection, schema)
    except SchemaError as error:
        yield Finding(Level.FAIL, "rights", str(error), getattr(error, "command", None))
        return
    revisions = catalog.revisions(connection, schema, settings.version_table)
    recorded = catalog.recorded_config(connection, schema)
    migration = _migration(connection, schema, settings)
    yield migration
    if revisions and recorded:
        types = [*_id_types(recorded, settings)]
        yield from types
        if Level.FAIL not in {found.level for found in (migration, *types)}:
            yield from _changed_by_hand(connection, schema, settings)
        yield from _missing_indexes(connection, schema, settings)
        yield from _unfinished_indexes(connection, schema)
        yield from examine_integrity(connection, schema, settings)
        yield from _rights(connection, schema)
        yield from _sequences(connection, schema)
        yield from _optional(connection, schema, settings)


def _migration(connection: Connection, schema: str, settings: PersistenceSettings) -> Finding:
    try:
        refuse_behind(connection, schema, settings)
    except NotMigratedError as error:
        at = f"at revision {error.current}" if error.current else "not created"
        return Finding(Level.FAIL, "schema", f"{at}; this version needs {error.head}", error.command)
    except SchemaError as error:
        return Finding(Level.FAIL, "schema", str(error), f"see {_HISTORIES}")
    revisions = catalog.revisions(connection, schema, settings.version_table)
    at = ", ".join(revisions)
    if ahead := [revision for revision in revisions if is_ours(revision) and not is_known(revision)]:
        remedy = "pip install --upgrade agent-persistence"
        detail = f"at revision {', '.join(ahead)}, which this version (at {migrate.head()}) does not know"
        return Finding(Level.WARN, "schema", detail, remedy)
    return Finding(Level.OK, "schema", f"at revision {at}, the newest")


def _id_types(recorded: dict[str, str], settings: PersistenceSettings) -> Iterator[Finding]:
    for key, given in (("id_type", settings.id_type), ("user_id_type", settings.user_id_type)):
        variable, found = f"PERSISTENCE_{key.upper()}", recorded.get(key, "nothing")
        if found == given:
            yield Finding(Level.OK, key, given)
        else:
            detail = f"the database was created with {found}, the settings say {given}"
            yield Finding(Level.FAIL, key, detail, f"export {variable}={found}")


def _changed_by_hand(connection: Connection, schema: str, settings: PersistenceSettings) -> Iterator[Finding]:
    try:
        refuse_changed_by_hand(connection, schema, settings)
    except SchemaError as error:
        yield Finding(Level.FAIL, "schema", str(error))


def _missing_indexes(connection: Connection, schema: str, settings: PersistenceSettings) -> Iterator[Finding]:
    wanted = {str(item.name): item for item in _indexes(settings)}
    there = catalog.objects_named(connection, schema, list(wanted))
    missing = [item for name, item in sorted(wanted.items()) if name not in there]
    for item in missing:
        yield Finding(Level.FAIL, "indexes", f"{item.name} is missing", _creation(item, connection.dialect))
    if not missing:
        yield Finding(Level.OK, "indexes", f"all {len(wanted)} exist")


def _indexes(settings: PersistenceSettings) -> Iterator[PrimaryKeyConstraint | Index]:
    for table in build_models(settings.id_types, schema=settings.db_schema).metadata.sorted_tables:
        # ``alembic check`` does not notice a primary key that was dropped.
        yield table.primary_key
        yield from table.indexes


def _unfinished_indexes(connection: Connection, schema: str) -> Iterator[Finding]:
    for name in catalog.unfinished_indexes(connection, schema, TABLES):
        again = next((f"{_ADD} {item.name}" for item in OBJECTS.values() if item.creates == name), _UPGRADE)
        remedy = f'psql: DROP INDEX CONCURRENTLY "{schema}"."{name}"; then: {again}'
        yield Finding(Level.FAIL, "indexes", f"{name} is invalid: its build was interrupted", remedy)


def _read_only(connection: Connection) -> Iterator[Finding]:
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        remedy = "use the address of the primary, or target_session_attrs=primary"
        yield Finding(Level.FAIL, "database", "this is a standby, which takes no writes", remedy)
    elif connection.scalar(text("SHOW transaction_read_only")) == "on":
        remedy = f'psql: ALTER ROLE "{catalog.role_of(connection)}" SET default_transaction_read_only = off;'
        yield Finding(Level.FAIL, "database", "default_transaction_read_only is on: every write fails", remedy)


def _rights(connection: Connection, schema: str) -> Iterator[Finding]:
    grants = catalog.missing_grants(connection, schema, catalog.RIGHTS)
    others = catalog.missing_grants(connection, schema, catalog.OTHER_RIGHTS)
    if grants:
        yield Finding(Level.FAIL, "rights", "this role lacks rights on tables that it needs", f"psql: {grants}")
    if others:
        detail = "this role lacks rights on tables that only LangGraph and Agentflow need"
        yield Finding(Level.WARN, "rights", detail, f"psql: {others}")
    if not grants and not others:
        yield Finding(Level.OK, "rights", "this role may read and write every table")


def _sequences(connection: Connection, schema: str) -> Iterator[Finding]:
    found = _compared_sequences(connection, schema)
    for table, is_behind in found.items():
        if is_behind:
            detail = (
                f"that of {table}.{catalog.NUMBERED[table]} is behind the rows, and a new row would not be the latest"
            )
            remedy = f"stop every writer, then psql: {catalog.advance(schema, table)}"
            yield Finding(Level.FAIL, "sequences", detail, remedy)
    if unread := [table for table, is_behind in found.items() if is_behind is None]:
        detail = f"this role may not read the sequences of {', '.join(unread)}, to compare them with the rows"
        role = catalog.role_of(connection)
        remedy = f'psql: GRANT SELECT ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{role}";'
        yield Finding(Level.WARN, "sequences", detail, remedy)
    elif not any(found.values()):
        yield Finding(Level.OK, "sequences", f"all {len(found)} are ahead of the rows")


def _compared_sequences(connection: Connection, schema: str) -> dict[str, bool | None]:
    """Compare all rows if that takes two seconds at most, else those that an application compares when it starts."""
    savepoint = connection.begin_nested()
    try:
        connection.execute(_TIME_TO_COMPARE)
        return catalog.sequences(connection, schema, whole=True)
    except DBAPIError:
        savepoint.rollback()
        return catalog.sequences(connection, schema)
    finally:
        if savepoint.is_active:
            savepoint.rollback()


def _optional(connection: Connection, schema: str, settings: PersistenceSettings) -> Iterator[Finding]:
    found = present(connection, schema)
    added = ", ".join(name for name, is_on in found.items() if is_on)
    yield Finding(Level.OK, "optional", added or "none of the optional objects")
    yield from _row_level_security(connection, schema, secured=found["row-level-security"], settings=settings)


def _row_level_security(
    connection: Connection, schema: str, *, secured: bool, settings: PersistenceSettings
) -> Iterator[Finding]:
    named = settings.row_level_security
    if secured and (open_to_all := unprotected_tables(connection, schema)):
        detail = f"row-level security is on, but not for {', '.join(open_to_all)}"
        yield Finding(Level.FAIL, "optional", detail, f"{_ADD} row-level-security")
    if named and not secured:
        detail = "PERSISTENCE_ROW_LEVEL_SECURITY is true, and the database has no policies: only WHERE protects rows"
        yield Finding(Level.WARN, "optional", detail, f"{_ADD} row-level-security")
    elif secured and not connection.scalar(_SECURED, {"schema": schema}):
        detail = "row-level security does not hold for this role, which is a superuser or has BYPASSRLS"
        yield Finding(Level.WARN, "optional", detail, "connect as another role")
    elif secured and not named:
        detail = "row-level security is on, and no transaction names its owner: this role sees no row"
        yield Finding(Level.FAIL, "optional", detail, "export PERSISTENCE_ROW_LEVEL_SECURITY=true")


def _creation(item: PrimaryKeyConstraint | Index, dialect: Dialect) -> str:
    # CONCURRENTLY, so that the remedy can be pasted while the table is written to.
    command = CreateIndex(item) if isinstance(item, Index) else AddConstraint(item)
    statement = " ".join(str(command.compile(dialect=dialect)).split())
    return f"psql: {statement.replace('CREATE INDEX', 'CREATE INDEX CONCURRENTLY', 1)};"
