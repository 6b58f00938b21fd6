"""Hooks around the outermost commit of a session, issued here or by the host; the only user of session events.

Repositories report changed states (``touch``); the hooks of a ``CacheWatch`` act on these reports.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sqlalchemy import Connection, any_, event, insert, literal, select
from sqlalchemy.orm import Session, SessionTransaction

# Internal upstream (2.1 calls it await_ and keeps this name); imported here and nowhere else, tested on both lines.
from sqlalchemy.util import await_only

from agent_persistence.concurrency.shielding import start
from agent_persistence.errors import InvalidInputError
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.records import ANY_USER, SavedState, Touched, TouchedState
from agent_persistence.sessions.owner_setting import set_local, set_owner
from agent_persistence.sessions.thread_lock import select_and_lock

logger = logging.getLogger("agent_persistence")

_WATCH: Final = "agent_persistence.watch"
_SHARED: Final = "agent_persistence.shared"


class CommitHooks(Protocol):
    """Functions called around a commit that changed states. None of them may raise."""

    def prepare(self, touched: Mapping[TouchedState, SavedState | None], /) -> Any:
        """Return the ticket that the other three are called with."""

    async def before_commit(self, ticket: Any, /) -> Collection[TouchedState]:
        """Run after the last flush, while the row locks are held; return the states that the cache was not told of.

        Those are written to the outbox in the same transaction.
        """
        ...

    async def after_commit(self, ticket: Any, /) -> None:
        """Run once the transaction is durable."""

    async def after_rollback(self, ticket: Any, /) -> None:
        """Run once the transaction is certainly rolled back."""


@dataclass(slots=True)
class CacheWatch:
    """The hooks of a session, and the state of its transaction.

    Attributes:
        idle_limit: how long the transaction may idle once the hooks ran, in seconds; ``None`` where the connection has
            such a limit already.
        row_level_security: whether policies show an owner only their rows.
        touched: states that repositories changed.
        written: threads whose states the host changed through the mapped classes; their owners are looked up.
        savepoints: ``touched`` and ``written`` as they were before each savepoint.
        sent: whether the hooks before the commit ran: from then on only a seen commit or rollback ends the quarantine.
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
    """Note that the transaction changed a thread's latest state, and its new value where that is known."""
    watch = watch_of(session)
    if watch is not None:
        watch.touched[state] = latest


def touch_written(session: Session, thread_id: Any) -> None:
    """Note that the host changed states of a thread; its owner is looked up before the commit."""
    watch = watch_of(session)
    if watch is not None:
        watch.written.add(thread_id)


def has_touched(session: Session, thread_id: Any) -> bool:
    """Whether the transaction changed this thread's state, or may do so, so that it must read the table."""
    watch = watch_of(session)
    if watch is None:
        return False
    if session.new or session.dirty or session.deleted or thread_id in watch.written:
        return True
    return any(touched.thread_id == thread_id for touched in watch.touched)


def share(session: Session) -> None:
    """Note that the host uses this session too, for any SQL and savepoints."""
    session.info[_SHARED] = True


def is_shared(session: Session) -> bool:
    """Whether the host may have done something in this session that this package did not see.

    Then values written in it may have been undone, so they are not passed on to the cache, and its transaction may hold
    more than the evidence of its commit.
    """
    return _SHARED in session.info


def start_watch(session: Session, watch: CacheWatch) -> bool:
    """Watch a session; return whether it was not watched before.

    Raises:
        InvalidInputError: the session is bound to another ``Persistence``.
    """
    current = session.info.setdefault(_WATCH, watch)
    if current.hooks is not watch.hooks:
        raise InvalidInputError(
            "session", "is bound to another Persistence; the caches of both would not hear of a commit"
        )
    return current is watch


def watch_of(session: Session) -> CacheWatch | None:
    """Return the watch of a session, or ``None``."""
    watch: CacheWatch | None = session.info.get(_WATCH)
    return watch


def listen_to_commits(session: Session | type[Session]) -> None:
    """Listen to the transactions of a session, or of a class of sessions."""
    event.listen(session, "before_commit", _before_commit)
    event.listen(session, "after_commit", _after_commit)
    event.listen(session, "after_transaction_create", _after_transaction_create)
    event.listen(session, "after_soft_rollback", _after_soft_rollback)
    event.listen(session, "after_transaction_end", _after_transaction_end)


def refuse_autocommit(*, yes: bool) -> None:
    """Refuse sessions and connections in AUTOCOMMIT: the cache would hear of each commit too late.

    Raises:
        InvalidInputError: ``yes``.
    """
    if yes:
        raise InvalidInputError(
            "session", "must not be in AUTOCOMMIT: the cache has to hear of a commit before it comes"
        )


def _before_commit(session: Session) -> None:
    watch = watch_of(session)
    if watch is None:
        return
    # Flushed here, so that the listeners of the mapped classes have seen every state before the keys are quarantined.
    session.flush()
    if watch.written:
        _lock_written(session, watch)
    if not watch.touched or session.in_nested_transaction():
        return  # a released savepoint is not durable yet
    watch.connection = session.connection(bind_arguments={"mapper": watch.models.Thread})
    driver_connection = watch.connection.connection.dbapi_connection
    refuse_autocommit(yes=getattr(driver_connection, "autocommit", False))
    if watch.idle_limit is not None:
        _limit_idling(watch.connection, watch.idle_limit)
    # The host may have undone values unseen, by a savepoint of the connection: then no value is published.
    touched = dict.fromkeys(watch.touched) if is_shared(session) else watch.touched
    watch.ticket = watch.hooks.prepare(touched)
    # SQLAlchemy runs its events in a greenlet; await_only switches to the event loop, so that Redis is awaited and does
    # not block it.
    untold = await_only(watch.hooks.before_commit(watch.ticket))
    watch.sent = True
    if untold:
        watch.connection.execute(insert(watch.models.side_tables.outbox), [state._asdict() for state in untold])


def _lock_written(session: Session, watch: CacheWatch) -> None:
    """Look up the owners of the threads that the host wrote to, and lock these threads as the repositories do."""
    if watch.row_level_security:
        set_owner(session, ANY_USER, bind=watch.models.Thread)
    thread = table_of(watch.models.Thread).c
    ids = literal(list(watch.written), watch.models.id_types.id.array_type())
    # In the order of ids, so that two commits that lock the same threads cannot deadlock.
    statement = select_and_lock(thread, thread.thread_id == any_(ids)).order_by(thread.thread_id)
    for row in session.execute(statement, bind_arguments={"mapper": watch.models.Thread}):
        watch.touched[TouchedState(row.thread_id, row.user_id)] = None


def _limit_idling(connection: Connection, seconds: float) -> None:
    """Let the server end the transaction before the quarantine expires, should this process stall now."""
    milliseconds = str(int(seconds * 1000))
    connection.execute(select(set_local("idle_in_transaction_session_timeout", milliseconds)))


def _after_commit(session: Session) -> None:
    watch = watch_of(session)
    if watch is None or session.in_nested_transaction():
        return
    if watch.connection is None:
        if watch.touched:  # SQLAlchemy announced only the savepoint, and has committed both
            logger.warning(
                "a transaction was committed with a savepoint open: cached states are withdrawn after it",
                extra={"event_name": "cache.savepoint_open"},
            )
            watch.ticket, watch.committed = watch.hooks.prepare(dict.fromkeys(watch.touched)), True
        return
    # A session that joined a transaction of its connection has committed nothing yet.
    watch.committed = not watch.connection.in_transaction()


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    watch = watch_of(session)
    if watch is not None and transaction.nested:
        # Copies: a rollback to the savepoint must restore what was touched before it.
        watch.savepoints[transaction] = dict(watch.touched), set(watch.written)


def _after_soft_rollback(session: Session, transaction: SessionTransaction) -> None:
    """Forget the states that a savepoint touched: its row locks are gone, so their keys must not be quarantined."""
    watch = watch_of(session)
    if watch is not None and transaction.nested:
        watch.touched, watch.written = watch.savepoints.get(transaction, ({}, set()))


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """Run the hooks of the end. Only this event follows every transaction: a session may close without a rollback."""
    watch = watch_of(session)
    if watch is None or transaction.parent is not None:
        return
    # If the hooks before the commit ran and neither a commit nor a rollback was seen, the outcome is unknown: then the
    # quarantine stays until it expires.
    ticket, committed, undone = watch.ticket, watch.committed, not watch.sent
    watch.ticket = watch.connection = None
    watch.sent = watch.committed = False
    watch.touched, watch.written, watch.savepoints = {}, set(), {}
    if ticket is not None and (committed or undone):
        _run_to_the_end(watch.hooks.after_commit(ticket) if committed else watch.hooks.after_rollback(ticket))


def _run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    try:
        await_only(asyncio.shield(start(work)))
    except Exception:
        # The rows are committed: commit() must not fail because of what follows it.
        fields = {"event_name": "cache.after_commit_failed"}
        logger.warning("work after a commit failed", exc_info=True, extra=fields)
