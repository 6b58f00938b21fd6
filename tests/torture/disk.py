"""A disk of its own for a server, which can be filled and can lose its power. That takes root and a loop device."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

SIZE = 1 << 30
"""The file takes only as much as is on it."""
LEFT = 65536
UNMOUNT_SECONDS = 10.0
SHUTDOWN, WITHOUT_FLUSHING = 0x8004587D, 2
"""FS_IOC_SHUTDOWN: from now on nothing more reaches the disk, and what was not synced never does."""


class Disk:
    """A file system in a file."""

    def __init__(self, folder: Path, image: Path) -> None:
        self._folder = folder
        self._image = image
        self._ballast = folder / "ballast"

    @classmethod
    def mounted_at(cls, folder: Path) -> Disk | None:
        """Make one and mount it; ``None`` where that is not permitted."""
        disk = cls(folder, folder.with_suffix(".disk"))
        with disk._image.open("wb") as file:
            file.truncate(SIZE)
        made = _run("mkfs.ext4", "-q", "-m", "0", "-J", "size=8", disk._image)
        return disk if made and disk.mount() else None

    def mount(self) -> bool:
        # Without barriers: what it is given is in the file, which stands for the disk, and outlives our loss of power.
        return _run("mount", "-o", "loop,barrier=0,noatime", self._image, self._folder)

    def unmount(self) -> None:
        """Unmount it once nobody uses it any more, which the death of processes may take a moment for."""
        end = time.monotonic() + UNMOUNT_SECONDS
        while not _run("umount", self._folder) and time.monotonic() < end:
            time.sleep(0.05)

    def fill(self) -> bool:
        """Leave no room."""
        disk = os.statvfs(self._folder)
        size = disk.f_bavail * disk.f_frsize - LEFT
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return size > 0

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def lose_power(self) -> None:
        """Drop all that was not synced. It has to be mounted again, once the processes that used it are dead."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING))
        finally:
            os.close(folder)


def _run(*command: str | Path) -> bool:
    try:
        done = subprocess.run([str(word) for word in command], check=False, capture_output=True)
    except FileNotFoundError:
        return False
    return os.geteuid() == 0 and done.returncode == 0
