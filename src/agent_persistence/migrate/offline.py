"""``alembic upgrade --sql``: a script for databases that programs may not alter."""

from __future__ import annotations

from typing import Final

from alembic import context

from agent_persistence.migrate.host import context_options
from agent_persistence.settings import PersistenceSettings

# IF NOT EXISTS lost: it needs the right to create schemas even where the schema exists.
_CREATE_SCHEMA: Final = """\
DO $$ BEGIN
  IF to_regnamespace({literal}) IS NULL THEN
    CREATE SCHEMA {quoted};
  END IF;
END $$;

SET search_path = {quoted};"""
# Nested, because PostgreSQL plans a condition as a whole: with AND, a missing table would be an error.
_REFUSE_OTHER_ID_TYPES: Final = """\
DO $$ BEGIN
  IF to_regclass('persistence_config') IS NOT NULL THEN
    IF EXISTS (
      SELECT FROM persistence_config
      WHERE (key = 'id_type' AND value <> '{id_type}') OR (key = 'user_id_type' AND value <> '{user_id_type}')
    ) THEN
      RAISE EXCEPTION 'this script was written for id_type={id_type}, user_id_type={user_id_type}; the database has %',
        (SELECT string_agg(key || '=' || value, ', ' ORDER BY key) FROM persistence_config);
    END IF;
  END IF;
END $$;"""


def write_script(settings: PersistenceSettings) -> None:
    """Write the SQL of the command, for ``psql -v ON_ERROR_STOP=1`` on a direct connection."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        version_table=settings.version_table,
        **context_options(settings),
    )
    context.static_output("SET statement_timeout = 0;")
    if settings.db_schema is not None:
        context.static_output(_create_schema(settings.db_schema))
    context.static_output(_REFUSE_OTHER_ID_TYPES.format(id_type=settings.id_type, user_id_type=settings.user_id_type))
    with context.begin_transaction():
        context.run_migrations()
    context.static_output("RESET statement_timeout;\n\nRESET search_path;")


def _create_schema(schema: str) -> str:
    quoted = context.get_context().dialect.identifier_preparer.quote_identifier(schema)
    literal = "'" + quoted.replace("'", "''") + "'"
    return _CREATE_SCHEMA.format(quoted=quoted, literal=literal)
