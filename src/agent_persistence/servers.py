"""Where the database and the cache are: at the addresses of the settings, or started here because they say so."""

from __future__ import annotations

from typing import Final

from pydantic import SecretStr

from agent_persistence import embedded
from agent_persistence.database_url import DatabaseUrl
from agent_persistence.errors import SettingsError
from agent_persistence.settings import PersistenceSettings

EMBEDDED: Final = "embedded"


class Servers:
    """The addresses to use. Where the settings say ``embedded``, the servers run from here until ``close``.

    Attributes:
        database: the address of PostgreSQL, ``None`` where the settings name none.
        redis_url: the address of Redis, ``None`` for no cache.
    """

    def __init__(self, settings: PersistenceSettings) -> None:
        self._folder = settings.embedded_dir or embedded.default_folder()
        database_url, redis_url = _text(settings.database_url), _text(settings.redis_url)
        self._started = EMBEDDED in (database_url, redis_url)
        if self._started:
            servers = embedded.start(self._folder)
            database_url = servers.database_url if database_url == EMBEDDED else database_url
            redis_url = servers.redis_url if redis_url == EMBEDDED else redis_url
        self.database = DatabaseUrl.parse(database_url, "PERSISTENCE_DATABASE_URL") if database_url else None
        self.redis_url = redis_url

    def require_database(self) -> DatabaseUrl:
        """Return the address of PostgreSQL.

        Raises:
            SettingsError: the settings name none.
        """
        if self.database is None:
            raise SettingsError(
                "PERSISTENCE_DATABASE_URL",
                "is not set; give the address of a PostgreSQL, or the word embedded to start one for development",
            )
        return self.database

    def close(self) -> None:
        """Leave the servers that were started here; safe to call twice."""
        if self._started:
            self._started = False
            embedded.stop(self._folder)


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
