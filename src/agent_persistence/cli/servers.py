"""The servers that a command uses."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.output import working
from agent_persistence.cli.variables import given_variables
from agent_persistence.embedded.addresses import ServerAddresses
from agent_persistence.errors import SettingsError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, AnyUser
from agent_persistence.settings import EMBEDDED, PersistenceSettings

T = TypeVar("T")

DATABASE_URL: Final = "PERSISTENCE_DATABASE_URL"
NAME_IT: Final = "give the address of the database, or the word embedded for a private server"


@contextmanager
def configured() -> Iterator[PersistenceSettings]:
    """Yield the settings with the addresses of servers; those that are called ``embedded`` run within the block.

    Raises:
        SettingsError: no database is named. A pipeline without the variable would report success for a private server,
            and even a command that only reads would print that all is empty.
    """
    settings = PersistenceSettings()
    if is_unnamed(settings):
        raise SettingsError(DATABASE_URL, f"{why_unnamed()}; {NAME_IT}")
    with running(with_embedded_servers(settings) if settings.is_embedded else settings) as addressed:
        yield addressed


def is_unnamed(settings: PersistenceSettings) -> bool:
    """Whether the settings name no database."""
    return settings.database_url is None and settings.migration_database_url is None


def why_unnamed() -> str:
    """Return what is wrong if no database is named: often the application's variable is set, and ours is not."""
    return (
        "is not set (DATABASE_URL is set, and not read here)" if "DATABASE_URL" in given_variables() else "is not set"
    )


def with_embedded_servers(settings: PersistenceSettings, **changes: Any) -> PersistenceSettings:
    """Return settings with embedded servers in place of missing addresses; commands may migrate their database."""
    redis_url = settings.redis_url or EMBEDDED
    return PersistenceSettings(database_url=EMBEDDED, redis_url=redis_url, auto_migrate=True, **changes)


@contextmanager
def running(settings: PersistenceSettings) -> Iterator[PersistenceSettings]:
    """Run servers that the settings call ``embedded``, and yield settings with their addresses."""
    # Migrations can have a separate address, and then need no other.
    needs_database = settings.database_url is not None
    with working("Starting embedded servers") if settings.is_embedded else nullcontext():
        servers = ServerAddresses(settings, needs_database=needs_database)
    try:
        yield servers.settings
    finally:
        servers.close()


@contextmanager
def named_or_temporary() -> Iterator[PersistenceSettings]:
    """Yield the settings with addresses, for a demonstration: if no database is named, with temporary servers."""
    settings = PersistenceSettings()
    if not is_unnamed(settings):
        servers = configured()
    elif settings.embedded_dir is not None:
        servers = running(with_embedded_servers(settings))
    else:
        servers = temporary(settings)
    with servers as addressed:
        yield addressed


@contextmanager
def temporary(settings: PersistenceSettings) -> Iterator[PersistenceSettings]:
    """Run servers in a temporary folder, which is removed afterwards."""
    with (
        TemporaryDirectory(prefix="agent-persistence-demo-", ignore_cleanup_errors=True) as folder,
        running(with_embedded_servers(settings, embedded_dir=Path(folder))) as addressed,
    ):
        yield addressed


def run(work: Callable[[PersistenceSettings], Coroutine[Any, Any, T]]) -> T:
    """Run a function with the settings."""
    with configured() as settings:
        return run_until_terminated(work(settings))


def run_on_data(work: Callable[[Persistence[Any, Any]], Coroutine[Any, Any, T]]) -> T:
    """Run a function with a store, after its schema was checked."""
    return run(partial(on_data, work))


async def on_data(work: Callable[[Persistence[Any, Any]], Coroutine[Any, Any, T]], settings: PersistenceSettings) -> T:
    """Open a store, which checks the schema, and run a function with it."""
    async with Persistence[Any, Any](settings) as persistence:
        return await work(persistence)


def owner(persistence: Persistence[Any, Any], user: str | None) -> Any | AnyUser:
    """Return the owner of ``--user``, or ``ANY_USER``."""
    return ANY_USER if user is None else persistence.models.id_types.user.parse(user, "--user")
