"""Degraded mode: keeps states in memory during an outage of the database, and writes them when it is back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.checkpointer import Checkpoint
from agent_persistence.degraded.checkpointer import DegradedCheckpointer
from agent_persistence.degraded.journal import PendingState, StateKey
from agent_persistence.degraded.outage import Outage
from agent_persistence.errors import (
    CommitUnknownError,
    PersistenceError,
    StatementTimeoutError,
    UnavailableError,
    UnsavedStatesError,
)
from agent_persistence.frozen import frozen
from agent_persistence.persistence import Persistence
from agent_persistence.telemetry.metrics import DegradedMetrics

logger: Final = logging.getLogger("agent_persistence")

_MOST_BYTES: Final = 64 * 1024 * 1024
_WRITERS: Final = 8  # threads whose states are written at once; concurrent saves share statements
_LAST_PAUSE: Final = 0.1  # seconds between attempts to reach the database while it closes
_MOST_TIMEOUTS: Final = 5  # attempts to write a state, before it is set aside so that the outage ends
_REMIND: Final = 30.0  # seconds between log lines during an outage


@frozen
class UnsavedState:
    """A state that was saved during an outage and is not in the database.

    Attributes:
        user_id: the owner.
        checkpoint: the state.
        reason: why the database refused it; ``None`` if the database did not come back in time.
    """

    user_id: str
    checkpoint: Checkpoint
    reason: PersistenceError | None


class DegradedMode:
    """Checkpointers that fall back to this process's memory while PostgreSQL is down.

    Create one for a process, and use it as an async context manager: closing it writes the waiting states.

    Args:
        persistence: the store, which is not closed.
        most_bytes: the maximum of the memory that waiting states take: their JSON, and 900 bytes each beyond the first
            16. Beyond it a save fails as it does without degraded mode. As much again holds the latest known states.
        check_seconds: the interval at which the database is checked during an outage.

    Attributes:
        persistence: the store.
    """

    def __init__(
        self, persistence: Persistence[Any, Any], *, most_bytes: int = _MOST_BYTES, check_seconds: float = 1.0
    ) -> None:
        self.persistence = persistence
        self._outage = Outage(most_bytes, self._recover)
        self._check_seconds = check_seconds
        self._unsaved: list[UnsavedState] = []
        persistence.telemetry.degraded = self._metrics

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def is_on(self) -> bool:
        """Whether the database is down, or states still wait for it."""
        return self._outage.is_on

    @property
    def pending(self) -> int:
        """The number of states that wait for the database."""
        return len(self._outage.journal)

    @property
    def unsaved(self) -> tuple[UnsavedState, ...]:
        """States that the database refused after an outage: write them elsewhere, then call ``forget_unsaved``."""
        return tuple(self._unsaved)

    def forget_unsaved(self) -> None:
        """Clear ``unsaved``."""
        self._unsaved.clear()

    def checkpointer(self, user_id: str) -> DegradedCheckpointer:
        """Return a checkpointer of an owner; cheap enough for each request."""
        return DegradedCheckpointer(self._outage, self._direct(user_id), user_id)

    async def until_over(self) -> None:
        """Wait until the outage is over and all states are written, or until this object is closed."""
        await self._outage.until_over()

    async def aclose(self) -> None:
        """Write the waiting states, for ``PERSISTENCE_CHECKPOINTER_CLEANUP_TIMEOUT`` seconds at most.

        Raises:
            UnsavedStatesError: states are not in the database; the error holds them.
        """
        await self._outage.aclose(self.persistence.settings.checkpointer_cleanup_timeout)
        self.persistence.telemetry.degraded = None
        left = [*self._unsaved, *(_unsaved(state, None) for state in self._outage.journal)]
        if left:
            fields = {"event_name": "degraded.unsaved", "states": len(left)}
            logger.critical("DEGRADED MODE ends with %d states that are not in the database", len(left), extra=fields)
            raise UnsavedStatesError(left)

    async def _recover(self) -> None:
        """Write all waiting states once the database is back, and end the outage."""
        began = reminded = time.monotonic()
        # Forever, if need be: only `aclose` gives states up, and it hands them to the application.
        while not await self._caught_up():
            if time.monotonic() - reminded >= _REMIND:
                reminded = time.monotonic()
                seconds, waiting = reminded - began, len(self._outage.journal)
                fields = {"event_name": "degraded.lasts", "seconds": round(seconds, 1), "pending": waiting}
                logger.error("DEGRADED MODE for %.0f s: %d states are in memory only", seconds, waiting, extra=fields)
            await self._pause()
        self._outage.end()  # no await since the journal was empty, so no state can have been added
        seconds = time.monotonic() - began
        fields = {"event_name": "degraded.ended", "seconds": round(seconds, 1)}
        logger.warning("DEGRADED MODE is over after %.1f s", seconds, extra=fields)

    async def _caught_up(self) -> bool:
        """Write the waiting states; return whether the database is up and has all of them."""
        outage = self._outage
        # First: a write to a database that is down would use up its retries, at every check.
        try:
            outage.is_down = (await self.persistence.health()).database == "down"
        except PersistenceError:
            outage.is_down = True
        # Of one iterator, so each thread has one writer: a later state of a thread may expect an earlier one.
        threads = iter(outage.journal.threads)
        async with asyncio.TaskGroup() as writers:
            for _ in range(_WRITERS):
                writers.create_task(self._write_threads(threads))
        return not outage.is_down and not outage.journal

    async def _write_threads(self, threads: Iterator[StateKey]) -> None:
        """Write the states of one thread after the other, until the database is down."""
        outage = self._outage
        for key in threads:
            while not outage.is_down and (pending := outage.journal.first(key)) is not None:
                try:
                    await self._write(pending)
                except StatementTimeoutError:
                    break  # another transaction has locked the thread: its states wait, those of others do not
                except UnavailableError:
                    outage.is_down = True
                except CommitUnknownError:
                    # It stays the first, and the next attempt reads before it writes: neither lost nor saved twice.
                    pending.in_doubt = outage.is_down = True

    async def _write(self, pending: PendingState) -> None:
        """Write a state, or set it aside.

        Raises:
            UnavailableError: the database went down again; the state still waits.
            CommitUnknownError: it is unknown whether the database has the state.
            StatementTimeoutError: a time limit was exceeded; the state still waits.
        """
        key, saved, state = pending.key, None, pending.checkpoint.state
        direct = self._direct(key.user_id)
        # The caller may have expected a provisional version, which the database does not know.
        expected = None if pending.expected is None else self._outage.journal.settled(pending.expected)
        try:
            if pending.in_doubt:
                saved = await direct.load_state(key.thread_id)
            if saved is None or saved.state != state:
                saved = await direct.save_state(key.thread_id, state, expected_version=expected)
        except (UnavailableError, CommitUnknownError):
            raise
        except StatementTimeoutError as error:  # a lock of another transaction, or a database that is recovering
            pending.timeouts += 1
            if pending.timeouts < _MOST_TIMEOUTS:
                raise
            self._set_aside(key, error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the outage must end
            self._set_aside(key, error)
        else:
            self._outage.known.put(key, saved.version, pending.json, saved.created_at)
            self._outage.journal.settle(key, saved.version)

    def _set_aside(self, key: StateKey, error: Exception) -> None:
        """Move all waiting states of a thread to ``unsaved``: later ones are based on the refused one."""
        taken, reason = self._outage.journal.take(key), error if isinstance(error, PersistenceError) else None
        self._outage.known.forget(key)  # the refusal shows that another writer has passed it, or owns the thread
        self._unsaved += (_unsaved(state, reason) for state in taken)
        logger.critical(
            "DEGRADED MODE: the database refused %d states of a thread, see `unsaved`: %s",
            len(taken),
            type(error).__name__,
            extra={"event_name": "degraded.refused", "states": len(taken), "error_type": type(error).__name__},
        )

    async def _pause(self) -> None:
        """Wait for the next check; less while closing, when time is short."""
        if self._outage.closing.is_set():
            await asyncio.sleep(min(self._check_seconds, _LAST_PAUSE))
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._outage.closing.wait(), self._check_seconds)

    def _metrics(self) -> DegradedMetrics:
        return DegradedMetrics(self.is_on, self.pending, len(self._unsaved))

    def _direct(self, user_id: str) -> PostgreSQLCheckpointer:
        return PostgreSQLCheckpointer(user_id=user_id, persistence=self.persistence)


def _unsaved(state: PendingState, reason: PersistenceError | None) -> UnsavedState:
    return UnsavedState(state.key.user_id, state.checkpoint, reason)
