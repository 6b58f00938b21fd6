"""Where the database and the cache are: at the addresses of the settings, or started here because they say so."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from agent_persistence import embedded
from agent_persistence.database_url import DatabaseUrl
from agent_persistence.errors import SettingsError
from agent_persistence.settings import EMBEDDED, PersistenceSettings


class ServerAddresses:
    """The addresses to use. Where the settings say ``embedded``, the servers run from here until ``close``.

    Args:
        needs_database: whether the database of the settings will be used; if not, none is started.
        needs_redis: the same of Redis.

    Attributes:
        settings: the settings, with addresses where they said ``embedded``.

    Raises:
        SettingsError: a database is needed, and the settings name none.
    """

    def __init__(self, settings: PersistenceSettings, *, needs_database: bool = True, needs_redis: bool = True) -> None:
        if needs_database and settings.database_url is None:
            raise SettingsError(
                "PERSISTENCE_DATABASE_URL",
                "is not set; give the address of a PostgreSQL, or the word embedded to start one for development",
            )
        self._folder: Path | None = None
        needed = {"database_url": needs_database, "redis_url": needs_redis}
        wanted = [name for name, needs in needed.items() if needs and _text(getattr(settings, name)) == EMBEDDED]
        if wanted:
            self._folder = settings.embedded_dir or embedded.default_folder()
            started = embedded.start(self._folder)
            settings = settings.model_copy(update={name: SecretStr(getattr(started, name)) for name in wanted})
        self.settings = settings

    @property
    def database(self) -> DatabaseUrl:
        """The address of PostgreSQL."""
        if self.settings.database is None:
            raise SettingsError("PERSISTENCE_DATABASE_URL", "is not set")
        return self.settings.database

    @property
    def redis_url(self) -> str | None:
        """The address of Redis, ``None`` for no cache."""
        return _text(self.settings.redis_url)

    @property
    def required_redis_url(self) -> str:
        """The address of Redis where it is the only store."""
        if self.redis_url is None:
            raise SettingsError("PERSISTENCE_REDIS_URL", "is not set; give the address of a Redis or Valkey")
        return self.redis_url

    def close(self) -> None:
        """Leave the servers that were started here; safe to call twice."""
        if self._folder is not None:
            embedded.stop(self._folder)
            self._folder = None


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
