"""Adds and removes optional objects, as carefully as a migration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from agent_persistence.database.driver_errors import sqlstate_of, translated
from agent_persistence.errors import InvalidInputError, SchemaError
from agent_persistence.ids import IdKind
from agent_persistence.migrate import catalog
from agent_persistence.migrate.connection import migration_session, open_connection
from agent_persistence.migrate.lock import migration_lock
from agent_persistence.migrate.optional.definition import OptionalObject
from agent_persistence.migrate.optional.indexes import MESSAGE_SEARCH, THREAD_META, THREAD_SEARCH
from agent_persistence.migrate.optional.outside_writes import OUTSIDE_WRITES
from agent_persistence.migrate.optional.row_level_security import ROW_LEVEL_SECURITY
from agent_persistence.migrate.optional.vectors import VECTORS
from agent_persistence.migrate.preflight import TABLES, refuse_other_id_types
from agent_persistence.migrate.retry import run_patiently
from agent_persistence.migrate.verify import refuse_behind
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_limit

OBJECTS: Final = {
    optional.name: optional
    for optional in (MESSAGE_SEARCH, THREAD_SEARCH, THREAD_META, OUTSIDE_WRITES, VECTORS, ROW_LEVEL_SECURITY)
}

# A cast to VARCHAR(255) would truncate a longer text, perhaps to another user's id.
_READ_AS: Final[dict[IdKind, str]] = {"string": "text", "int": "integer", "bigint": "bigint", "uuid": "uuid"}
_KEPT_AS: Final[dict[IdKind, str]] = {**_READ_AS, "string": 'varchar(255) COLLATE "C"'}
_MAX_DIMS: Final = 16_000
_NOT_ALLOWED: Final = "42501"  # insufficient_privilege

_PRESENT: Final = text(
    r"""
    SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND relname ~ '^opt_'
    UNION
    SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND tgname ~ '^opt_'
    UNION
    SELECT policyname FROM pg_policies WHERE schemaname = :schema AND policyname ~ '^opt_'
    """
)
_IS_AVAILABLE: Final = text("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = :name)")
_SCHEMA_OF: Final = text(
    "SELECT CAST(CAST(extnamespace AS regnamespace) AS text) FROM pg_extension WHERE extname = :name"
)


@dataclass(frozen=True, slots=True)
class _Target:
    """The schema and connection of a change."""

    connection: Connection
    settings: PersistenceSettings
    schema: str


async def list_optional(settings: PersistenceSettings) -> dict[str, bool]:
    """Return all optional objects, and whether this database has each.

    Args:
        settings: the address, and the name of the schema.

    Raises:
        SettingsError: no address is set.
        UnavailableError: the database cannot be reached.
    """
    with translated():
        async with open_connection(settings) as connection:
            return await connection.run_sync(lambda sync: _list(sync, settings))


async def add_optional(
    settings: PersistenceSettings, name: str, *, dims: int | None = None, half: bool = False
) -> None:
    """Add an optional object, or update it. Traffic continues; an index is built concurrently.

    Args:
        settings: the address of the server itself, and the name of the schema.
        name: one of those that ``list_optional`` returns.
        dims: for ``vectors`` only: how many numbers a vector has, from 1 to 16,000. It can be left out where the
            database has them already.
        half: for ``vectors`` only: keep the numbers in 16 bits each instead of 32.

    Raises:
        InvalidInputError: there is no optional object of this name; or the dimensions are missing, out of range, or
            others than those of the vectors that the database has.
        NotMigratedError: the schema is older than this version.
        SchemaError: the server lacks an extension, or this role may not create it; or an error of ``upgrade``.
    """
    optional = _known(name)
    if not optional.has_dims and (dims is not None or half):
        raise InvalidInputError("dims", f"{name} has none")
    wanted = None if dims is None else f"{'halfvec' if half else 'vector'}({check_limit(dims, 'dims', _MAX_DIMS)})"
    await _change(settings, partial(_add, optional, wanted))


async def remove_optional(settings: PersistenceSettings, name: str) -> None:
    """Remove an optional object, if the database has it. An extension stays: other programs may use it.

    Args:
        settings: the address of the server itself, and the name of the schema.
        name: one of those that ``list_optional`` returns.

    Raises:
        InvalidInputError: there is no optional object of this name.
        SchemaError: an error of ``upgrade``.
    """
    await _change(settings, partial(_remove, _known(name)))


def present(connection: Connection, schema: str) -> dict[str, bool]:
    """Return whether the database has each optional object."""
    names = set(connection.scalars(_PRESENT, {"schema": schema}))
    return {optional.name: optional.creates in names for optional in OBJECTS.values()}


def _known(name: str) -> OptionalObject:
    if name not in OBJECTS:
        raise InvalidInputError("name", f"must be one of {', '.join(OBJECTS)}")
    return OBJECTS[name]


def _list(connection: Connection, settings: PersistenceSettings) -> dict[str, bool]:
    return present(connection, catalog.schema_in_use(connection, settings.db_schema))


async def _change(settings: PersistenceSettings, change: Callable[[_Target], None]) -> None:
    with translated():
        async with open_connection(settings) as connection:
            await connection.run_sync(_change_under_lock, settings, change)


def _change_under_lock(
    connection: Connection, settings: PersistenceSettings, change: Callable[[_Target], None]
) -> None:
    timeout = settings.migration_lock_timeout
    with migration_session(connection, settings.db_schema):
        target = _Target(connection, settings, catalog.schema_in_use(connection, settings.db_schema))
        connection.commit()
        with migration_lock(connection, target.schema, settings.version_table, timeout_seconds=timeout):
            run_patiently(connection, partial(change, target), timeout_seconds=timeout)


def _add(optional: OptionalObject, vector: str | None, target: _Target) -> None:
    refuse_other_id_types(target.connection, target.schema, target.settings)
    refuse_behind(target.connection, target.schema, target.settings)
    if optional.creates in catalog.unfinished_indexes(target.connection, target.schema, TABLES):
        _remove(optional, target)
    kind, extension = target.settings.user_id_type, _create_extension(target.connection, optional)
    words = {
        "schema": target.connection.dialect.identifier_preparer.quote_identifier(target.schema),
        "user_id": _READ_AS[kind],
        "owner": _KEPT_AS[kind],
        "extension": extension,
        "vector": f"{extension}.{_type_of_vectors(optional, vector, target)}" if optional.has_dims else "",
    }
    _run(optional, [statement.format(**words) for statement in optional.add], target)


def _type_of_vectors(optional: OptionalObject, wanted: str | None, target: _Target) -> str:
    columns = catalog.column_types(target.connection, target.schema, optional.creates)
    # With its schema where that is not in the search path.
    there = columns["embedding"].rpartition(".")[2] if columns else None
    if wanted is None and there is None:
        raise InvalidInputError("dims", "is missing: how many numbers has a vector of your embedding model?")
    if wanted is not None and there not in (None, wanted):
        raise InvalidInputError("dims", f"the database has {there}; remove {optional.name} first, then embed anew")
    return there or str(wanted)


def _remove(optional: OptionalObject, target: _Target) -> None:
    if present(target.connection, target.schema)[optional.name]:
        _run(optional, optional.remove, target)


def _run(optional: OptionalObject, statements: Sequence[str], target: _Target) -> None:
    connection = target.connection
    connection.commit()
    connection.execution_options(isolation_level="AUTOCOMMIT" if optional.concurrently else "READ COMMITTED")
    # A concurrent build blocks no other session while it waits; a limit would only leave an invalid index.
    limit = 0 if optional.concurrently else target.settings.migration_ddl_lock_timeout_ms
    connection.exec_driver_sql(f"SET lock_timeout = {limit}")
    for statement in statements:
        connection.exec_driver_sql(statement)
    connection.commit()


def _create_extension(connection: Connection, optional: OptionalObject) -> str:
    """Return the schema of an extension; create it if the database does not have it."""
    name = optional.extension
    if name is None:
        return ""
    if not connection.scalar(_IS_AVAILABLE, {"name": name}):
        raise SchemaError(
            f"{optional.name} needs the extension {name}, which this server does not have; "
            f"install {optional.package} there"
        )
    try:
        connection.exec_driver_sql(f"CREATE EXTENSION IF NOT EXISTS {name}")
    except DBAPIError as error:
        if sqlstate_of(error) != _NOT_ALLOWED:
            raise
        raise SchemaError(
            f"{optional.name} needs the extension {name}, which this role may not create; "
            f"have an administrator run: CREATE EXTENSION {name}"
        ) from error
    return str(connection.scalar(_SCHEMA_OF, {"name": name}))
