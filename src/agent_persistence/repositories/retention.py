"""Deleting old states of every owner's threads, a batch at a time."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.driver_errors import translated
from agent_persistence.models import Models
from agent_persistence.models.base import table_of

MAX_KEPT: Final = 2**31 - 1
THREADS_A_BATCH: Final = 100


async def purge_states(session: AsyncSession, models: Models[Any, Any], *, keep_last: int) -> int:
    """Delete all but the newest states of some threads that have more; say how many states went.

    Call it until it says 0. Several callers at once take different threads, and none waits for a writer: a thread whose
    row is locked is left for later. The latest state of a thread always stays, so no cached value changes.
    """
    threads, states = table_of(models.Thread), table_of(models.State)
    due = (
        select(threads.c.thread_id)
        .where(_newest_to_go(states, threads.c.thread_id, keep_last).exists())
        .limit(THREADS_A_BATCH)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("due")
    )
    old = states.c.state_id <= _newest_to_go(states, due.c.thread_id, keep_last).scalar_subquery()
    with translated():
        result = await session.execute(delete(states).where(states.c.thread_id == due.c.thread_id, old))
    return int(result.rowcount)  # type: ignore[attr-defined]  # a DELETE gives a CursorResult


def _newest_to_go(states: Any, thread_id: Any, keep_last: int) -> Any:
    newer = states.alias()
    return (
        select(newer.c.state_id)
        .where(newer.c.thread_id == thread_id)
        .order_by(newer.c.state_id.desc())
        .offset(keep_last)
        .limit(1)
    )
