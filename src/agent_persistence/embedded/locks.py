"""File locks between processes; the kernel releases them when the holder dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    # flock and not fcntl.lockf: such a lock belongs to the open file, so a server inherits it with its standard output.
    # A lock of lockf belongs to the process, and ends as soon as any descriptor of the file is closed.
    import fcntl


def open_lock(path: Path) -> int:
    """Open a lock file; programs that are started do not inherit the descriptor."""
    # O_NOFOLLOW: in a folder that others may write to, the name could be a link to another file.
    # Writable, because NFS grants exclusive locks to nothing else.
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def lock_shared(descriptor: int) -> None:
    """Wait for a share of the lock."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def try_lock_exclusive(descriptor: int) -> bool:
    """Take the exclusive lock unless another process holds a share; a share held before is released either way."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Wait for the exclusive lock, and hold it within a block."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing alone would leave it locked if another thread has forked: the child shares the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
