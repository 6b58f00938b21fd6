"""Checks before a revision runs: whether the schema is ours, and was created with these settings."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection
from sqlalchemy.schema import CreateSchema

from agent_persistence.errors import IdTypeMismatchError, MissingRightsError, SchemaConflictError, SchemaError
from agent_persistence.migrate import catalog
from agent_persistence.settings import PersistenceSettings

TABLES: Final = (
    *("threads", "states", "messages", "persistence_config", "persistence_jobs", "cache_outbox"),
    *("graph_checkpoints", "graph_values", "tool_results", "state_streams", "state_chunks", "conversation_imports"),
    "items",
)
_NAMES: Final = (*TABLES, "message_role", "state_versions")
_OTHER_SCHEMA: Final = "set PERSISTENCE_DB_SCHEMA to a separate schema"
_OTHER_VERSION_TABLE: Final = (
    "set PERSISTENCE_VERSION_TABLE to another name, or PERSISTENCE_DB_SCHEMA to another schema"
)


def create_schema(connection: Connection, schema: str) -> None:
    """Create the schema unless it exists. Checked first: CREATE SCHEMA IF NOT EXISTS needs the right to create."""
    if not catalog.schema_exists(connection, schema):
        connection.execute(CreateSchema(schema))
    connection.commit()


def refuse_unusable_schema(connection: Connection, schema: str) -> None:
    """Refuse a schema that this role may not use: its objects would seem to be missing.

    Raises:
        MissingRightsError: it names the GRANT.
        SchemaError: the search path has no schema that the role may use.
    """
    role = catalog.role_of(connection)
    if not schema:
        raise SchemaError(
            f"the role {role} may use no schema of its search path; grant it USAGE on one, or set PERSISTENCE_DB_SCHEMA"
        )
    if not catalog.may(connection, schema, "USAGE"):
        raise MissingRightsError(role, f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}";')


def refuse_no_right_to_create(connection: Connection, schema: str) -> None:
    """Refuse to create our objects in a schema where this role may create none.

    Raises:
        MissingRightsError: it names the GRANT.
    """
    if not catalog.recorded_config(connection, schema) and not catalog.may(connection, schema, "CREATE"):
        role = catalog.role_of(connection)
        raise MissingRightsError(role, f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{role}";')


def refuse_foreign_objects(connection: Connection, schema: str, version_table: str) -> None:
    """Refuse a schema in which another program's objects have our names.

    Raises:
        SchemaConflictError: it names them.
    """
    columns = catalog.column_types(connection, schema, version_table)
    # Rails, dbmate and golang-migrate call their table schema_migrations as well, with other columns.
    if columns and set(columns) != {"version_num"}:
        raise SchemaConflictError(schema, [version_table], _OTHER_VERSION_TABLE)
    if catalog.recorded_config(connection, schema):
        # The schema is ours, even if the version table is lost: then ``alembic stamp`` repairs it.
        return
    if catalog.revisions(connection, schema, version_table):
        raise SchemaConflictError(schema, [version_table], _OTHER_VERSION_TABLE)
    if taken := catalog.objects_named(connection, schema, _NAMES):
        raise SchemaConflictError(schema, taken, _OTHER_SCHEMA)


def refuse_other_id_types(connection: Connection, schema: str, settings: PersistenceSettings) -> None:
    """Refuse settings that differ from those with which the database was created.

    Raises:
        IdTypeMismatchError: it names the variable and both values.
    """
    recorded = catalog.recorded_config(connection, schema)
    for key, given in (("id_type", settings.id_type), ("user_id_type", settings.user_id_type)):
        if recorded.get(key, given) != given:
            raise IdTypeMismatchError(f"PERSISTENCE_{key.upper()}", recorded[key], given)
