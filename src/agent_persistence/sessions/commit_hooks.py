"""What must happen around the outermost commit, whoever issues it. The only place that knows session events.

Repositories say what they changed (``touch``); the hooks of a ``CacheWatch`` say what to do about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Table, any_, event, insert, literal, select
from sqlalchemy.orm import Session, SessionTransaction

# Internal upstream (2.1 calls it await_ and keeps this name); imported here and nowhere else, tested on both lines.
from sqlalchemy.util import await_only

from agent_persistence.concurrency.shielding import start
from agent_persistence.errors import InvalidInputError
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.records import ANY_USER, SavedState, Touched, TouchedState
from agent_persistence.sessions.owner_setting import say_owner, set_local
from agent_persistence.sessions.sharing import is_shared

logger = logging.getLogger("agent_persistence")

_WATCH: Final = "agent_persistence.watch"


class CommitHooks(Protocol):
    """What somebody wants to do around a commit that changed states. None of it may raise."""

    def prepare(self, touched: Mapping[TouchedState, SavedState | None], /) -> Any:
        """Make what the other three are called with."""

    async def before_commit(self, ticket: Any, /) -> Collection[TouchedState]:
        """Run after the last write was flushed, so with the row locks held; return what could not be seen to.

        That is written into the outbox, in the same transaction.
        """
        ...

    async def after_commit(self, ticket: Any, /) -> None:
        """Run once the work is durable."""

    async def after_rollback(self, ticket: Any, /) -> None:
        """Run once the work is certainly undone."""


@dataclass(slots=True)
class CacheWatch:
    """What is watched for in a session, and how far its transaction has come.

    Attributes:
        idle_limit: the longest that the transaction may idle once the hooks ran, in seconds; ``None`` where the
            connection is limited already.
        row_level_security: whether the database shows an owner only the rows of their own.
        written: threads whose states the host wrote through the mapped classes; their owners are looked up.
        savepoints: what was touched and written before each savepoint.
    """

    hooks: CommitHooks
    models: Models[Any, Any]
    idle_limit: float | None
    row_level_security: bool
    touched: Touched = field(default_factory=dict)
    written: set[Any] = field(default_factory=set)
    savepoints: dict[SessionTransaction, tuple[Touched, set[Any]]] = field(default_factory=dict)
    connection: Connection | None = None
    ticket: Any = None
    sent: bool = False
    committed: bool = False


def touch(session: Session, state: TouchedState, latest: SavedState | None = None) -> None:
    """Say that the transaction changed a thread's latest state, and to what where that is known."""
    watched = watch_of(session)
    if watched is not None:
        watched.touched[state] = latest


def touch_written(session: Session, thread_id: Any) -> None:
    """Say that the host wrote states of a thread, whoever owns it."""
    watched = watch_of(session)
    if watched is not None:
        watched.written.add(thread_id)


def has_touched(session: Session, thread_id: Any) -> bool:
    """Whether the transaction changed this thread's state, or may do so, so that its reads must go to the table."""
    watched = watch_of(session)
    if watched is None:
        return False
    if session.new or session.dirty or session.deleted or thread_id in watched.written:
        return True
    return any(touched.thread_id == thread_id for touched in watched.touched)


def start_watch(session: Session, watch: CacheWatch) -> bool:
    """Watch a session; say whether it was not watched yet.

    Raises:
        InvalidInputError: somebody else's hooks are called already.
    """
    watched = session.info.setdefault(_WATCH, watch)
    if watched.hooks is not watch.hooks:
        raise InvalidInputError(
            "session", "is bound to another Persistence; the caches of both would not hear of a commit"
        )
    return watched is watch


def watch_of(session: Session) -> CacheWatch | None:
    """What is watched for in this session."""
    watched: CacheWatch | None = session.info.get(_WATCH)
    return watched


def listen_to_commits(session: Session | type[Session]) -> None:
    """Have the commits of a session, or of a class of sessions, heard of."""
    event.listen(session, "before_commit", _before_commit)
    event.listen(session, "after_commit", _after_commit)
    event.listen(session, "after_transaction_create", _after_transaction_create)
    event.listen(session, "after_soft_rollback", _after_soft_rollback)
    event.listen(session, "after_transaction_end", _after_transaction_end)


def _before_commit(session: Session) -> None:
    watched = watch_of(session)
    if watched is None:
        return
    session.flush()
    if watched.written:
        _lock_written(session, watched)
    if not watched.touched or session.in_nested_transaction():
        return  # a released savepoint is not durable yet
    watched.connection = session.connection(bind_arguments={"mapper": watched.models.Thread})
    driver_connection = watched.connection.connection.dbapi_connection
    refuse_autocommit(yes=getattr(driver_connection, "autocommit", False))
    if watched.idle_limit is not None:
        _limit_idling(watched.connection, watched.idle_limit)
    # A host may have undone values behind the session's back, with a savepoint of the connection.
    touched = dict.fromkeys(watched.touched) if is_shared(session) else watched.touched
    watched.ticket = watched.hooks.prepare(touched)
    untold = await_only(watched.hooks.before_commit(watched.ticket))
    watched.sent = True  # from here on only a commit tells that it was one
    if untold:
        watched.connection.execute(insert(watched.models.outbox), [state._asdict() for state in untold])


def refuse_autocommit(*, yes: bool) -> None:
    """Engines, sessions and connections can be told to commit each statement; the cache hears of that too late."""
    if yes:
        raise InvalidInputError(
            "session", "must not be in AUTOCOMMIT: the cache has to hear of a commit before it comes"
        )


def _lock_written(session: Session, watched: CacheWatch) -> None:
    """Find whose threads the host wrote to, and lock them as the repositories do: the lock is what orders writers."""
    if watched.row_level_security:
        say_owner(session, ANY_USER, bind=watched.models.Thread)
    thread: Table = table_of(watched.models.Thread)
    statement = (
        select(thread.c.thread_id, thread.c.user_id)
        .where(thread.c.thread_id == any_(literal(list(watched.written), watched.models.id_types.id.array_type())))
        .order_by(thread.c.thread_id)
        .with_for_update(key_share=True)
    )
    for row in session.execute(statement, bind_arguments={"mapper": watched.models.Thread}):
        watched.touched[TouchedState(row.thread_id, row.user_id)] = None


def _limit_idling(connection: Connection, seconds: float) -> None:
    """Have the server end the transaction before what the hooks set expires, should this process stall now."""
    milliseconds = str(int(seconds * 1000))
    connection.execute(select(set_local("idle_in_transaction_session_timeout", milliseconds)))


def _after_commit(session: Session) -> None:
    watched = watch_of(session)
    if watched is None or session.in_nested_transaction():
        return
    if watched.connection is None:
        if watched.touched:  # SQLAlchemy spoke of the savepoint only, and has committed both
            logger.warning("a transaction was committed with a savepoint open: cached states are withdrawn after it")
            watched.ticket, watched.committed = watched.hooks.prepare(dict.fromkeys(watched.touched)), True
        return
    # A session that was joined to a transaction of its connection has committed nothing yet.
    watched.committed = not watched.connection.in_transaction()


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    watched = watch_of(session)
    if watched is not None and transaction.nested:
        watched.savepoints[transaction] = dict(watched.touched), set(watched.written)


def _after_soft_rollback(session: Session, transaction: SessionTransaction) -> None:
    """Forget what a savepoint touched: its locks are gone too, so its keys are no longer ours to quarantine."""
    watched = watch_of(session)
    if watched is not None and transaction.nested:
        watched.touched, watched.written = watched.savepoints.get(transaction, ({}, set()))


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """The one event that comes however a transaction ends: a session may be closed without commit or rollback."""
    watched = watch_of(session)
    if watched is None or transaction.parent is not None:
        return
    ticket, committed, undone = watched.ticket, watched.committed, not watched.sent
    watched.ticket = watched.connection = None
    watched.sent = watched.committed = False
    watched.touched, watched.written, watched.savepoints = {}, set(), {}
    if ticket is not None and (committed or undone):
        _run_to_the_end(watched.hooks.after_commit(ticket) if committed else watched.hooks.after_rollback(ticket))


def _run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    try:
        await_only(asyncio.shield(start(work)))
    except Exception:
        # The rows are committed: commit() must not fail for what comes after it.
        logger.warning("work after a commit failed", exc_info=True)
