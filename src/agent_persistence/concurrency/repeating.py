"""Calls of servers that keep no record of what they have done: repeated where that is safe, honest where it is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent_persistence.concurrency.retries import Retries
from agent_persistence.errors import CommitUnknownError, PersistenceError, UnavailableError

T = TypeVar("T")


class LostReplyError(UnavailableError):
    """Something was sent, and no answer came: it may have been done. It does not leave this package."""


class LostReplyRetries:
    """Makes attempts, which raise ``UnavailableError``, or ``LostReplyError``.

    Args:
        seconds: how long after the first attempt another one may begin.
    """

    def __init__(self, seconds: float) -> None:
        self._retries = Retries(seconds, before_again=_nothing)

    async def read(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done any number of times."""
        try:
            return await self._retries.run(attempt)
        except LostReplyError as error:
            raise UnavailableError(str(error)) from error.__cause__

    async def write(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do what recognizes that it has been done already.

        Raises:
            CommitUnknownError: the server did not come back in time to say whether it has.
        """
        lost: LostReplyError | None = None

        async def noted() -> T:
            nonlocal lost
            try:
                return await attempt()
            except LostReplyError as error:
                lost = error
                raise

        try:
            return await self._retries.run(noted)
        except UnavailableError as error:
            if lost is None:
                raise
            raise _unknown(lost) from error.__cause__

    async def write_once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do what would give another answer if it were done again.

        Raises:
            CommitUnknownError: no answer came.
        """

        async def once() -> T:
            try:
                return await attempt()
            except LostReplyError as error:
                raise _unknown(error) from error.__cause__

        return await self._retries.run(once)


async def _nothing(_: PersistenceError) -> None:
    pass


def _unknown(error: LostReplyError) -> CommitUnknownError:
    return CommitUnknownError(f"{error}: this may have been done; read before you write again")
