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
from functools import partial
from types import TracebackType
from typing import Final, Self

from agent_persistence.errors import CommitUnknownError, UnavailableError
from agent_persistence.telemetry.timing import sqlstate_behind

SETTLE_SECONDS: Final = 2.0
"""How much of a call's time is left, when its connections are cut, to ask what became of a COMMIT."""
_GRACE_SECONDS: Final = 0.5
_IN_DOUBT: Final = "the call ended during COMMIT; read before writing again"
_NO_ANSWER: Final = "the database did not answer within the time limit of the call; try again"

_made_at: Final[ContextVar[float | None]] = ContextVar("agent_persistence_call_made_at", default=None)
_limit: Final[ContextVar[EndsBy | None]] = ContextVar("agent_persistence_call_limit", default=None)
_refusals: Final[ContextVar[Refusals | None]] = ContextVar("agent_persistence_refusals", default=None)


class Refusals:
    """Remembers what the server last refused with, for calls that run out of time while it is retried.

    "Did not answer" would send an operator to the network, where the server said that it takes no writes.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: UnavailableError | None = None

    def note(self, error: BaseException) -> None:
        """Remember an error that is retried, if the server answered with it."""
        if isinstance(error, UnavailableError) and sqlstate_behind(error) is not None:
            self._last = error

    def forget(self) -> None:
        """Forget it: the server works again."""
        self._last = None

    def at_the_limit(self) -> UnavailableError:
        """Return the error of a call that has no time left; the driver's error of the refusal is its cause."""
        if self._last is None:
            return UnavailableError(_NO_ANSWER)
        error = UnavailableError(*self._last.args)
        error.__cause__ = self._last.__cause__
        return error

    def explain(self, error: UnavailableError) -> UnavailableError:
        """Return the error of a call whose connections were cut at its limit: the last refusal, if there was one."""
        return error if self._last is None or sqlstate_behind(error) is not None else self.at_the_limit()


def made_at() -> float | None:
    """Return when the current call was made, by the monotonic clock; ``None`` if it is made now."""
    return _made_at.get()


def is_cut() -> bool:
    """Whether the connections of the current call have been cut."""
    limit = _limit.get()
    return limit is not None and limit.cut <= time.monotonic()


@contextmanager
def call_made_at(moment: float) -> Iterator[None]:
    """Count the time of the block's calls from a moment of the monotonic clock."""
    token = _made_at.set(moment)
    try:
        yield
    finally:
        _made_at.reset(token)


def count_from(moment: float, refusals: Refusals) -> None:
    """Count the time of all calls in the current task's context, which is its own, from a moment.

    Args:
        moment: of the monotonic clock.
        refusals: where these calls note what the server refused with.
    """
    _made_at.set(moment)
    _refusals.set(refusals)


@contextmanager
def one_call() -> Iterator[None]:
    """Count the time of all calls of the block from its beginning, or from that of a block around it."""
    made = _made_at.get()
    with call_made_at(time.monotonic() if made is None else made):
        yield


@contextmanager
def no_call() -> Iterator[None]:
    """Run a block for no call in particular: what it starts outlives the call that happens to start it."""
    made, limit = _made_at.set(None), _limit.set(None)
    try:
        yield
    finally:
        _limit.reset(limit)
        _made_at.reset(made)


class EndsBy:
    """Ends the block by a moment of the monotonic clock. A block inside another one settles a COMMIT of that one.

    One timer for the whole call: first it cuts the connections that the block uses, then it cancels the block.

    Raises:
        UnavailableError: (at the end of the block) it still waited then, for a connection.
        CommitUnknownError: (at the end of the block) it waited for the outcome of a write.

    Attributes:
        end: when it is cancelled.
        cut: when its connections are cut.
        cuts: what cuts those that it uses.
        in_doubt: whether a write was sent whose outcome is not known.
        refusals: what the server refused with, in the attempts until now.
    """

    __slots__ = ("_timeout", "_timer", "_token", "_was_cut", "cut", "cuts", "end", "in_doubt", "refusals")

    def __init__(self, end: float) -> None:
        call = _limit.get()
        # A settlement ends first, so that the call can still say that the outcome is unknown.
        self.end: float = end if call is None else call.end - _GRACE_SECONDS
        self.cut: float = end - SETTLE_SECONDS if call is None else call.end
        self.in_doubt = False
        self.cuts: list[Callable[[], None]] = []
        self.refusals: Refusals = _refusals.get() or Refusals()
        self._was_cut = False
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._token, now = _limit.set(self), time.monotonic()
        # An attempt that starts after the cut has the rest of the call: an outage may end in its last seconds.
        moment = self.cut if now < self.cut <= self.end else self.end
        self._timer = asyncio.get_running_loop().call_later(moment - now, self._due)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        _limit.reset(self._token)
        timeout = self._timeout
        # The event loop keeps cancelled timers for a while, and they keep the context of the call, in which this object
        # is. Through its timeout it would keep the call's task, and the result: 1 MB for each chunk of a stream.
        del self._timeout, self._token
        try:
            await timeout.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            if self.in_doubt:
                raise CommitUnknownError(_IN_DOUBT) from expired
            limit = self.refusals.at_the_limit()
            raise limit from limit.__cause__ or expired
        if not isinstance(error, UnavailableError):
            return
        if self.in_doubt:
            raise CommitUnknownError(_IN_DOUBT) from error.__cause__
        if self._was_cut and (explained := self.refusals.explain(error)) is not error:
            raise explained from explained.__cause__

    def _due(self) -> None:
        for cut in [*self.cuts]:
            self._was_cut = True
            cut()
        loop, left = asyncio.get_running_loop(), self.end - time.monotonic()
        if left > 0:
            self._timer = loop.call_later(left, self._due)
        else:
            self._timeout.reschedule(loop.time())


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
        raise UnavailableError(_NO_ANSWER) from error


class OutcomeUnknown:
    """Marks a block that sends a write and gets to know its outcome: a call that is ended in between cannot tell it."""

    __slots__ = ("_limit",)

    def __enter__(self) -> None:
        self._limit = _limit.get()
        if self._limit is not None:
            self._limit.in_doubt = True

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._limit is not None and not isinstance(error, asyncio.CancelledError):
            self._limit.in_doubt = False


def cut_when_due(cut: Callable[[], None]) -> Callable[[], None] | None:
    """Call ``cut`` when the connections of the current call are to be cut, and return the function that calls that off.

    ``None`` if they are not to be cut.
    """
    limit = _limit.get()
    if limit is None:
        return None
    limit.cuts.append(cut)
    return partial(limit.cuts.remove, cut)
