"""The arguments of ``PgCheckpointer``, and the stores that can be opened with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis

from agent_persistence.cache.named_values import LocalValues
from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import IdTypes
from agent_persistence.integrations.checkpointing.lazy_store import LazyStore
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_ttl

_DAY: Final = 86_400
_PUBLIC: Final = "public"
_POOL_SETTINGS: Final = {  # arguments of asyncpg.create_pool, and the settings that mean the same
    "max_size": "pool_size",
    "timeout": "connect_timeout",
    "command_timeout": "statement_timeout",
    "max_inactive_connection_lifetime": "pool_recycle",
}
_IGNORED: Final = {"min_size"}  # connections are opened when they are needed


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of a checkpointer; ``AsyncMethods`` describes them."""

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
    def ttl_seconds(self) -> float:
        """The lifetime of drafts and cache values, in seconds."""
        return _DAY if self.cache_ttl is None else self.cache_ttl

    @property
    def id_types(self) -> IdTypes[Any, Any]:
        """The id types of the database."""
        if self.persistence is not None:
            return self.persistence.models.id_types
        return self._settings().id_types

    @property
    def client(self) -> Redis | None:
        """The host's Redis client, or one over the host's Redis pool."""
        if self.redis is None and self.redis_pool is not None:
            return Redis(connection_pool=self.redis_pool)
        return self.redis

    def check(self) -> None:
        """Check that the arguments name one database.

        Raises:
            InvalidInputError: they name none, an address is given together with ``persistence``, or the lifetime is
                no number of seconds.
        """
        if self.cache_ttl is not None:
            check_ttl(self.cache_ttl, "cache_ttl")
        others = {name: getattr(self, name) for name in ("postgres_dsn", "pg_pool", "redis_url", "redis", "redis_pool")}
        given = [name for name, value in others.items() if value is not None]
        if self.persistence is not None and given:
            raise InvalidInputError(given[0], "cannot be given together with persistence, which has its own")
        if self.persistence is None and self.pg_pool is None and self._settings().database_url is None:
            raise InvalidInputError("postgres_dsn", "must be given, or pg_pool, or persistence")

    def host_store(self, local: LocalValues) -> LazyStore | None:
        """Return a store over the host's asyncpg pool or Redis client, or ``None`` if neither is given.

        It belongs to the host's event loop.
        """
        client = self.client
        if self.pg_pool is None and client is None:
            return None
        return self._make_store(self._settings(), local, pool=self.pg_pool, redis=client)()

    def thread_store(self, local: LocalValues) -> Callable[[], LazyStore] | None:
        """Return a factory of stores for the checkpointer's thread, or ``None`` if the addresses are not known.

        The addresses must be those of the same database and the same cache, or of no cache if the host has none:
        a writer that bypasses the cache would leave stale states in it.
        """
        if self.persistence is not None:
            settings = self.persistence.settings
            has_cache = self.persistence.cache is not None
            if settings.database_url is None or has_cache != (settings.redis_url is not None):
                return None
            return self._make_store(settings, local)
        if self.pg_pool is not None and self.postgres_dsn is None:
            return None  # PERSISTENCE_DATABASE_URL may be the address of another database than pg_pool's
        if self.client is not None and self.redis_url is None:
            return None
        return self._make_store(self._settings(), local)

    def _make_store(self, settings: PersistenceSettings, local: LocalValues, **given: Any) -> Callable[[], LazyStore]:
        options = self.redis_pool_config or {}
        return partial(LazyStore, settings, local, ttl_seconds=self.ttl_seconds, redis_options=options, **given)

    def _settings(self) -> PersistenceSettings:
        values = {
            "database_url": self.postgres_dsn,
            "redis_url": self.redis_url,
            "db_schema": None if self.schema == _PUBLIC else self.schema,
            "id_type": self.id_type,
            "user_id_type": self.user_id_type,
            "cache_ttl_seconds": self.cache_ttl,
            "max_checkpoint_history": self.state_history_limit,
            **_pool_settings(self.pool_config or {}),
        }
        return PersistenceSettings(**{name: value for name, value in values.items() if value is not None})


def _pool_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    for name in config:
        if name not in _POOL_SETTINGS and name not in _IGNORED:
            raise InvalidInputError(f"pool_config.{name}", "is not supported; put it into postgres_dsn or pass pg_pool")
    settings = {_POOL_SETTINGS[name]: value for name, value in config.items() if name in _POOL_SETTINGS}
    # max_size is a limit in asyncpg: without this, SQLAlchemy would open overflow connections beyond it.
    return {**settings, "max_overflow": 0} if "pool_size" in settings else settings
