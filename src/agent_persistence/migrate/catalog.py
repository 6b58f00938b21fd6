"""Reads of the database's catalog. Every name is qualified, so the search path does not matter."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, ScalarResult, bindparam, column, select, table, text

_COLUMNS: Final = text(
    """
    SELECT attname, format_type(atttypid, atttypmod) AS type
    FROM pg_attribute
    WHERE attrelid = to_regclass(format('%I.%I', CAST(:schema AS text), CAST(:table AS text)))
      AND attnum > 0 AND NOT attisdropped
    """
)
# Tables, views, enums and domains have a row in pg_type; sequences and indexes have not.
_OBJECTS: Final = text(
    """
    SELECT typname FROM pg_type WHERE typnamespace = to_regnamespace(quote_ident(:schema)) AND typname IN :names
    UNION
    SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND relname IN :names
    ORDER BY 1
    """
).bindparams(bindparam("names", expanding=True))
# An index that is being built now is not counted. Of another role's build only the process can be seen, not the index.
_UNFINISHED_INDEXES: Final = text(
    """
    SELECT index_class.relname
    FROM pg_index
    JOIN pg_class AS index_class ON index_class.oid = indexrelid
    JOIN pg_class AS table_class ON table_class.oid = indrelid
    WHERE table_class.relnamespace = to_regnamespace(quote_ident(:schema))
      AND table_class.relname IN :tables
      AND NOT indisvalid
      AND NOT EXISTS (
        SELECT FROM pg_stat_progress_create_index AS build
        WHERE build.datname = current_database() AND (build.index_relid = indexrelid OR build.relid IS NULL)
      )
    ORDER BY 1
    """
).bindparams(bindparam("tables", expanding=True))


def schema_in_use(connection: Connection, schema: str | None) -> str:
    """Return the schema of the tables: that of the settings, or the first of the search path."""
    return schema or connection.scalar(text("SELECT current_schema()")) or ""


def schema_exists(connection: Connection, schema: str) -> bool:
    """Return whether a schema exists."""
    return bool(connection.scalar(text("SELECT to_regnamespace(quote_ident(:schema)) IS NOT NULL"), {"schema": schema}))


def column_types(connection: Connection, schema: str, table_name: str) -> dict[str, str]:
    """Return the columns of a table and their types; empty if the table does not exist."""
    rows = connection.execute(_COLUMNS, {"schema": schema, "table": table_name})
    return {row.attname: row.type for row in rows}


def objects_named(connection: Connection, schema: str, names: Collection[str]) -> list[str]:
    """Return which of these names are taken in the schema, by any kind of object."""
    return list(connection.scalars(_OBJECTS, {"schema": schema, "names": list(names)}))


def unfinished_indexes(connection: Connection, schema: str, tables: Collection[str]) -> list[str]:
    """Return the invalid indexes of interrupted builds."""
    return list(connection.scalars(_UNFINISHED_INDEXES, {"schema": schema, "tables": list(tables)}))


def revisions(connection: Connection, schema: str, version_table: str) -> list[str]:
    """Return the revisions that Alembic recorded; empty if its table does not exist."""
    if "version_num" not in column_types(connection, schema, version_table):
        return []
    return list(_column(connection, schema, version_table, "version_num"))


def recorded_config(connection: Connection, schema: str) -> dict[str, str]:
    """Return the settings with which the database was created; empty if it was not."""
    if set(column_types(connection, schema, "persistence_config")) != {"key", "value"}:
        return {}
    config = table("persistence_config", column("key"), column("value"), schema=schema)
    return {row.key: row.value for row in connection.execute(select(config))}


def _column(connection: Connection, schema: str, table_name: str, name: str) -> ScalarResult[str]:
    return connection.scalars(select(column(name)).select_from(table(table_name, column(name), schema=schema)))
