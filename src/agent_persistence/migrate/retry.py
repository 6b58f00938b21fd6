"""Retries of revisions that did not get a lock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from agent_persistence.database.driver_errors import sqlstate_of
from agent_persistence.errors import StatementTimeoutError
from agent_persistence.migrate.connection import pause

logger = logging.getLogger("agent_persistence")

# A lock that is waited for makes every later reader wait behind it. With a reader of 6 s in the way, others stall for
# 5.4 s if the migration waits, and for 0.1 s if it gives up after 100 ms and tries again.
_IN_THE_WAY: Final = {
    "55P03",  # lock_not_available: the table is in use
    "40P01",  # deadlock_detected
    "57014",  # query_canceled: another session cancelled the migration
}
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0


def run_patiently(connection: Connection, run_revisions: Callable[[], None], *, timeout_seconds: float) -> None:
    """Run the revisions; if traffic holds a lock, pause and retry the same revision.

    Applied revisions are committed and not repeated. Only the pauses count against the time limit, not the work.

    Raises:
        StatementTimeoutError: traffic held the lock all the time.
    """
    paused, pause_seconds = 0.0, _FIRST_PAUSE_SECONDS
    while True:
        try:
            return run_revisions()
        except DBAPIError as error:
            connection.rollback()
            if sqlstate_of(error) not in _IN_THE_WAY:
                raise
            if paused >= timeout_seconds:
                raise StatementTimeoutError(
                    "a table was in use all the time; end the transactions that use it, "
                    "or raise PERSISTENCE_MIGRATION_LOCK_TIMEOUT"
                ) from error
        fields = {"event_name": "migration.waits", "seconds": pause_seconds}
        logger.info("a table is in use; trying again in %.1f s", pause_seconds, extra=fields)
        pause(connection, pause_seconds)
        paused, pause_seconds = paused + pause_seconds, min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
