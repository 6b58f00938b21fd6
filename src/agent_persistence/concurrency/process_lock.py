"""A lock between the threads of one process."""

from __future__ import annotations

import os
import threading
from typing import Final
from weakref import WeakSet


class ProcessLock:
    """A lock between the threads of one process; in a forked child it is free.

    A plain lock would stay locked there if another thread of the parent held it, because that thread does not exist in
    the child.
    """

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Make it free, whoever holds it."""
        self._lock = threading.Lock()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Lock it; return whether that succeeded."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Unlock it."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: Final[WeakSet[ProcessLock]] = WeakSet()


def _renew_all() -> None:
    for lock in _locks:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
