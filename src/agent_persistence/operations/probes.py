"""The health of a store: which servers answer. Its readiness is found out at most once a second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from agent_persistence.cache import StateCache
from agent_persistence.concurrency.shielding import start
from agent_persistence.database.probe import answers
from agent_persistence.operations.session_factory import SessionFactory

FRESH_SECONDS: Final = 1.0
"""How long an answer of the database counts, to a probe or to any other caller, and how long it may take."""


@dataclass(frozen=True, slots=True)
class Health:
    """The reachability of the servers.

    Attributes:
        database: ``"up"`` or ``"down"``.
        cache: ``"up"``, ``"down"``, or ``"off"`` if none is configured.
        cache_counts: hits, misses and other counters since the start of this process.
    """

    database: Literal["up", "down"]
    cache: Literal["up", "down", "off"]
    cache_counts: dict[str, int] = field(default_factory=dict)


async def examine(engine: AsyncEngine, cache: StateCache | None, *, timeout_seconds: float) -> Health:
    """Return which servers answer.

    Args:
        engine: asks the database, beside the pool.
        cache: ``None`` if none is configured.
        timeout_seconds: how long to wait for the database.
    """
    database: Literal["up", "down"] = "up" if await answers(engine, timeout_seconds=timeout_seconds) else "down"
    if cache is None:
        return Health(database, "off")
    return Health(database, "up" if await cache.ping() else "down", cache.counts.as_dict())


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a store can serve calls.

    Attributes:
        ready: whether calls succeed: the database answers, or degraded mode keeps states in memory.
        database: ``"up"`` or ``"down"``.
        cache: ``"off"`` if none is configured, and ``"down"`` while it is not called, because calls failed. Reads go to
            PostgreSQL then, so this is no reason not to be ready.
        degraded: whether degraded mode is on.
    """

    ready: bool
    database: Literal["up", "down"]
    cache: Literal["up", "down", "off"]
    degraded: bool = False


NOT_READY: Final = Readiness(ready=False, database="down", cache="off")
"""The answer of a store that is not open."""


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

    async def look(self) -> Readiness:
        """Return the readiness, within a second."""
        is_up, cache, degraded = await self._answers(), self._sessions.cache, self._sessions.telemetry.degraded
        return Readiness(
            # With degraded mode, saves of checkpointers succeed while the database is down.
            ready=is_up or degraded is not None,
            database="up" if is_up else "down",
            cache="off" if cache is None else "down" if cache.counts.is_open else "up",
            degraded=degraded is not None and degraded().active,
        )

    async def _answers(self) -> bool:
        """Whether the database answered within the last second, or answers within one."""
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
