"""The checks of ``doctor`` on what keeps rows right: constraints, triggers and collations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import CheckConstraint, Connection, ForeignKeyConstraint, Table, text
from sqlalchemy.schema import AddConstraint

from agent_persistence.cli.finding import Finding, Level
from agent_persistence.migrate.preflight import TABLES
from agent_persistence.models import build_models
from agent_persistence.settings import PersistenceSettings

# Of one that is not enforced, PostgreSQL says that it is not validated.
_CONSTRAINTS: Final = text(
    """
    SELECT relname AS table, conname AS name, bool_and(convalidated) AS is_valid
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND contype IN ('f', 'c')
    GROUP BY relname, conname
    """
)
# Those of constraints as well: without them a foreign key refuses nothing, and no cascade deletes.
_TRIGGERS: Final = text(
    """
    SELECT relname AS table, tgname AS name, tgisinternal AS is_of_a_key, tgenabled IN ('D', 'R') AS is_off
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND relname = ANY (CAST(:tables AS text[]))
      AND (tgisinternal OR tgname = :guard OR tgname LIKE 'opt\\_%')
    ORDER BY relname, tgname
    """
)
_COLLATIONS: Final = text(
    """
    SELECT relname AS table, attname AS column, collname AS name, collisdeterministic AS is_exact,
      format_type(atttypid, atttypmod) AS type
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND attnum > 0 AND NOT attisdropped
    ORDER BY relname, attnum
    """
)
_GUARD: Final = "refuse_change_of_base"
# As the newest revision that changes it does.
_RESTORE_GUARD: Final = (
    'CREATE TRIGGER refuse_change_of_base BEFORE UPDATE OF state_data, patch ON "{schema}".states FOR EACH ROW WHEN '
    "(OLD.state_data IS DISTINCT FROM NEW.state_data OR OLD.patch IS DISTINCT FROM NEW.patch) "
    'EXECUTE FUNCTION "{schema}".refuse_change_of_base();'
)
_OF_KEYS: Final = "those of its foreign keys"
_EXACT: Final = "C"


def examine_integrity(connection: Connection, schema: str, settings: PersistenceSettings) -> Iterator[Finding]:
    """Compare constraints, triggers and collations with those that the revisions made."""
    tables = build_models(settings.id_types, schema=settings.db_schema).metadata.sorted_tables
    yield from _or_ok("constraints", "all exist and hold", [*_constraints(connection, schema, tables)])
    yield from _or_ok("triggers", "all are enabled", [*_triggers(connection, schema)])
    yield from _or_ok("collations", "ids are compared as bytes", [*_collations(connection, schema, tables)])


def _or_ok(subject: str, detail: str, found: list[Finding]) -> list[Finding]:
    return found or [Finding(Level.OK, subject, detail)]


def _constraints(connection: Connection, schema: str, tables: Sequence[Table]) -> Iterator[Finding]:
    rows = connection.execute(_CONSTRAINTS, {"schema": schema})
    there = {(row.table, row.name): row.is_valid for row in rows}
    for table in tables:
        for item in sorted(table.constraints, key=lambda one: str(one.name)):
            if not isinstance(item, ForeignKeyConstraint | CheckConstraint):
                continue  # the index of a primary key is checked with the others
            is_valid = there.get((table.name, item.name))
            if is_valid is None:
                statement = " ".join(str(AddConstraint(item).compile(dialect=connection.dialect)).split())
                remedy = f"psql: {statement};"
                yield Finding(Level.FAIL, "constraints", f"{item.name} of {table.name} is missing", remedy)
            elif not is_valid:
                detail = f"{item.name} of {table.name} is not valid: rows may violate it"
                remedy = f'psql: ALTER TABLE "{schema}"."{table.name}" VALIDATE CONSTRAINT "{item.name}";'
                yield Finding(Level.FAIL, "constraints", detail, remedy)


def _triggers(connection: Connection, schema: str) -> Iterator[Finding]:
    values = {"schema": schema, "tables": list(TABLES), "guard": _GUARD}
    rows = connection.execute(_TRIGGERS, values).all()
    if not any(row.name == _GUARD for row in rows):
        detail = f"{_GUARD} of states is missing: an UPDATE by hand can change later states that rest on a row"
        yield Finding(Level.FAIL, "triggers", detail, f"psql: {_RESTORE_GUARD.format(schema=schema)}")
    off: dict[str, list[str]] = {}
    for row in rows:
        if row.is_off:
            # PostgreSQL knows those of keys by numbers, and enables them only together.
            off.setdefault(row.table, []).append(_OF_KEYS if row.is_of_a_key else row.name)
    for table, names in off.items():
        wanted = ["ALL"] if _OF_KEYS in names else [f'"{name}"' for name in names]
        psql = "psql, as a superuser" if _OF_KEYS in names else "psql"
        enabled = ", ".join(f"ENABLE TRIGGER {name}" for name in wanted)
        detail = f"disabled on {table}: {', '.join(dict.fromkeys(names))}"
        yield Finding(Level.FAIL, "triggers", detail, f'{psql}: ALTER TABLE "{schema}"."{table}" {enabled};')


def _collations(connection: Connection, schema: str, tables: Sequence[Table]) -> Iterator[Finding]:
    wanted = {
        (table.name, column.name)
        for table in tables
        for column in table.columns
        if getattr(column.type, "collation", None) == _EXACT
    }
    for row in connection.execute(_COLLATIONS, {"schema": schema}):
        if (row.table, row.column) in wanted and row.name not in (_EXACT, "POSIX"):
            remedy = _restored(schema, row)
            if row.is_exact:
                detail = f'{row.table}.{row.column} has "{row.name}", not "C": comparing takes longer'
                yield Finding(
                    Level.WARN, "collations", f"{detail}, and an update of the system can break indexes", remedy
                )
            else:
                detail = f'{row.table}.{row.column} has "{row.name}", for which different ids are equal'
                yield Finding(Level.FAIL, "collations", detail, remedy)


def _restored(schema: str, row: Any) -> str:
    change = f'ALTER COLUMN "{row.column}" TYPE {row.type} COLLATE "{_EXACT}"'
    return f'psql: ALTER TABLE "{schema}"."{row.table}" {change};'
