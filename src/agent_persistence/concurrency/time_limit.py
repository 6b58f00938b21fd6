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
from typing import Final

from agent_persistence.errors import UnavailableError

SETTLE_SECONDS: Final = 2.0
"""How much of a call's time is left, when its connections are cut, to ask what became of a COMMIT."""
_GRACE_SECONDS: Final = 0.5

_made_at: Final[ContextVar[float | None]] = ContextVar("agent_persistence_call_made_at", default=None)
_cut_at: Final[ContextVar[float | None]] = ContextVar("agent_persistence_call_cut_at", default=None)


def made_at() -> float | None:
    """Return when the current call was made, by the monotonic clock; ``None`` if it is made now."""
    return _made_at.get()


def is_cut() -> bool:
    """Whether the connections of the current call have been cut."""
    moment = _cut_at.get()
    return moment is not None and time.monotonic() >= moment


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
    """End the block by a moment of the monotonic clock.

    Raises:
        UnavailableError: the block still waited then, for a connection.
    """
    is_outermost = _cut_at.get() is None
    token = _cut_at.set(end - SETTLE_SECONDS) if is_outermost else None
    # The outermost block ends last: a settlement inside it must be able to say that the outcome is unknown.
    seconds = end - time.monotonic() - (0 if is_outermost else _GRACE_SECONDS)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise UnavailableError("the database did not answer within the time limit of the call; try again") from error
    finally:
        if token is not None:
            _cut_at.reset(token)


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
    moment = _cut_at.get()
    return None if moment is None else asyncio.get_running_loop().call_later(moment - time.monotonic(), cut)
