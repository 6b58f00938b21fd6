"""The readiness of a store: whether its database answers, found out at most once a second."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from agent_persistence.concurrency.shielding import start
from agent_persistence.database.probe import answers
from agent_persistence.operations.session_factory import SessionFactory

FRESH_SECONDS: Final = 1.0
"""How long an answer of the database counts, to a probe or to any other caller, and how long it may take."""


class ReadinessProbe:
    """Finds out whether the database answers. Concurrent and frequent probes share one statement.

    It does not wait for the pool: while all its connections work, their answers count, or a connection is opened beside
    it. A process that is busy is not taken out of the load balancer for it.
    """

    def __init__(self, sessions: SessionFactory[Any, Any]) -> None:
        self._sessions = sessions
        self._asked_at = float("-inf")
        self._answered = False
        self._asking: asyncio.Task[bool] | None = None

    async def answers(self) -> bool:
        """Return whether the database answered within the last second, or answers within one."""
        now = asyncio.get_running_loop().time()
        if now - self._sessions.connections.answered_at < FRESH_SECONDS:
            return True
        if self._asking is None and now - self._asked_at < FRESH_SECONDS:
            return self._answered
        if self._asking is None:
            self._asking = start(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        try:
            self._answered = await answers(self._sessions.engine, timeout_seconds=FRESH_SECONDS)
        finally:
            self._asked_at, self._asking = asyncio.get_running_loop().time(), None
        return self._answered
