"""The sweep: delivers invalidations to Redis that a writer could not deliver."""

from __future__ import annotations

from typing import Any, Final

from agent_persistence.cache.state_cache import StateCache
from agent_persistence.database.driver_errors import translated
from agent_persistence.repositories.maintenance.outbox import take_from_outbox
from agent_persistence.sessions.session_scope import TransactionScope

SWEEP_SECONDS: Final = 5.0
"""How long a sweep in the background may take: while it waits on a connection that has fallen silent, none runs."""


async def sweep_batch(scope: TransactionScope[Any, Any], *, cache: StateCache) -> int:
    """Invalidate the cached states of the oldest outbox rows, and delete these rows; return their number.

    Redis first, then the commit: after a failure between the two, the rows are swept again, which is harmless. While
    Redis is down they stay. Several processes may sweep at once.
    """
    # Asked first: otherwise each sweep during an outage of Redis would lock the rows and wait for the timeout below
    # those locks.
    if not await cache.ping():
        return 0
    states, ages = await take_from_outbox(scope)
    if states and not await cache.invalidate(states):
        with translated():
            await scope.session_scope().session.rollback()
        return 0
    # Before the commit: if that fails, the rows are delivered, and counted, once more.
    cache.counts.swept += len(states)
    for age in ages:
        cache.counts.outbox_age.add(age)
    return len(states)
