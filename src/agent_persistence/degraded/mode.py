"""Going on without the database: states are taken into memory, and written as soon as it is back."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.checkpointer import Checkpoint
from agent_persistence.degraded.checkpointer import DegradedCheckpointer
from agent_persistence.degraded.journal import Journal, KnownStates, PendingState, Place
from agent_persistence.errors import (
    CommitUnknownError,
    PersistenceError,
    StatementTimeoutError,
    UnavailableError,
    UnsavedStatesError,
)
from agent_persistence.frozen import frozen
from agent_persistence.persistence import Persistence

logger: Final = logging.getLogger("agent_persistence")

_MOST_BYTES: Final = 64 * 1024 * 1024
_LAST_PAUSE: Final = 0.1  # seconds between attempts to reach the database while it closes
_MOST_TIMEOUTS: Final = 5  # of a state, before those that wait behind it come first
_REMIND: Final = 30.0  # seconds between lines in the log while it is away


@frozen
class UnsavedState:
    """A state that was taken in while the database was away, and is not in it.

    Attributes:
        reason: why the database did not take it; ``None`` if it did not come back in time.
    """

    user_id: str
    checkpoint: Checkpoint
    reason: PersistenceError | None


class DegradedMode:
    """Keeps agents going while PostgreSQL is away: checkpointers that fall back on this process's memory.

    Make one for a process, and use it as an async context manager: it writes what is left when it closes.

    Args:
        persistence: the store; it is not closed.
        most_bytes: of states that wait, as JSON; beyond it a save fails as it does without degraded mode. As much
            again is used to know the latest states by.
        check_seconds: how often to look whether the database is back.
    """

    def __init__(
        self, persistence: Persistence[Any, Any], *, most_bytes: int = _MOST_BYTES, check_seconds: float = 1.0
    ) -> None:
        self.persistence = persistence
        self.known = KnownStates(most_bytes)
        self.journal = Journal()
        self._most_bytes = most_bytes
        self._check_seconds = check_seconds
        self._unsaved: list[UnsavedState] = []
        self._recovery: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def is_on(self) -> bool:
        """Whether the database is away, or has not got everything yet."""
        return self._recovery is not None

    @property
    def pending(self) -> int:
        """How many states wait for the database."""
        return len(self.journal)

    @property
    def unsaved(self) -> tuple[UnsavedState, ...]:
        """States that the database came back for and refused: write them elsewhere, then ``forget_unsaved``."""
        return tuple(self._unsaved)

    def forget_unsaved(self) -> None:
        """Take ``unsaved`` as dealt with."""
        self._unsaved.clear()

    def checkpointer(self, user_id: str) -> DegradedCheckpointer:
        """Make a checkpointer of an owner; one for each request will do."""
        return DegradedCheckpointer(self, self._direct(user_id), user_id)

    async def until_over(self) -> None:
        """Wait until the database is back and has everything, or until this object is closed."""
        if self._recovery is not None:
            await asyncio.wait([self._recovery])

    def begin(self, cause: UnavailableError) -> None:
        """Stop asking a database that does not answer, and begin to look whether it is back."""
        if self._closing.is_set():
            raise cause
        if self._recovery is None:
            logger.error("DEGRADED MODE: the database is away, states are kept in memory: %s", type(cause).__name__)
            self._recovery = asyncio.create_task(self._recover(), name="agent-persistence degraded mode")

    def take_in(self, place: Place, json: bytes, expected: int | None) -> PendingState:
        """Keep a state until the database is back.

        Raises:
            UnavailableError: there is no room left.
        """
        if self._closing.is_set() or self.journal.size + len(json) > self._most_bytes:
            raise UnavailableError("the database is away, and this process cannot keep more for it: try again later")
        return self.journal.add(place, json, expected)

    async def aclose(self) -> None:
        """Write what waits, for ``PERSISTENCE_CHECKPOINTER_CLEANUP_TIMEOUT`` seconds at most.

        Raises:
            UnsavedStatesError: there are states that the database has not got; the error holds them.
        """
        self._closing.set()
        if (recovery := self._recovery) is not None:
            await asyncio.wait([recovery], timeout=self.persistence.settings.checkpointer_cleanup_timeout)
            recovery.cancel()
            await asyncio.wait([recovery])
            self._recovery = None
        left = [*self._unsaved, *(_unsaved(state, None) for state in self.journal)]
        if left:
            logger.critical("DEGRADED MODE ends with %d states that the database has not got", len(left))
            raise UnsavedStatesError(left)

    async def _recover(self) -> None:
        """Write everything, and end degraded mode, once the database is back."""
        began = reminded = time.monotonic()
        while not await self._caught_up():
            if time.monotonic() - reminded >= _REMIND:
                reminded = time.monotonic()
                seconds, waiting = reminded - began, len(self.journal)
                logger.error("DEGRADED MODE for %.0f s: %d states are in memory only", seconds, waiting)
            await self._pause()
        self._recovery = None  # nothing is awaited between the look at the journal and this
        logger.warning("DEGRADED MODE is over after %.1f s", time.monotonic() - began)

    async def _caught_up(self) -> bool:
        """Write what waits; say whether the database is there and has all of it."""
        try:
            if (await self.persistence.health()).database == "down":
                return False
            while self.journal:
                await self._write(self.journal.first)
        except CommitUnknownError:
            self.journal.first.in_doubt = True
            return False
        except PersistenceError:
            return False
        return True

    async def _write(self, pending: PendingState) -> None:
        place, saved, told = pending.place, None, pending.checkpoint
        direct = self._direct(place.user_id)
        expected = None if pending.expected is None else self.journal.settled(pending.expected)
        try:
            if pending.in_doubt:
                saved = await direct.load_state(place.thread_id)
            if saved is None or saved.state != told.state:
                saved = await direct.save_state(place.thread_id, told.state, expected_version=expected)
        except (UnavailableError, CommitUnknownError):
            raise
        except StatementTimeoutError as error:  # another's lock, or a database that is busy with coming back
            pending.timeouts += 1
            if pending.timeouts < _MOST_TIMEOUTS:
                raise
            self._set_aside(place, error)
        except Exception as error:  # noqa: BLE001 - whatever it was, others wait behind it
            self._set_aside(place, error)
        else:
            self.known.put(place, saved.version, pending.json, saved.created_at)
            self.journal.settle(saved.version)

    def _set_aside(self, place: Place, error: Exception) -> None:
        """Give up a thread's states, loudly: those that follow one which was refused rest on it."""
        taken, reason = self.journal.take(place), error if isinstance(error, PersistenceError) else None
        self.known.forget(place)
        self._unsaved += (_unsaved(state, reason) for state in taken)
        logger.critical(
            "DEGRADED MODE: the database refused what was kept for it: %d states of a thread, see `unsaved`: %s",
            len(taken),
            type(error).__name__,
        )

    async def _pause(self) -> None:
        """Let some time pass; little, once it is short."""
        if self._closing.is_set():
            await asyncio.sleep(min(self._check_seconds, _LAST_PAUSE))
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._check_seconds)

    def _direct(self, user_id: str) -> PostgreSQLCheckpointer:
        return PostgreSQLCheckpointer(user_id=user_id, persistence=self.persistence)


def _unsaved(state: PendingState, reason: PersistenceError | None) -> UnsavedState:
    return UnsavedState(state.place.user_id, state.checkpoint, reason)
