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
from typing import Final, NamedTuple

from agent_persistence.errors import UnavailableError

SETTLE_SECONDS: Final = 2.0
"""How much of a call's time is left, when its connections are cut, to ask what became of a COMMIT."""
_GRACE_SECONDS: Final = 0.5


class _Limits(NamedTuple):
    """Moments of the monotonic clock: when a block is cancelled, and when its connections are cut."""

    end: float
    cut: float


_made_at: Final[ContextVar[float | None]] = ContextVar("agent_persistence_call_made_at", default=None)
_limits: Final[ContextVar[_Limits | None]] = ContextVar("agent_persistence_call_limits", default=None)


def made_at() -> float | None:
    """Return when the current call was made, by the monotonic clock; ``None`` if it is made now."""
    return _made_at.get()


def is_cut() -> bool:
    """Whether the connections of the current call have been cut."""
    seconds = _seconds_left()
    return seconds is not None and seconds <= 0


def is_over() -> bool:
    """Whether the current call has taken all its time."""
    limits = _limits.get()
    return limits is not None and limits.end <= time.monotonic()


@contextmanager
def call_made_at(moment: float) -> Iterator[None]:
    """Count the time of the block's calls from a moment of the monotonic clock."""
    token = _made_at.set(moment)
    try:
        yield
    finally:
        _made_at.reset(token)


@asynccontextmanager
async def ends_by(end: float) -> AsyncIterator[None]:
    """End the block by a moment of the monotonic clock. A block inside another one settles a COMMIT of that one.

    Raises:
        UnavailableError: the block still waited then, for a connection.
    """
    call = _limits.get()
    # A settlement ends first, so that the call can still say that the outcome is unknown.
    own = _Limits(end, end - SETTLE_SECONDS) if call is None else _Limits(call.end - _GRACE_SECONDS, call.end)
    token, limit = _limits.set(own), asyncio.timeout(own.end - time.monotonic())
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise UnavailableError("the database did not answer within the time limit of the call; try again") from error
    finally:
        _limits.reset(token)


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
    seconds = _seconds_left()
    return None if seconds is None else asyncio.get_running_loop().call_later(seconds, cut)


def _seconds_left() -> float | None:
    """Return in how many seconds the connections of the current call are to be cut; ``None`` if they are not."""
    limits = _limits.get()
    return None if limits is None else limits.cut - time.monotonic()
