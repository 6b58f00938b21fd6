"""Bring both histories up to date, then serve: ``python run.py [options of uvicorn]``."""

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
    """Put addresses into the environment where it names no database: everything after this reads them there."""
    settings = read_settings()
    if settings.database is not None:
        yield
        return
    # A folder of its own: the one that all programs share holds a database with user ids of another kind.
    with embedded_servers(settings.embedded_dir or HERE / "servers") as started:
        os.environ["PERSISTENCE_DATABASE_URL"] = started.database_url
        os.environ["PERSISTENCE_REDIS_URL"] = started.redis_url
        yield


def upgrade() -> None:
    """Migrate: agent-persistence first, because the application's history ties one of its tables to its own."""
    asyncio.run(migrate.upgrade(read_settings()))
    command.upgrade(Config(HERE / "alembic.ini"), "head")


def main() -> None:
    """Run the application until somebody stops it."""
    # uvicorn repeats the signal that ended it; as an exception it lets the servers be stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with servers():
        upgrade()
        uvicorn.main(["--app-dir", str(HERE), *sys.argv[1:], "chat.app:app"])


if __name__ == "__main__":
    main()
