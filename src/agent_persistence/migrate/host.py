"""Support for applications whose Alembic works on the same database."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final

from alembic import context
from sqlalchemy import ForeignKeyConstraint, TextClause, text
from sqlalchemy.schema import SchemaItem

from agent_persistence.migrate.operations import OPTIONS, RevisionOptions
from agent_persistence.migrate.preflight import TABLES
from agent_persistence.settings import PersistenceSettings

IncludeName = Callable[[str | None, str, MutableMapping[Any, Any]], bool]
IncludeObject = Callable[[SchemaItem, str | None, str, bool, SchemaItem | None], bool]

_SCHEMA_OF: Final = text(
    """
    SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = to_regclass(quote_ident(:name))
    """
)
_HAS_OURS: Final = text("SELECT to_regclass(format('%I.persistence_config', CAST(:schema AS text)))")


def context_options(settings: PersistenceSettings | None = None) -> dict[str, Any]:
    """Return options that a host's ``env.py`` passes to ``context.configure`` to run our revisions.

    A host that keeps one history for both adds our ``versions`` folder to its ``version_locations`` and passes these.
    Our revisions name no schema, so ``PERSISTENCE_DB_SCHEMA`` has no effect there: our tables are created where the
    host's are.

    Args:
        settings: the id types, and how long a revision waits for a lock; read from the environment if left out.
    """
    settings = settings or PersistenceSettings()
    options = RevisionOptions(settings.id_type, settings.user_id_type, settings.migration_ddl_lock_timeout_ms)
    # A transaction for each revision: a retry then repeats only the revision that did not get its lock, and PostgreSQL
    # refuses to use an enum label in the transaction that adds it.
    return {OPTIONS: options, "transaction_per_migration": True}


def include_name(settings: PersistenceSettings | None = None) -> IncludeName:
    """Return an ``include_name`` that keeps a host's autogenerate from dropping our tables.

    It is faster than ``include_object`` where there are many tables. Use it only if the host's metadata does not
    hold our tables.

    Args:
        settings: the names of the schema and the version table; read from the environment if left out.
    """
    is_ours = _is_our_table(settings or PersistenceSettings())

    def include(name: str | None, type_: str, parent_names: MutableMapping[Any, Any]) -> bool:
        return not (type_ == "table" and is_ours(name, parent_names.get("schema_name")))

    return include


def include_object(settings: PersistenceSettings | None = None) -> IncludeObject:
    """Return an ``include_object`` that keeps a host's autogenerate from dropping or creating our tables.

    Use it where the host's metadata holds our tables, because it maps the mixins on its ``Base``. Of our tables it
    shows only the foreign keys to the host's tables, which belong to the host's history.

    Args:
        settings: the names of the schema and the version table; read from the environment if left out.
    """
    is_ours = _is_our_table(settings or PersistenceSettings())

    def include(item: SchemaItem, name: str | None, type_: str, _reflected: object, compare_to: object) -> bool:
        if type_ == "table":
            # Present on both sides: nothing is created or dropped, and only the foreign keys are compared.
            return compare_to is not None or not is_ours(name, getattr(item, "schema", None))
        table = getattr(item, "table", None)
        if table is None or not is_ours(table.name, table.schema):
            return True
        return isinstance(item, ForeignKeyConstraint) and not is_ours(*_target_of(item))

    return include


def _target_of(key: ForeignKeyConstraint) -> tuple[str, str | None]:
    """Return the name and the schema of the table that a foreign key points to."""
    schema, _, table = key.elements[0].target_fullname.rpartition(".")[0].rpartition(".")
    return table, schema or None


def _is_our_table(settings: PersistenceSettings) -> Callable[[str | None, str | None], bool]:
    names, ours = {*TABLES, settings.version_table}, settings.db_schema

    def is_ours(name: str | None, schema: str | None) -> bool:
        if name is None or name not in names:
            return False
        if ours is None:
            # Our tables are in the first schema of the search path of the migration, which can be another one here.
            return schema is None or _ask(_HAS_OURS, schema=schema) is not None
        # Alembic names the schema of a table only if it must: without one, the table can be in any of the search path.
        return (schema or _ask(_SCHEMA_OF, name=name) or "public") == ours

    return is_ours


def _ask(query: TextClause, **values: str) -> Any:
    """Ask the database that Alembic compares; ``None`` outside of an ``env.py``, where no context exists."""
    try:
        connection = context.get_context().connection
    except Exception:  # noqa: BLE001  # NameError, or Alembic's bare Exception, where no env.py is running
        return None
    return connection.scalar(query, values) if connection else None
