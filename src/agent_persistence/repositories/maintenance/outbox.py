"""The outbox of cache invalidations that were not delivered to Redis."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import delete, select

from agent_persistence.records import TouchedState
from agent_persistence.sessions.scope import Scope

ROWS_A_BATCH: Final = 100


async def take_from_outbox(scope: Scope[Any, Any]) -> frozenset[TouchedState]:
    """Delete the oldest rows of the outbox and return their states; roll back if they cannot be delivered.

    Concurrent callers take different rows.
    """
    outbox = scope.models.side_tables.outbox
    oldest = select(outbox.c.outbox_id).order_by(outbox.c.outbox_id).limit(ROWS_A_BATCH)
    # SKIP LOCKED lets several processes sweep at once; without it they would wait for one another's deliveries to
    # Redis.
    batch = oldest.with_for_update(skip_locked=True).cte("batch")
    taken = delete(outbox).where(outbox.c.outbox_id == batch.c.outbox_id)
    statement = taken.returning(outbox.c.thread_id, outbox.c.user_id)
    return frozenset(TouchedState(row.thread_id, row.user_id) for row in await scope.execute(statement))
