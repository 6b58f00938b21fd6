"""Refuses what a host gives a store and does not fit: engine, client of Redis, session, mapped classes."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from agent_persistence.errors import InvalidInputError, SettingsError
from agent_persistence.models import Models
from agent_persistence.sessions.commit_hooks import refuse_autocommit
from agent_persistence.settings import PersistenceSettings


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
