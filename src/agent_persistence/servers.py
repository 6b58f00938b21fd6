"""Where the database and the cache are: at the addresses of the settings, or started here because they say so."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from agent_persistence import embedded
from agent_persistence.database_url import DatabaseUrl
from agent_persistence.errors import SettingsError
from agent_persistence.settings import EMBEDDED, PersistenceSettings


class Servers:
    """The addresses to use. Where the settings say ``embedded``, the servers run from here until ``close``.

    Attributes:
        settings: the settings, with addresses where they said ``embedded``.
        database: the address of PostgreSQL, ``None`` where the settings name none.
        redis_url: the address of Redis, ``None`` for no cache.
    """

    def __init__(self, settings: PersistenceSettings) -> None:
        self._folder: Path | None = None
        wanted = [name for name in ("database_url", "redis_url") if _text(getattr(settings, name)) == EMBEDDED]
        if wanted:
            self._folder = settings.embedded_dir or embedded.default_folder()
            started = embedded.start(self._folder)
            settings = settings.model_copy(update={name: SecretStr(getattr(started, name)) for name in wanted})
        self.settings = settings
        self.database = settings.database
        self.redis_url = _text(settings.redis_url)

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
        if self._folder is not None:
            embedded.stop(self._folder)
            self._folder = None


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
