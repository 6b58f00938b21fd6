"""Reads of the database's catalog. Every name is qualified, so the search path does not matter."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, ScalarResult, bindparam, column, func, select, table, tablesample, text

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
_SEQUENCES: Final = text(
    """
    SELECT
      name,
      CAST(CASE WHEN has_sequence_privilege(sequence, 'USAGE, SELECT')
        THEN coalesce(pg_sequence_last_value(sequence), 0) END AS bigint) AS last_value,
      pg_relation_size(numbered) / CAST(current_setting('block_size') AS integer) AS pages
    FROM (
      SELECT
        name,
        to_regclass(format('%I.%I', CAST(:schema AS text), name)) AS numbered,
        CAST(pg_get_serial_sequence(format('%I.%I', CAST(:schema AS text), name), number) AS regclass) AS sequence
      FROM unnest(CAST(:names AS text[]), CAST(:numbers AS text[])) AS numbered (name, number)
    ) AS found
    WHERE has_table_privilege(numbered, 'SELECT')
    """
)
_CACHING: Final = text(
    """
    SELECT CAST(CAST(seqrelid AS regclass) AS text)
    FROM unnest(CAST(:names AS text[]), CAST(:numbers AS text[])) AS numbered (name, number)
    JOIN pg_class ON relname = name AND relnamespace = to_regnamespace(quote_ident(:schema))
    JOIN pg_attribute ON attrelid = pg_class.oid AND attname = number
    JOIN pg_depend ON refobjid = pg_class.oid AND refobjsubid = attnum AND deptype = 'i'
    JOIN pg_sequence ON seqrelid = pg_depend.objid
    WHERE seqcache > 1
    ORDER BY 1
    """
)
_SEES_ALL_ROWS: Final = text("SELECT current_setting('agent_persistence.any_user', true)")
_SEE_ALL_ROWS: Final = text("SELECT set_config('agent_persistence.any_user', :any_user, true)")
_MISSING_RIGHTS: Final = text(
    """
    SELECT relname, wanted.privilege
    FROM unnest(CAST(:names AS text[]), CAST(:privileges AS text[])) WITH ORDINALITY AS wanted (name, privilege, place)
    JOIN pg_class ON relname = wanted.name AND relnamespace = to_regnamespace(quote_ident(:schema))
    WHERE NOT has_table_privilege(pg_class.oid, wanted.privilege)
      AND (wanted.privilege = 'DELETE' OR NOT has_any_column_privilege(pg_class.oid, wanted.privilege))
    ORDER BY place
    """
)
_WRITE: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
RIGHTS: Final[dict[str, Sequence[str]]] = {
    **dict.fromkeys(("threads", "states", "messages", "cache_outbox"), _WRITE),
    **dict.fromkeys(("state_streams", "state_chunks", "items", "persistence_jobs"), _WRITE),
    "state_versions": ("SELECT",),
    "persistence_config": ("SELECT",),
}
"""The rights that every application needs, by table."""

OTHER_RIGHTS: Final[dict[str, Sequence[str]]] = {
    **dict.fromkeys(("graph_checkpoints", "graph_values", "tool_results", "conversation_imports"), _WRITE),
    "opt_item_vectors": ("SELECT", "INSERT"),
}
"""Those that only LangGraph, Agentflow, imports and vectors need."""

_SCHEMAS_OF_OURS: Final = text(
    "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE relname = 'persistence_config' ORDER BY 1"
)
NUMBERED: Final = {
    "states": "state_id",
    "messages": "seq",
    "graph_values": "value_no",
    "state_streams": "stream_id",
    "cache_outbox": "outbox_id",
}
"""The columns that a sequence numbers, by table. Ids of threads and messages are not among them: gaps are skipped."""

_SAMPLED_PAGES: Final = 1000


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


def sequences(connection: Connection, schema: str, *, whole: bool = False) -> dict[str, bool | None]:
    """Return for each table of ``NUMBERED`` whether its sequence is behind its rows; ``None`` if it cannot be read.

    Tables that this role may not read are left out.

    Args:
        connection: the connection.
        schema: the schema of the tables.
        whole: compare all rows, and not only those of the last pages and of a sample: no index leads with the number.
    """
    names = {"schema": schema, "names": list(NUMBERED), "numbers": list(NUMBERED.values())}
    with all_rows(connection):
        greatest = {
            found.name: _greatest(connection, schema, found, whole=whole)
            for found in connection.execute(_SEQUENCES, names).all()
        }
        # After the rows: a concurrent writer advances the sequence before it inserts, so no row of that writer is found
        # ahead of it.
        return {
            found.name: None if found.last_value is None else greatest.get(found.name, 0) > found.last_value
            for found in connection.execute(_SEQUENCES, names).all()
        }


def _greatest(connection: Connection, schema: str, numbered: Any, *, whole: bool) -> int:
    if not numbered.pages:
        return 0
    number = NUMBERED[numbered.name]
    rows = table(numbered.name, column(number), schema=schema)
    # Rows that came after the sequence was advanced are the last ones of the table; if it never was, any row shows it.
    # Rows in the space of deleted ones can be missed: then the write that draws a number for their thread is refused.
    first = max(numbered.pages - _SAMPLED_PAGES, 0)
    if whole or not first:
        found: Any = select(func.max(rows.c[number]).label("number"))
    else:
        sample = tablesample(rows, 100.0 * _SAMPLED_PAGES / numbered.pages)
        is_last = text("ctid >= CAST(CAST(:first AS text) AS tid)").bindparams(first=f"({first},0)")
        found = select(func.max(rows.c[number]).label("number")).where(is_last)
        found = found.union_all(select(func.max(sample.c[number])))
    return connection.scalar(select(func.max(found.subquery().c.number))) or 0


@contextmanager
def all_rows(connection: Connection) -> Iterator[None]:
    """See the rows of every owner in this block, also under row-level security."""
    before = connection.scalar(_SEES_ALL_ROWS) or ""
    connection.execute(_SEE_ALL_ROWS, {"any_user": "on"})
    yield
    # An error ends the transaction, and the setting with it.
    connection.execute(_SEE_ALL_ROWS, {"any_user": before})


def caching_sequences(connection: Connection, schema: str) -> str:
    """Return the statements that keep sessions from drawing several numbers at once; empty if none does."""
    names = {"schema": schema, "names": list(NUMBERED), "numbers": list(NUMBERED.values())}
    found = connection.scalars(_CACHING, names).all()
    return " ".join(f"ALTER SEQUENCE {name} CACHE 1;" for name in found)


def advance(schema: str, table_name: str) -> str:
    """Return the statement that advances the sequence of a numbered table past its rows."""
    number = NUMBERED[table_name]
    rows = f'"{schema}"."{table_name}"'
    greatest = f"(SELECT max({number}) FROM {rows})"  # noqa: S608  # names of ours, and only shown
    return f"SELECT setval(pg_get_serial_sequence('{rows}', '{number}'), {greatest});"


def missing_grants(connection: Connection, schema: str, rights: Mapping[str, Sequence[str]]) -> str:
    """Return the GRANTs of rights that this role lacks on existing tables; empty if it has all."""
    wanted = [(table, privilege) for table, privileges in rights.items() for privilege in privileges]
    names, privileges = zip(*wanted, strict=True)
    values = {"schema": schema, "names": list(names), "privileges": list(privileges)}
    missing: dict[str, list[str]] = {}
    for name, privilege in connection.execute(_MISSING_RIGHTS, values):
        missing.setdefault(name, []).append(privilege)
    role = role_of(connection)
    return " ".join(
        f'GRANT {", ".join(of)} ON "{schema}"."{name}" TO "{role}";' for name, of in sorted(missing.items())
    )


def role_of(connection: Connection) -> str:
    """Return the role of the connection."""
    return str(connection.scalar(text("SELECT current_user")))


def may(connection: Connection, schema: str, privilege: str) -> bool:
    """Whether this role has a right on a schema, or the schema does not exist."""
    query = text("SELECT has_schema_privilege(to_regnamespace(quote_ident(:schema)), CAST(:privilege AS text))")
    return connection.scalar(query, {"schema": schema, "privilege": privilege}) is not False


def schemas_of_ours(connection: Connection) -> list[str]:
    """Return the schemas that have our tables."""
    return list(connection.scalars(_SCHEMAS_OF_OURS))


def recorded_config(connection: Connection, schema: str) -> dict[str, str]:
    """Return the settings with which the database was created; empty if it was not."""
    if set(column_types(connection, schema, "persistence_config")) != {"key", "value"}:
        return {}
    config = table("persistence_config", column("key"), column("value"), schema=schema)
    return {row.key: row.value for row in connection.execute(select(config))}


def has_nothing_of_ours(connection: Connection, schema: str, version_table: str) -> bool:
    """Whether there is a version table without a revision, and none of our tables."""
    is_there = set(column_types(connection, schema, version_table)) == {"version_num"}
    return is_there and not recorded_config(connection, schema) and not revisions(connection, schema, version_table)


def _column(connection: Connection, schema: str, table_name: str, name: str) -> ScalarResult[str]:
    return connection.scalars(select(column(name)).select_from(table(table_name, column(name), schema=schema)))
