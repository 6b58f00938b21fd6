"""Deleting old states of every owner's threads, a batch at a time."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, column, func, select

from agent_persistence.repositories.scope import Scope
from agent_persistence.repositories.state_statements import delete_states

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
    batch = (await scope.execute(walk.with_for_update(key_share=True, skip_locked=True))).scalars().all()
    if not batch:
        return Purged(0, None)
    # Of each thread, from a snapshot that is younger than its lock.
    ids = func.unnest(bindparam("thread_ids", batch, type_=scope.models.id_types.id.array_type()))
    thread = ids.table_valued(column("thread_id", threads.c.thread_id.type)).render_derived(name="thread")
    newer = states.alias()
    newest_to_go = (
        select(newer.c.state_id)
        .where(newer.c.thread_id == thread.c.thread_id)
        .order_by(newer.c.state_id.desc())
        .offset(keep_last)
        .limit(1)
        .scalar_subquery()
    )
    doomed = (
        select(states.c.thread_id, states.c.state_id)
        .where(states.c.thread_id == thread.c.thread_id, states.c.state_id <= newest_to_go)
        .cte("doomed")
    )
    deleted = (await scope.execute(delete_states(states, doomed))).all()
    return Purged(len(deleted), batch[-1])
