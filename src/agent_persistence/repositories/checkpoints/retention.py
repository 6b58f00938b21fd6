"""The purge of old checkpoints of graphs, of one owner or of all, a thread a transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from agent_persistence.repositories.checkpoints.pruner import CHECKPOINTS_A_BATCH, CheckpointPruner
from agent_persistence.repositories.states.retention import Purged
from agent_persistence.sessions.scope import Scope
from agent_persistence.sessions.thread_lock import select_and_lock


async def purge_checkpoints(
    scope: Scope[Any, Any], *, keep_last: int, older_than: datetime | None = None, after: Any = None
) -> Purged:
    """Delete old checkpoints of the next thread that has any, in the order of ids; see ``purge_states``.

    A thread that is locked is skipped. The latest checkpoint of a namespace stays.
    """
    thread_id = await _next_thread(scope, keep_last, older_than, after)
    if thread_id is None:
        return Purged(0, after, more=False)
    locking = select_and_lock(scope.threads.c, scope.threads.c.thread_id == thread_id, skip_locked=True)
    if (await scope.execute(locking)).one_or_none() is None:
        return Purged(0, thread_id, more=True)
    pruner = CheckpointPruner(scope, thread_id)
    await pruner.lock()
    deleted = await pruner.old(keep_last, older_than)
    return Purged(deleted, thread_id if deleted < CHECKPOINTS_A_BATCH else after, more=True)


async def count_checkpoints(
    scope: Scope[Any, Any], *, keep_last: int, older_than: datetime | None = None, after: Any = None
) -> Purged:
    """Count the old checkpoints of the next thread that has any, as ``purge_checkpoints`` would delete them."""
    thread_id = await _next_thread(scope, keep_last, older_than, after)
    if thread_id is None:
        return Purged(0, after, more=False)
    return Purged(await CheckpointPruner(scope, thread_id).count_old(keep_last, older_than), thread_id, more=True)


async def _next_thread(scope: Scope[Any, Any], keep_last: int, older_than: datetime | None, after: Any) -> Any:
    checkpoint = scope.models.side_tables.graph.checkpoints
    found = select(checkpoint.c.thread_id).group_by(checkpoint.c.thread_id, checkpoint.c.checkpoint_ns)
    found = found.having(func.count() > keep_last)
    if older_than is not None:
        found = found.having(func.min(checkpoint.c.created_at) < older_than)
    if after is not None:
        found = found.where(checkpoint.c.thread_id > after)
    if not scope.is_any_user:
        found = found.where(checkpoint.c.thread_id.in_(select(scope.threads.c.thread_id).where(scope.owns())))
    # By primary key: the server stops at the first thread.
    return (await scope.execute(found.order_by(checkpoint.c.thread_id).limit(1))).scalar_one_or_none()
