"""The purge of old states, of one owner or of all, a batch a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ARRAY, BigInteger, any_, case, cast, func, literal, select, true

from agent_persistence.repositories.locks import unnest
from agent_persistence.repositories.states.statements import delete_states, newest_to_go
from agent_persistence.sessions.scope import Query, Scope
from agent_persistence.sessions.thread_lock import select_and_lock

MAX_KEPT: Final = 2**31 - 1
THREADS_A_BATCH: Final = 500
STATES_A_BATCH: Final = 1000
BYTES_A_BATCH: Final = 2**30
"""Of streamed states. Deleting so many takes a second, and a transaction must stay short."""


class Purged(NamedTuple):
    """The result of one batch.

    Attributes:
        deleted: the number of deleted states.
        last: the thread after which the next batch starts.
        more: whether there may be more to delete.
    """

    deleted: int
    last: Any
    more: bool


async def purge_states(
    scope: Scope[Any, Any], *, keep_last: int, older_than: datetime | None = None, after: Any = None
) -> Purged:
    """Delete old states of the next threads in the order of their ids, up to the size of a batch.

    Concurrent callers take different threads, and none waits for a writer: a thread whose row is locked is skipped.
    Threads without old states are not locked. The latest state of a thread stays, so no cached value changes.

    Args:
        scope: the transaction.
        keep_last: how many states of a thread stay.
        older_than: delete only states that were saved before this time.
        after: the thread after which to start; ``None`` for the first one.
    """
    page = await _threads_after(scope, after)
    if not page:
        return Purged(0, after, more=False)
    threads = await _locked(scope, page, keep_last, older_than)
    if not threads:
        return Purged(0, page[-1], more=True)
    # A statement with a snapshot younger than the locks, which sees every committed state of the locked threads.
    due = await _due(scope, threads, keep_last, older_than)
    doomed = list(within(due, BYTES_A_BATCH))
    deleted = await _delete(scope, doomed) if doomed else 0
    is_done = len(doomed) < STATES_A_BATCH and len(doomed) == len(due)
    return Purged(deleted, page[-1] if is_done else after, more=True)


async def count_states(
    scope: Scope[Any, Any], *, keep_last: int, older_than: datetime | None = None, after: Any = None
) -> Purged:
    """Count the old states of the next threads, as ``purge_states`` would delete them, and delete none."""
    page = await _threads_after(scope, after)
    if not page:
        return Purged(0, after, more=False)
    due = _old_states(scope, page, keep_last, older_than).subquery()
    count = (await scope.execute(select(func.count()).select_from(due))).scalar_one()
    return Purged(count, page[-1], more=True)


async def _threads_after(scope: Scope[Any, Any], after: Any) -> Sequence[Any]:
    threads = scope.threads
    # By primary key from where the last batch ended: a purge reads each thread once, however many batches it takes.
    walk = select(threads.c.thread_id).where(scope.owns()).order_by(threads.c.thread_id).limit(THREADS_A_BATCH)
    if after is not None:
        walk = walk.where(threads.c.thread_id > after)
    return (await scope.execute(walk)).scalars().all()


async def _locked(
    scope: Scope[Any, Any], page: Sequence[Any], keep_last: int, older_than: datetime | None
) -> Sequence[Any]:
    """Lock the threads that seem to have old states, and return their ids."""
    threads, states = scope.threads, scope.states
    oldest = (
        select(states.c.created_at)
        .where(states.c.thread_id == threads.c.thread_id)
        .order_by(states.c.state_id)
        .limit(1)
        .scalar_subquery()
    )
    has_due = newest_to_go(states, threads.c.thread_id, keep_last).is_not(None)
    if older_than is not None:
        has_due &= oldest < older_than
    ids = literal(page, scope.models.id_types.id.array_type())
    # The condition is part of the lock: locking every thread of the page would rewrite its row header and make writers
    # wait for nothing.
    lock = select_and_lock(threads.c, threads.c.thread_id == any_(ids), has_due, skip_locked=True)
    return [row.thread_id for row in await scope.lock(lock)]


async def _due(
    scope: Scope[Any, Any], thread_ids: Sequence[Any], keep_last: int, older_than: datetime | None
) -> Sequence[Any]:
    states = scope.states
    # The size that the state declares: summing up its chunks would read them.
    streamed = cast(func.jsonb_extract_path_text(states.c.state_data, "bytes"), BigInteger)
    size = case((states.c.stream_id.is_not(None), func.coalesce(streamed, 0)), else_=0).label("size")
    statement = _old_states(scope, thread_ids, keep_last, older_than).add_columns(size)
    oldest_first = statement.order_by(states.c.thread_id, states.c.state_id).limit(STATES_A_BATCH)
    return (await scope.execute(oldest_first)).all()


def _old_states(
    scope: Scope[Any, Any], thread_ids: Sequence[Any], keep_last: int, older_than: datetime | None
) -> Query:
    states = scope.states
    thread = unnest("thread", thread_id=literal(thread_ids, scope.models.id_types.id.array_type()))
    return (
        select(states.c.thread_id, states.c.state_id)
        .join(thread, states.c.thread_id == thread.c.thread_id)
        .where(
            states.c.state_id <= newest_to_go(states, thread.c.thread_id, keep_last),
            true() if older_than is None else states.c.created_at < older_than,
        )
    )


async def _delete(scope: Scope[Any, Any], rows: Sequence[Any]) -> int:
    ids = literal([row.thread_id for row in rows], scope.models.id_types.id.array_type())
    versions = literal([row.state_id for row in rows], ARRAY(BigInteger))
    named = unnest("named", thread_id=ids, state_id=versions)
    doomed = select(named.c.thread_id, named.c.state_id).cte("doomed")
    return len((await scope.execute(delete_states(scope.models, doomed))).all())


def within(rows: Iterable[Any], most: int) -> Iterator[Any]:
    """Yield the first row, and further ones until their ``size`` exceeds the maximum."""
    size = 0
    for row in rows:
        if size and size + row.size > most:
            return
        size += row.size
        yield row
