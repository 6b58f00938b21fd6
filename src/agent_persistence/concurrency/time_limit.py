"""The time limit of a call, which every wait inside the call obeys.

A call knows when it was made, also if it waited for a batch. Some time before the limit its connections are cut: a
statement without a reply then fails like one whose connection was lost, and a COMMIT can still be settled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from agent_persistence.errors import CommitUnknownError, UnavailableError

SETTLE_SECONDS: Final = 2.0
"""How much of a call's time is left, when its connections are cut, to ask what became of a COMMIT."""
_GRACE_SECONDS: Final = 0.5
NO_ANSWER: Final = "the database did not answer within the time limit of the call; try again"


@dataclass(slots=True)
class _Limits:
    """The limits of a block, as moments of the monotonic clock.

    Attributes:
        end: when it is cancelled.
        cut: when its connections are cut.
        in_doubt: whether a write was sent whose outcome is not known.
    """

    end: float
    cut: float
    in_doubt: bool = False


_made_at: Final[ContextVar[float | None]] = ContextVar("agent_persistence_call_made_at", default=None)
_limits: Final[ContextVar[_Limits | None]] = ContextVar("agent_persistence_call_limits", default=None)


def made_at() -> float | None:
    """Return when the current call was made, by the monotonic clock; ``None`` if it is made now."""
    return _made_at.get()


def is_cut() -> bool:
    """Whether the connections of the current call have been cut."""
    limits = _limits.get()
    return limits is not None and limits.cut <= time.monotonic()


@contextmanager
def call_made_at(moment: float) -> Iterator[None]:
    """Count the time of the block's calls from a moment of the monotonic clock."""
    token = _made_at.set(moment)
    try:
        yield
    finally:
        _made_at.reset(token)


@contextmanager
def one_call() -> Iterator[None]:
    """Count the time of all calls of the block from its beginning, or from that of a block around it."""
    made = _made_at.get()
    with call_made_at(time.monotonic() if made is None else made):
        yield


@contextmanager
def no_call() -> Iterator[None]:
    """Run a block for no call in particular: what it starts outlives the call that happens to start it."""
    made, limits = _made_at.set(None), _limits.set(None)
    try:
        yield
    finally:
        _limits.reset(limits)
        _made_at.reset(made)


@asynccontextmanager
async def ends_by(end: float) -> AsyncIterator[None]:
    """End the block by a moment of the monotonic clock. A block inside another one settles a COMMIT of that one.

    Raises:
        UnavailableError: the block still waited then, for a connection.
        CommitUnknownError: it waited for the outcome of a write.
    """
    call = _limits.get()
    # A settlement ends first, so that the call can still say that the outcome is unknown.
    own = _Limits(end, end - SETTLE_SECONDS) if call is None else _Limits(call.end - _GRACE_SECONDS, call.end)
    token = _limits.set(own)
    try:
        async with waits_until(own.end):
            yield
    except UnavailableError as error:
        if own.in_doubt:
            raise CommitUnknownError("the call ended during COMMIT; read before writing again") from error.__cause__
        raise
    finally:
        _limits.reset(token)


@asynccontextmanager
async def waits_until(end: float) -> AsyncIterator[None]:
    """Wait in the block until a moment of the monotonic clock at most, for work that goes on for other callers.

    Raises:
        UnavailableError: the block still waited then.
    """
    limit = asyncio.timeout(end - time.monotonic())
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise UnavailableError(NO_ANSWER) from error


@contextmanager
def outcome_unknown() -> Iterator[None]:
    """Mark a block that sends a write and gets to know its outcome: a call that is ended in between cannot tell it."""
    limits = _limits.get()
    if limits is not None:
        limits.in_doubt = True
    try:
        yield
    except asyncio.CancelledError:
        raise
    except BaseException:
        if limits is not None:
            limits.in_doubt = False
        raise
    if limits is not None:
        limits.in_doubt = False


@contextmanager
def cut_in_time(cut: Callable[[], None]) -> Iterator[None]:
    """Call ``cut`` if the block still runs when the connections of the current call are to be cut."""
    handle = call_when_due(cut)
    try:
        yield
    finally:
        if handle is not None:
            handle.cancel()


def call_when_due(cut: Callable[[], None]) -> asyncio.TimerHandle | None:
    """Schedule ``cut`` for when the connections of the current call are to be cut; ``None`` if they are not."""
    limits, now = _limits.get(), time.monotonic()
    if limits is None:
        return None
    # An attempt that starts later has the rest of the call: an outage may end in its last seconds.
    moment = limits.cut if now < limits.cut else limits.end
    return asyncio.get_running_loop().call_later(moment - now, cut)
