"""Refuses what a host gives a store and does not fit: engine, client of Redis, session, mapped classes."""

from __future__ import annotations

import logging
from typing import Any, Final

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from agent_persistence.addresses.database_url import Host
from agent_persistence.errors import InvalidInputError, SettingsError
from agent_persistence.models import Models
from agent_persistence.sessions.commit_hooks import refuse_autocommit
from agent_persistence.settings import PersistenceSettings

logger: Final = logging.getLogger("agent_persistence")

_PORT: Final = 5432
_HERE: Final = ("127.0.0.1", "::1", "localhost")


def refuse_unfit_session(session: object, models: Models[Any, Any]) -> None:
    """Refuse what is no session, such as a scoped one, and a session in AUTOCOMMIT.

    Raises:
        InvalidInputError: it is one of these.
    """
    if not isinstance(session, AsyncSession):
        given = type(session).__name__
        raise InvalidInputError("session", f"must be an AsyncSession, not {given}; of a scoped one, pass session()")
    options = session.get_bind(models.Thread).get_execution_options()
    refuse_autocommit(yes=options.get("isolation_level") == "AUTOCOMMIT")


def refuse_other_kinds(engine: object, redis: object) -> None:
    """Refuse an engine that is not asyncpg's, and a client that is not of one Redis or returns texts.

    Raises:
        InvalidInputError: one of them is of another kind.
    """
    if engine is not None and not isinstance(engine, AsyncEngine):
        raise InvalidInputError("engine", f"must be made by create_async_engine, not a {type(engine).__name__}")
    if isinstance(engine, AsyncEngine) and engine.dialect.driver != "asyncpg":
        raise InvalidInputError(
            "engine", f"must use postgresql+asyncpg, not {engine.dialect.name}+{engine.dialect.driver}"
        )
    if redis is not None and not isinstance(redis, Redis):
        raise InvalidInputError(
            "redis", f"must be a redis.asyncio.Redis of one server, not a {type(redis).__module__} client"
        )
    if redis is not None and redis.connection_pool.connection_kwargs.get("decode_responses"):
        raise InvalidInputError("redis", "must return bytes: make the client without decode_responses")


def warn_of_another_address(engine: AsyncEngine, settings: PersistenceSettings) -> None:
    """Log a warning if the settings name another database than that of the host's engine.

    No error: a pooler has another address than the database behind it. But an upgrade from the command line would go to
    the wrong one. If the engine makes its connections by a function, its address is not known.
    """
    arguments = engine.dialect.create_connect_args(engine.url)[1]
    known = [url for url in (settings.database, settings.migration_database) if url is not None]
    if "host" not in arguments or not (known or settings.is_embedded):
        return
    ours = {(_place(host), url.database or url.user) for url in known for host in url.hosts}
    hosts, ports = _listed(arguments["host"]), _listed(arguments.get("port", _PORT))
    places = [_place(Host(host, port)) for host, port in zip(hosts, ports * len(hosts), strict=False)]
    if not any((place, arguments.get("database", arguments.get("user"))) in ours for place in places):
        logger.warning(
            "the engine of the application leads to another address than PERSISTENCE_DATABASE_URL; this store uses the "
            "engine, and the command line (upgrade, doctor) the variable: set it to the address of the engine",
            extra={"event_name": "database.named_otherwise"},
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _place(host: Host) -> tuple[str, int]:
    return _HERE[0] if host.name in _HERE else host.name, int(host.port or _PORT)


def refuse_other_id_types(models: Models[Any, Any], settings: PersistenceSettings) -> None:
    """Refuse models with other id types than the settings, which say how ids are made and what types columns have.

    Raises:
        SettingsError: a type differs.
    """
    for variable, mapped, given in (
        ("PERSISTENCE_ID_TYPE", models.id_types.id, settings.id_types.id),
        ("PERSISTENCE_USER_ID_TYPE", models.id_types.user, settings.id_types.user),
    ):
        if mapped != given:
            raise SettingsError(variable, f"is {given.name}, but the models are mapped with {mapped.name}")


def refuse_other_schema(models: Models[Any, Any], settings: PersistenceSettings, engine: AsyncEngine | None) -> None:
    """Refuse models that are not in the schema that the settings name; statements would look for other tables.

    Raises:
        SettingsError: the schemas differ.
    """
    mapped = models.metadata.schema
    translates = engine is not None and _translates_schemas(engine)
    if settings.db_schema is not None and mapped != settings.db_schema and not translates:
        raise SettingsError(
            "PERSISTENCE_DB_SCHEMA",
            f"is {settings.db_schema}, but the models are mapped in {mapped or 'no schema'}: "
            f"metadata = MetaData(schema={settings.db_schema!r})",
        )


async def refuse_unchecked_schema(models: Models[Any, Any], settings: PersistenceSettings, engine: AsyncEngine) -> None:
    """Refuse models in another schema than the one whose tables were checked: the first of the search path.

    Raises:
        SettingsError: ``PERSISTENCE_DB_SCHEMA`` is not set.
    """
    mapped = models.metadata.schema
    if settings.db_schema is not None or mapped is None or _translates_schemas(engine):
        return
    async with engine.connect() as connection:
        checked = await connection.scalar(text("SELECT current_schema()"))
    if checked != mapped:
        raise SettingsError("PERSISTENCE_DB_SCHEMA", _unset_schema(mapped, checked))


def _translates_schemas(engine: AsyncEngine) -> bool:
    return "schema_translate_map" in engine.get_execution_options()


def _unset_schema(mapped: str, checked: str) -> str:
    return (
        f"is not set, and the models are mapped in {mapped}, but the tables are in {checked}; set it to {mapped} for "
        "the application and for agent-persistence upgrade, or map the models with metadata = MetaData()"
    )
