"""Upgrade both histories, then serve: ``python run.py [options of uvicorn]``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from alembic import command
from alembic.config import Config

from agent_persistence import migrate
from agent_persistence.embedded import embedded_servers
from chat.database import read_settings

HERE = Path(__file__).parent


@contextmanager
def servers() -> Iterator[None]:
    """Start embedded servers, unless the environment names a database, and put their addresses into the environment."""
    settings = read_settings()
    if settings.database is not None:
        yield
        return
    # A separate folder: the default one, which all programs share, holds a database with another user id type.
    with embedded_servers(settings.embedded_dir or HERE / "servers") as started:
        os.environ["PERSISTENCE_DATABASE_URL"] = started.database_url
        os.environ["PERSISTENCE_REDIS_URL"] = started.redis_url
        yield


def upgrade() -> None:
    """Migrate agent-persistence first: the application's history adds a foreign key to one of its tables."""
    asyncio.run(migrate.upgrade(read_settings()))
    command.upgrade(Config(HERE / "alembic.ini"), "head")


def main() -> None:
    """Run the application until it is stopped."""
    # uvicorn raises the signal that stopped it again; as an exception it also lets the servers be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with servers():
        upgrade()
        uvicorn.main(["--app-dir", str(HERE), *sys.argv[1:], "chat.app:app"])


if __name__ == "__main__":
    main()
