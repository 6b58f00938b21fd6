"""What must happen around the outermost commit, whoever issues it. The only place that knows session events.

Repositories say what they changed (``touch``); the cache says what to do about it (``watch``). Listeners are added at
the first touch: they cost tens of microseconds a session, which a session that only reads need not pay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

# Internal upstream (2.1 calls it await_ and keeps this name); imported here and nowhere else, tested on both lines.
from sqlalchemy.util import await_only

from agent_persistence.errors import InvalidInput
from agent_persistence.records import SavedState

logger = logging.getLogger("agent_persistence")

_WATCH: Final = "agent_persistence.watch"


class TouchedState(NamedTuple):
    """Whose latest state a transaction changed."""

    thread_id: Any
    user_id: Any


Touched = dict[TouchedState, SavedState | None]
"""The latest state that this transaction leaves behind, or ``None`` where the next reader has to look."""


class CommitHooks(Protocol):
    """What somebody wants to do around a commit that changed states. None of it may raise."""

    def prepare(self, touched: Mapping[TouchedState, SavedState | None], /) -> Any:
        """Make what the other three are called with."""

    async def before_commit(self, ticket: Any, /) -> None:
        """Run after the last write was flushed, so with the row locks held."""

    async def after_commit(self, ticket: Any, /) -> None:
        """Run once the work is durable."""

    async def after_rollback(self, ticket: Any, /) -> None:
        """Run once the work is certainly undone."""


@dataclass(slots=True)
class _Watch:
    """What is watched for in a session, and how far its transaction has come.

    Attributes:
        bind: the class whose connection writes, for sessions that have several.
        says_values: whether the values that it writes may be passed on. A host may undo them behind the session's
            back, with a savepoint of the connection; then only that something changed is passed on.
        savepoints: what was touched before each savepoint.
    """

    hooks: CommitHooks
    bind: type[Any]
    says_values: bool
    listening: bool = False
    touched: Touched = field(default_factory=dict)
    savepoints: dict[SessionTransaction, Touched] = field(default_factory=dict)
    connection: Connection | None = None
    ticket: Any = None
    sent: bool = False
    committed: bool = False


# A cancelled request has still committed: its work goes on without it, and is waited for when closing.
_running: set[asyncio.Task[None]] = set()


def watch(session: AsyncSession, hooks: CommitHooks, *, bind: type[Any], says_values: bool) -> None:
    """Have ``hooks`` called around the commits of this session.

    Raises:
        InvalidInput: somebody else's hooks are called already.
    """
    watched = session.sync_session.info.setdefault(_WATCH, _Watch(hooks, bind, says_values))
    if watched.hooks is not hooks:
        raise InvalidInput("session", "is bound to another Persistence; the caches of both would not hear of a commit")


def touch(session: AsyncSession, state: TouchedState, latest: SavedState | None = None) -> None:
    """Say that the transaction changed a thread's latest state, and to what where that is known."""
    watched = _watch_of(session.sync_session)
    if watched is None:
        return
    watched.touched[state] = latest if watched.says_values else None
    if not watched.listening:
        watched.listening = True
        _listen(session.sync_session)


def has_touched(session: AsyncSession, thread_id: Any) -> bool:
    """Whether the transaction changed this thread's state, so that its reads must go to the table."""
    watched = _watch_of(session.sync_session)
    return watched is not None and any(touched.thread_id == thread_id for touched in watched.touched)


async def drain(timeout_seconds: float) -> None:
    """Wait for the work after commits that is still under way."""
    mine = [task for task in _running if task.get_loop() is asyncio.get_running_loop()]
    if mine:
        await asyncio.wait(mine, timeout=timeout_seconds)


def _watch_of(session: Session) -> _Watch | None:
    watched: _Watch | None = session.info.get(_WATCH)
    return watched


def _listen(session: Session) -> None:
    event.listen(session, "before_commit", _before_commit)
    event.listen(session, "after_commit", _after_commit)
    event.listen(session, "after_transaction_create", _after_transaction_create)
    event.listen(session, "after_soft_rollback", _after_soft_rollback)
    event.listen(session, "after_transaction_end", _after_transaction_end)


def _before_commit(session: Session) -> None:
    watched = _watch_of(session)
    if watched is None or not watched.touched or session.in_nested_transaction():
        return  # a released savepoint is not durable yet
    session.flush()
    watched.connection = session.connection(bind_arguments={"mapper": watched.bind})
    watched.ticket = watched.hooks.prepare(watched.touched)
    await_only(watched.hooks.before_commit(watched.ticket))
    watched.sent = True  # from here on only a commit tells that it was one


def _after_commit(session: Session) -> None:
    watched = _watch_of(session)
    if watched is None or watched.connection is None or session.in_nested_transaction():
        return
    # A session that was joined to a transaction of its connection has committed nothing yet.
    watched.committed = not watched.connection.in_transaction()


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    watched = _watch_of(session)
    if watched is not None and transaction.nested:
        watched.savepoints[transaction] = dict(watched.touched)


def _after_soft_rollback(session: Session, transaction: SessionTransaction) -> None:
    """Forget what a savepoint touched: its locks are gone too, so its keys are no longer ours to quarantine."""
    watched = _watch_of(session)
    if watched is not None and transaction.nested:
        watched.touched = watched.savepoints.get(transaction, {})


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """The one event that comes however a transaction ends: a session may be closed without commit or rollback."""
    watched = _watch_of(session)
    if watched is None or transaction.parent is not None:
        return
    ticket, committed, undone = watched.ticket, watched.committed, not watched.sent
    watched.ticket = watched.connection = None
    watched.sent = watched.committed = False
    watched.touched, watched.savepoints = {}, {}
    if ticket is not None and (committed or undone):
        _run_to_the_end(watched.hooks.after_commit(ticket) if committed else watched.hooks.after_rollback(ticket))


def _run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        await_only(asyncio.shield(task))
    except Exception:
        # The rows are committed: commit() must not fail for what comes after it.
        logger.warning("work after a commit failed", exc_info=True)
