"""The sweeper: tells Redis what a writer could not tell it."""

from __future__ import annotations

from typing import Any

from agent_persistence.cache.state_cache import StateCache
from agent_persistence.database.driver_errors import translated
from agent_persistence.repositories.maintenance.outbox import take_from_outbox
from agent_persistence.sessions.session_scope import SessionScope


async def sweep_batch(scope: SessionScope[Any, Any], *, cache: StateCache) -> int:
    """Withdraw the cached values of the oldest states in the outbox; say how many there were.

    Redis first, then the rows: whatever fails between the two, they are swept once more, which does no harm. While
    Redis is away they stay. Several processes may sweep at once.
    """
    if not await cache.ping():
        return 0
    states = await take_from_outbox(scope)
    if states and not await cache.invalidate(states):
        with translated():
            await scope.session.rollback()
        return 0
    return len(states)
