"""The lock that lets one migration run at a time, however many processes start one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, func, select

from agent_persistence.errors import MigrationLockTimeoutError
from agent_persistence.migrate.connection import pause

_POLL_SECONDS: Final = 0.2


@contextmanager
def migration_lock(
    connection: Connection, schema: str, version_table: str, *, timeout_seconds: float
) -> Iterator[None]:
    """Hold the lock of this schema's history within a block.

    It is polled for outside a transaction: CREATE INDEX CONCURRENTLY waits for every open transaction, so a session
    that waited inside one would deadlock with it. The lock belongs to the session that migrates, so it lasts as long as
    that session's work on the server, even if the process is killed.

    Raises:
        MigrationLockTimeoutError: another migration held it all the time.
    """
    # Not on a second connection: if the client is killed, that one closes at once and frees the lock, while the server
    # still builds the index on the first.
    key = lock_key(schema, version_table)
    _acquire(connection, key, timeout_seconds)
    try:
        yield
    finally:
        _release(connection, key)


def _acquire(connection: Connection, key: int, timeout_seconds: float) -> None:
    started = time.monotonic()
    while not _try(connection, key):
        waited = time.monotonic() - started
        if waited >= timeout_seconds:
            raise MigrationLockTimeoutError(waited)
        pause(connection, _POLL_SECONDS)


def _try(connection: Connection, key: int) -> bool:
    locked = connection.scalar(select(func.pg_try_advisory_lock(key)))
    connection.commit()
    return bool(locked)


def _release(connection: Connection, key: int) -> None:
    if connection.closed or connection.invalidated:
        # The server releases the lock with the session.
        return
    connection.rollback()
    connection.execute(select(func.pg_advisory_unlock(key)))
    connection.commit()


def lock_key(schema: str, version_table: str) -> int:
    """Return the key of a history's advisory lock; such locks are numbers, unique within a database."""
    digest = hashlib.sha256(f"agent_persistence:{schema}:{version_table}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
