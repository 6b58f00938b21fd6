"""Where a store was opened: its connections work in that process and event loop only."""

from __future__ import annotations

import asyncio
import os

from agent_persistence.errors import ClosedError, ForkedError, WrongLoopError


class _Process:
    """Which process this is; asking the kernel for each operation would cost a system call."""

    id = os.getpid()

    @classmethod
    def forked(cls) -> None:
        cls.id = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.forked)


class Affinity:
    """Remembers the process and the event loop of the first use."""

    def __init__(self) -> None:
        self._closed = False
        self._pid: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the first use, or ``None`` before it."""
        return self._loop

    def close(self) -> None:
        """Refuse to be used at all from now on."""
        self._closed = True

    @property
    def is_closed(self) -> bool:
        """Whether nobody may use it any more."""
        return self._closed

    def check_open(self) -> None:
        """Refuse to be used after the end, in whatever thread.

        Raises:
            ClosedError: it is closed.
        """
        if self._closed:
            raise ClosedError

    def check(self) -> None:
        """Refuse to be used elsewhere, which the driver would answer with "another operation is in progress" at best.

        Raises:
            ClosedError: it is closed.
            ForkedError: this is a child process.
            WrongLoopError: this is another event loop.
        """
        self.check_open()
        loop = asyncio.get_running_loop()
        if self._pid is None:
            self._pid, self._loop = _Process.id, loop
        if self._pid != _Process.id:
            raise ForkedError(self._pid)
        if self._loop is not loop:
            raise WrongLoopError
