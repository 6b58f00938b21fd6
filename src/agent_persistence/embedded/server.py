"""A server program that outlives the process that starts it; the base of PostgreSQL and Valkey."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from agent_persistence.embedded.locks import open_lock, try_lock_exclusive
from agent_persistence.embedded.server_user import ServerUser
from agent_persistence.errors import EmbeddedServerError

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
# A server that is just starting misses the first request, so it is repeated.
_ASK_AGAIN_SECONDS = 0.2
_POLL_SECONDS = 0.01
_LAST_LINES = 15


class Server(ABC):
    """A server of one folder.

    Its standard output is its log, and the log is locked through that descriptor, so every process of the server holds
    the lock until it ends. The lock tells whether a server lives; a file with a process id would be wrong after a
    crash.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, sockets: Path, user: ServerUser) -> None:
        self.folder = folder
        self.sockets = sockets
        self.user = user
        self.log = folder / f"{self.name.lower()}.log"

    @abstractmethod
    def prepare(self, log: int, /) -> None:
        """Prepare the folder for a start; no process of the server runs now."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The server's command line; it runs in the foreground and logs to its standard output."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server accepts clients."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Request the end of the server without waiting for it; it may be ending already."""

    def launch(self) -> None:
        """Start the server unless it runs, without waiting until it answers."""
        if self.answers():
            return
        with self._opened_log() as log:
            # A process that holds the log without answering is starting or ending: its starter or parent has died.
            if not _comes_true(lambda: try_lock_exclusive(log) or self.answers(), _START_SECONDS):
                raise self.failure("runs but does not answer")
            if self.answers():
                return
            # The log of the last run would otherwise be quoted as the reason why this start failed.
            os.ftruncate(log, 0)
            self.prepare(log)
            # The shell exits at once, so the server is not a child process that must be waited for.
            self.run(["/bin/sh", "-c", '"$@" &', "sh", *self.command()], log)

    def wait_until_it_answers(self) -> None:
        """Wait until the server accepts clients.

        Raises:
            EmbeddedServerError: the server ended, or did not answer in time.
        """
        if not _comes_true(lambda: self.answers() or not self._is_alive(), _START_SECONDS):
            raise self.failure("did not answer in time")
        if not self.answers():
            raise self.failure("ended while it was starting")

    def stop(self) -> None:
        """Stop the server if it runs, and wait for its end."""
        deadline = time.monotonic() + _STOP_SECONDS
        while self._is_alive():
            if time.monotonic() > deadline:
                raise self.failure("did not stop in time")
            self.ask_to_stop()
            _comes_true(lambda: not self._is_alive(), _ASK_AGAIN_SECONDS)

    def run(self, command: Sequence[str | Path], log: int, text: str = "") -> None:
        """Run a command, and append its output to the log.

        Raises:
            EmbeddedServerError: it failed.
        """
        if self.user.run(command, output=log, text=text).returncode != 0:
            raise self.failure(f"could not be started: {Path(command[0]).name} failed")

    def failure(self, what: str) -> EmbeddedServerError:
        """Return the error with what happened, what to do, and the end of the log."""
        last_lines = "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-_LAST_LINES:])
        return EmbeddedServerError(
            f"{self.name} in {self.folder} {what}. Fix what its log reports below, or start over in an empty folder: "
            f"delete this one, or name another with PERSISTENCE_EMBEDDED_DIR.\n{self.log} ends with:\n{last_lines}"
        )

    def _is_alive(self) -> bool:
        with self._opened_log() as log:
            return not try_lock_exclusive(log)

    @contextmanager
    def _opened_log(self) -> Iterator[int]:
        log = open_lock(self.log)
        try:
            yield log
        finally:
            os.close(log)


def _comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
