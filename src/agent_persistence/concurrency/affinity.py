"""Affinity: a store's connections work only in the process and the event loop in which it was first used."""

from __future__ import annotations

import asyncio
import os

from agent_persistence.errors import ClosedError, ForkedError, WrongLoopError


class _Process:
    """The id of this process, cached: ``os.getpid`` for each operation would cost a system call."""

    id = os.getpid()

    @classmethod
    def forked(cls) -> None:
        cls.id = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.forked)


class Affinity:
    """Binds an object to the process and the event loop of its first use."""

    def __init__(self) -> None:
        self._closed = False
        self._pid: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the first use, or ``None`` before it.

        Raises:
            ForkedError: this is a child process, in which that event loop does not run, whatever it says.
        """
        self.check_process()
        return self._loop

    def close(self) -> None:
        """Make every later check raise ``ClosedError``."""
        self._closed = True

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def check_open(self) -> None:
        """Raise unless the object is open and in its process; works in every thread.

        Raises:
            ForkedError: this is a child process.
            ClosedError: ``close`` was called.
        """
        self.check_process()
        if self._closed:
            raise ClosedError

    def check(self) -> None:
        """Raise unless the object is open and used in its process and event loop; the first call binds it.

        Without this check, the driver would raise "another operation is in progress" at best.

        Raises:
            ClosedError: ``close`` was called.
            ForkedError: this is a child process.
            WrongLoopError: this is another event loop.
        """
        # On every operation, so it must be cheap: attributes are compared, and nothing is asked of the system.
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._pid != _Process.id or self._closed:
            self._bind_or_refuse(loop)

    def _bind_or_refuse(self, loop: asyncio.AbstractEventLoop) -> None:
        self.check_open()
        if self._pid is not None:
            raise WrongLoopError
        self._pid, self._loop = _Process.id, loop

    def check_process(self) -> None:
        """Raise in a child of the process of the first use.

        Raises:
            ForkedError: this is a child process.
        """
        if self._pid is not None and self._pid != _Process.id:
            raise ForkedError(self._pid)
