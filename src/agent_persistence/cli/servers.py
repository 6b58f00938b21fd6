"""The servers that a command uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from agent_persistence import embedded
from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.output import note
from agent_persistence.embedded.addresses import ServerAddresses
from agent_persistence.errors import SettingsError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, AnyUser
from agent_persistence.settings import EMBEDDED, PersistenceSettings

T = TypeVar("T")


@contextmanager
def configured(*, changes: bool = False) -> Iterator[PersistenceSettings]:
    """Yield the settings with addresses. If they name no database, embedded servers run within the block.

    Only the command line does so: a library that starts servers because a variable is missing would hide the mistake.

    Args:
        changes: whether the command changes the database, which must be named then. A pipeline without the variable
            would report success for a private server.

    Raises:
        SettingsError: no database is named.
    """
    settings = PersistenceSettings()
    is_unnamed = settings.database_url is None and settings.migration_database_url is None
    if is_unnamed and changes:
        raise SettingsError("PERSISTENCE_DATABASE_URL", _not_set())
    folder = settings.embedded_dir or embedded.default_folder() if is_unnamed else None
    if is_unnamed or settings.is_embedded:
        settings = with_embedded_servers(settings)
    if folder is not None:
        note(f"PERSISTENCE_DATABASE_URL is not set: using embedded servers in {folder}")
    with running(settings) as addressed:
        yield addressed


def _not_set() -> str:
    reason = "is not set; give the address of the database, or the word embedded for a private server"
    return f"{reason} (DATABASE_URL is set, and not read here)" if "DATABASE_URL" in os.environ else reason


def with_embedded_servers(settings: PersistenceSettings, **changes: Any) -> PersistenceSettings:
    """Return settings with embedded servers in place of missing addresses; commands may migrate their database."""
    redis_url = settings.redis_url or EMBEDDED
    return PersistenceSettings(database_url=EMBEDDED, redis_url=redis_url, auto_migrate=True, **changes)


@contextmanager
def running(settings: PersistenceSettings) -> Iterator[PersistenceSettings]:
    """Run servers that the settings call ``embedded``, and yield settings with their addresses."""
    # Migrations can have a separate address, and then need no other.
    servers = ServerAddresses(settings, needs_database=settings.database_url is not None)
    try:
        yield servers.settings
    finally:
        servers.close()


def run(work: Callable[[PersistenceSettings], Coroutine[Any, Any, T]], *, changes: bool = False) -> T:
    """Run a function with the settings; ``changes`` as for ``configured``."""
    with configured(changes=changes) as settings:
        return run_until_terminated(work(settings))


def run_on_data(work: Callable[[Persistence[Any, Any]], Coroutine[Any, Any, T]], *, changes: bool = False) -> T:
    """Run a function with a store, after its schema was checked; ``changes`` as for ``configured``."""

    async def opened(settings: PersistenceSettings) -> T:
        async with Persistence[Any, Any](settings) as persistence:
            return await work(persistence)

    return run(opened, changes=changes)


def owner(persistence: Persistence[Any, Any], user: str | None) -> Any | AnyUser:
    """Return the owner of ``--user``, or ``ANY_USER``."""
    return ANY_USER if user is None else persistence.models.id_types.user.parse(user, "--user")
