"""The outbox: states whose cached values nobody could withdraw, taken out once somebody can."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import delete, select

from agent_persistence.records import TouchedState
from agent_persistence.sessions.scope import Scope

ROWS_A_BATCH: Final = 100


async def take_from_outbox(scope: Scope[Any, Any]) -> frozenset[TouchedState]:
    """Take the oldest states out. Roll back unless they are dealt with: then they stay where they were.

    Several callers at once take different rows.
    """
    outbox = scope.models.side_tables.outbox
    oldest = select(outbox.c.outbox_id).order_by(outbox.c.outbox_id).limit(ROWS_A_BATCH)
    batch = oldest.with_for_update(skip_locked=True).cte("batch")
    taken = delete(outbox).where(outbox.c.outbox_id == batch.c.outbox_id)
    statement = taken.returning(outbox.c.thread_id, outbox.c.user_id)
    return frozenset(TouchedState(row.thread_id, row.user_id) for row in await scope.execute(statement))
