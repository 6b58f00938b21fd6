"""Where a store was opened: its connections work in that process and event loop only."""

from __future__ import annotations

import asyncio
import os

from agent_persistence.errors import ForkedError, WrongLoopError


class Home:
    """Remembers the process and the event loop of the first use."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Refuse to be used elsewhere, which the driver would answer with "another operation is in progress" at best.

        Raises:
            ForkedError: this is a child process.
            WrongLoopError: this is another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._pid is None:
            self._pid, self._loop = os.getpid(), loop
        if self._pid != os.getpid():
            raise ForkedError(self._pid)
        if self._loop is not loop:
            raise WrongLoopError
