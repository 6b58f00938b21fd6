"""The arguments of ``PgCheckpointer`` as sources of stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from agent_persistence.cache.named_values import LocalValues
from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import IdTypes
from agent_persistence.integrations.checkpointing.opening import Source
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

_DAY: Final = 86_400
_PUBLIC: Final = "public"
# What asyncpg.create_pool is told, in the words of our settings.
_POOL_SETTINGS: Final = {
    "max_size": "pool_size",
    "timeout": "connect_timeout",
    "command_timeout": "statement_timeout",
    "max_inactive_connection_lifetime": "pool_recycle",
}
_NEEDLESS: Final = {"min_size"}  # connections are made when they are needed


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a checkpointer was made with; see ``PersistenceCheckpointer``."""

    postgres_dsn: str | None
    pg_pool: Any
    pool_config: Mapping[str, Any] | None
    redis_url: str | None
    redis: Redis | None
    redis_pool: Any
    redis_pool_config: Mapping[str, Any] | None
    schema: str
    persistence: Persistence[Any, Any] | None
    id_type: str | None
    user_id_type: str | None
    cache_ttl: int | None
    release_resources: bool
    state_history_limit: int | None

    @property
    def ttl_seconds(self) -> int:
        """For how long drafts and values are kept."""
        return self.cache_ttl or _DAY

    @property
    def id_types(self) -> IdTypes[Any, Any]:
        """The id types of the database."""
        if self.persistence is not None:
            return self.persistence.models.id_types
        return self._settings(self.postgres_dsn).id_types

    @property
    def client(self) -> Redis | None:
        """The host's Redis client."""
        if self.redis is None and self.redis_pool is not None:
            return Redis(connection_pool=self.redis_pool)
        return self.redis

    def check(self) -> None:
        """Refuse what names no database, or two.

        Raises:
            InvalidInputError: it says what to pass.
        """
        others = {name: getattr(self, name) for name in ("postgres_dsn", "pg_pool", "redis_url", "redis", "redis_pool")}
        given = [name for name, found in others.items() if found is not None]
        if self.persistence is not None and given:
            raise InvalidInputError(given[0], "cannot be given together with persistence, which has its own")
        if self.persistence is None and self.pg_pool is None and self._settings(self.postgres_dsn).database_url is None:
            raise InvalidInputError("postgres_dsn", "must be given, or pg_pool, or persistence")

    def here(self, local: LocalValues) -> Source | None:
        """What belongs to the event loop of the caller: what the host has open."""
        client = self.client
        if self.pg_pool is None and client is None:
            return None
        return self._source(self._settings(self.postgres_dsn), local, pool=self.pg_pool, redis=client)

    def apart(self, local: LocalValues) -> Source | None:
        """What can be opened in a thread of our own: addresses, and the same cache or none.

        A writer without the cache of the others would leave stale states in it.
        """
        if self.persistence is not None:
            settings = self.persistence.settings
            has_cache = self.persistence.cache is not None
            if settings.database_url is None or has_cache != (settings.redis_url is not None):
                return None
            return self._source(settings, local)
        if self.pg_pool is not None and self.postgres_dsn is None:
            return None  # an address of the environment may be another database's
        if self.client is not None and self.redis_url is None:
            return None
        return self._source(self._settings(self.postgres_dsn), local)

    def _source(self, settings: PersistenceSettings, local: LocalValues, **given: Any) -> Source:
        options = self.redis_pool_config or {}
        return Source(settings=settings, redis_options=options, local=local, ttl_seconds=self.ttl_seconds, **given)

    def _settings(self, postgres_dsn: str | None) -> PersistenceSettings:
        values = {
            "database_url": postgres_dsn,
            "redis_url": self.redis_url,
            "db_schema": None if self.schema == _PUBLIC else self.schema,
            "id_type": self.id_type,
            "user_id_type": self.user_id_type,
            "cache_ttl_seconds": self.cache_ttl,
            "max_checkpoint_history": self.state_history_limit,
            **_pool_settings(self.pool_config or {}),
        }
        return PersistenceSettings(**{name: found for name, found in values.items() if found is not None})


def _pool_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    for name in config:
        if name not in _POOL_SETTINGS and name not in _NEEDLESS:
            raise InvalidInputError(
                f"pool_config.{name}", "is not known here; put it into postgres_dsn, or pass pg_pool"
            )
    settings = {_POOL_SETTINGS[name]: found for name, found in config.items() if name in _POOL_SETTINGS}
    return {**settings, "max_overflow": 0} if "pool_size" in settings else settings
