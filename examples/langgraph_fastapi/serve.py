"""Upgrade the schema, then serve: ``python serve.py [options of uvicorn]``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from agent_persistence import PersistenceSettings, migrate
from agent_persistence.embedded import embedded_servers

HERE = Path(__file__).parent


@contextmanager
def servers() -> Iterator[None]:
    """Start an embedded PostgreSQL, unless the environment names a database, and put its address there."""
    settings = PersistenceSettings()
    if settings.database is not None:
        yield
        return
    with embedded_servers(settings.embedded_dir or HERE / "servers") as started:
        os.environ["PERSISTENCE_DATABASE_URL"] = started.database_url
        yield


def main() -> None:
    """Run the application until it is stopped."""
    # uvicorn raises the signal that stopped it again; as an exception it also lets the servers be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with servers():
        asyncio.run(migrate.upgrade(PersistenceSettings()))
        uvicorn.main(["--app-dir", str(HERE), *sys.argv[1:], "assistant.app:app"])


if __name__ == "__main__":
    main()
