"""The addresses of database and cache: those of the settings, or of embedded servers that are started here."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from agent_persistence import embedded
from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.errors import SettingsError
from agent_persistence.settings import EMBEDDED, PersistenceSettings


class ServerAddresses:
    """The addresses to use. Where the settings say ``embedded``, servers are started, and run until ``close``.

    Args:
        settings: the settings.
        needs_database: whether their database will be used; if not, none is started.
        needs_redis: whether their Redis will be used; if not, none is started.

    Attributes:
        settings: the settings, with addresses in place of ``embedded``.

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
        """The address of Redis; ``None`` for no cache."""
        return _text(self.settings.redis_url)

    @property
    def required_redis_url(self) -> str:
        """The address of Redis, for a store that is kept in Redis.

        Raises:
            SettingsError: it is not set.
        """
        if self.redis_url is None:
            raise SettingsError("PERSISTENCE_REDIS_URL", "is not set; give the address of a Redis or Valkey")
        return self.redis_url

    def close(self) -> None:
        """Release the servers that were started here; a second call does nothing."""
        if self._folder is not None:
            embedded.stop(self._folder)
            self._folder = None


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
