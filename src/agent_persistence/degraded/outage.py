"""An outage of the database: the states that wait for it, and those that this process knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from agent_persistence.degraded.journal import Journal, KnownStates, PendingState, StateKey
from agent_persistence.errors import CommitUnknownError, UnavailableError

logger: Final = logging.getLogger("agent_persistence")


class Outage:
    """Keeps states in memory during an outage, and runs the recovery that ends it.

    Args:
        most_bytes: the maximum of the memory that waiting states take, and of that of known ones.
        recover: writes all waiting states once the database is back; ends with the outage.

    Attributes:
        journal: the states that wait for the database.
        known: the latest states that this process saw.
        is_down: whether the database could not be reached the last time; during the recovery it can, and states wait.
        closing: set once no further outage may start.
    """

    def __init__(self, most_bytes: int, recover: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.journal = Journal()
        self.known = KnownStates(most_bytes)
        self.is_down = False
        self.closing = asyncio.Event()
        self._most_bytes = most_bytes
        self._recover = recover
        self._recovery: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        """Whether the database is down, or states still wait for it."""
        return self._recovery is not None

    def keeps(self, key: StateKey) -> bool:
        """Whether a thread's states are kept here: the database is down, or states of the thread wait for it.

        A save in the database would overtake those that wait; other threads have none, and need not wait for them.
        """
        return self.is_down or self.journal.latest(key) is not None

    def begin(self, cause: UnavailableError | CommitUnknownError) -> None:
        """Note that the database is down, and start the recovery, unless it runs already.

        Raises:
            PersistenceError: the cause: degraded mode is closing.
        """
        if self.closing.is_set():
            raise cause
        self.is_down = True
        if self._recovery is None:
            kind = type(cause).__name__
            fields = {"event_name": "degraded.began", "error_type": kind}
            logger.error("DEGRADED MODE: the database is down, states are kept in memory: %s", kind, extra=fields)
            self._recovery = asyncio.create_task(self._recover(), name="agent-persistence degraded mode")

    def end(self) -> None:
        """End the outage; the recovery calls it as its last step, once no state waits."""
        self._recovery = None

    def add(self, key: StateKey, json: bytes, expected: int | None, *, in_doubt: bool = False) -> PendingState:
        """Keep a state until the database is back.

        Args:
            in_doubt: the database may have it already.

        Raises:
            UnavailableError: degraded mode is closing, or the states would exceed ``most_bytes``.
            CommitUnknownError: the same, for a state in doubt.
        """
        # Bounded, because an outage may last: a process that ran out of memory would lose every waiting state.
        if self.closing.is_set() or self.journal.memory + len(json) > self._most_bytes:
            refusal = CommitUnknownError if in_doubt else UnavailableError
            raise refusal("the database is down, and this process cannot keep more states: try again later")
        return self.journal.add(key, json, expected, in_doubt=in_doubt)

    async def until_over(self) -> None:
        """Wait until the outage is over, or ``aclose`` ends the recovery."""
        if self._recovery is not None:
            await asyncio.wait([self._recovery])

    async def aclose(self, timeout_seconds: float) -> None:
        """Let the recovery finish within the timeout, then cancel it."""
        self.closing.set()
        if (recovery := self._recovery) is not None:
            await asyncio.wait([recovery], timeout=timeout_seconds)
            recovery.cancel()
            await asyncio.wait([recovery])  # its end, after which the journal no longer changes
            self._recovery = None
            self.is_down = False
