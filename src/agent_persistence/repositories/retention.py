"""Deleting old states of every owner's threads, a batch at a time."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import delete, func, select

from agent_persistence.repositories.scope import Scope

MAX_KEPT: Final = 2**31 - 1
THREADS_A_BATCH: Final = 500


class Purged(NamedTuple):
    """What a batch did.

    Attributes:
        deleted: how many states went.
        last: the thread that it ended with; ``None`` after the last one.
    """

    deleted: int
    last: Any


async def purge_states(scope: Scope[Any, Any], *, keep_last: int, after: Any = None) -> Purged:
    """Delete all but the newest states of the next threads, in the order of their ids.

    Several callers at once take different threads, and none waits for a writer: a thread whose row is locked is passed
    over. The latest state of a thread always stays, so no cached value changes.
    """
    threads, states = scope.threads, scope.states
    walk = select(threads.c.thread_id).order_by(threads.c.thread_id).limit(THREADS_A_BATCH)
    if after is not None:
        walk = walk.where(threads.c.thread_id > after)
    batch = walk.with_for_update(key_share=True, skip_locked=True).cte("batch")
    newer = states.alias()
    newest_to_go = (
        select(newer.c.state_id)
        .where(newer.c.thread_id == batch.c.thread_id)
        .order_by(newer.c.state_id.desc())
        .offset(keep_last)
        .limit(1)
        .scalar_subquery()
    )
    old = delete(states).where(states.c.thread_id == batch.c.thread_id, states.c.state_id <= newest_to_go)
    gone = old.returning(states.c.state_id).cte("gone")
    last = select(batch.c.thread_id).order_by(batch.c.thread_id.desc()).limit(1).scalar_subquery()
    deleted = select(func.count()).select_from(gone).scalar_subquery()
    row = (await scope.execute(select(deleted.label("deleted"), last.label("last")))).one()
    return Purged(row.deleted, row.last)
