"""For applications whose own Alembic works on the same database."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.schema import SchemaItem

from agent_persistence.migrate.operations import OPTIONS, RevisionOptions
from agent_persistence.migrate.preflight import TABLES
from agent_persistence.settings import PersistenceSettings

IncludeName = Callable[[str | None, str, MutableMapping[Any, Any]], bool]
IncludeObject = Callable[[SchemaItem, str | None, str, bool, SchemaItem | None], bool]


def context_options(settings: PersistenceSettings | None = None) -> dict[str, Any]:
    """What ``context.configure`` must be given by an ``env.py`` that runs our revisions.

    A host that keeps one history for both adds our ``versions`` folder to its ``version_locations`` and passes these.
    Our revisions name no schema, so ``PERSISTENCE_DB_SCHEMA`` has no effect there: our tables come to stand where the
    host's do.
    """
    settings = settings or PersistenceSettings()
    options = RevisionOptions(settings.id_type, settings.user_id_type, settings.migration_ddl_lock_timeout_ms)
    return {OPTIONS: options, "transaction_per_migration": True}


def include_name(settings: PersistenceSettings | None = None) -> IncludeName:
    """Make the ``include_name`` that keeps a host's autogenerate from dropping our tables."""
    is_ours = _is_our_table(settings or PersistenceSettings())

    def include(name: str | None, type_: str, parent_names: MutableMapping[Any, Any]) -> bool:
        return not (type_ == "table" and is_ours(name, parent_names.get("schema_name")))

    return include


def include_object(settings: PersistenceSettings | None = None) -> IncludeObject:
    """Make the ``include_object`` that keeps a host's autogenerate from dropping our tables, or creating them.

    The one to take where the host's own metadata holds our tables, because it maps our mixins on its ``Base``. Of our
    tables it shows nothing but the foreign keys by which the host ties them to its own: those belong to its history.
    """
    is_ours = _is_our_table(settings or PersistenceSettings())

    def include(item: SchemaItem, name: str | None, type_: str, _reflected: object, compare_to: object) -> bool:
        if type_ == "table":
            # Where it stands on both sides nothing can be created or dropped, and its foreign keys are looked at.
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
    # Alembic says None for the connection's default schema, which is "public" unless somebody changed it.
    schemas = {settings.db_schema, None} if settings.db_schema in {None, "public"} else {settings.db_schema}
    names = {*TABLES, settings.version_table}
    return lambda name, schema: name in names and schema in schemas
