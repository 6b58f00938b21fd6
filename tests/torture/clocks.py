"""Clocks that jump: of servers by Debian's ``libfaketime``, where it is installed; of clients by a clock of ours."""

from __future__ import annotations

import time
from pathlib import Path

NAME = "clock"
LIBRARIES = "faketime/libfaketimeMT.so.1"
JUMPS = (-3600, 3600)
"""Seconds: a machine that is set right, or wrong."""


def library() -> Path | None:
    """The library that replaces the clock of the processes which load it first."""
    return next(iter(Path("/usr/lib").glob(f"*/{LIBRARIES}")), None)


def environment(folder: Path) -> dict[str, str]:
    """The variables with which a server reads its clock's error from a file; none without the library."""
    found = library()
    if found is None:
        return {}
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(folder / NAME),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


def set_clock(folder: Path, seconds: int) -> None:
    """Let the processes that look into this folder be so much ahead, or behind."""
    (folder / NAME).write_text(f"{seconds:+d}s\n")


class Clock:
    """The clock of a client, ahead or behind by ``error`` seconds. The monotonic clock, of histories, stays right."""

    def __init__(self) -> None:
        self.error = 0
        self._time, self._time_ns = time.time, time.time_ns

    def install(self) -> None:
        time.time = lambda: self._time() + self.error
        time.time_ns = lambda: self._time_ns() + self.error * 1_000_000_000
