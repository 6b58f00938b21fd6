"""A short, private folder for Unix sockets, whose paths are limited to about a hundred bytes."""

from __future__ import annotations

import shutil
import stat
import tempfile
from pathlib import Path

from agent_persistence.embedded.server_user import PRIVATE, ServerUser

# 103 bytes on macOS, 107 on Linux, less the 26 of our name and the 14 of PostgreSQL's; what is left is for the parent.
_LONGEST_PARENT = 60


def socket_folder(folder: Path, user: ServerUser) -> Path:
    """Return the socket folder that ``folder`` links to, or create one.

    Its name is random, so that no other user can take it first, and the link lets processes with different ``TMPDIR``
    find it.
    """
    link = folder / "sockets"
    if link.is_symlink():
        remembered = link.readlink()
        if _is_private(remembered, user.folder_owner):
            return remembered
        link.unlink()
    made = Path(tempfile.mkdtemp(prefix="agent-persistence-", dir=_short_parent()))
    user.own(made)
    link.symlink_to(made)
    return made


def forget_socket_folder(folder: Path) -> None:
    """Remove the socket folder once no server listens in it."""
    link = folder / "sockets"
    shutil.rmtree(link.readlink())
    link.unlink()


def _is_private(path: Path, owner: int) -> bool:
    try:
        # lstat: in a shared /tmp another user can put a link where a folder was.
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and stat.S_IMODE(found.st_mode) == PRIVATE


def _short_parent() -> str:
    parent = tempfile.gettempdir()
    return parent if len(parent.encode()) <= _LONGEST_PARENT else "/tmp"  # noqa: S108  # the folder in it is private
