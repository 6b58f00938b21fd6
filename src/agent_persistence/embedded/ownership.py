"""Refusal of a folder in which another user could prepare what we would run with our rights."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent_persistence.errors import EmbeddedServerError

if sys.platform != "win32":
    import pwd

_LINKED = "sockets"  # the link to the folder of sockets, which is checked where it leads


def make_own_folder(folder: Path) -> None:
    """Create a folder for servers, or refuse one that other users can change.

    Raises:
        EmbeddedServerError: the folder, or something in it, is another user's or a link, or others may write to it.
    """
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Whatever the umask: nobody else prepares files here.
        folder.chmod(stat.S_IMODE(folder.lstat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
    for parent in folder.parents:
        mode = parent.stat().st_mode
        # In a folder like /tmp, the sticky bit keeps others from replacing what is ours.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise _refusal(parent, "can be changed by every user")
    _refuse_foreign(folder, {os.geteuid()})
    mode, group = folder.lstat().st_mode, folder.lstat().st_gid
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and group != os.getegid()):
        raise _refusal(folder, "can be changed by other users")
    for path in _made_by_servers(folder):
        _refuse_foreign(path, {os.geteuid(), *_nobody()})


def _made_by_servers(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.iterdir() if not (path.name == _LINKED and path.is_symlink()))
    with suppress(FileNotFoundError):
        yield from (folder / "postgresql").iterdir()


def _refuse_foreign(path: Path, owners: set[int]) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise _refusal(path, "is a link")
    if found.st_uid not in owners:
        raise _refusal(path, f"belongs to user id {found.st_uid}")


def _refusal(path: Path, reason: str) -> EmbeddedServerError:
    return EmbeddedServerError(f"{path} {reason}; set PERSISTENCE_EMBEDDED_DIR to a folder that only you can change")


def _nobody() -> Iterator[int]:
    """Yield the user id by which root runs the servers."""
    if os.geteuid() == 0:
        with suppress(KeyError):
            yield pwd.getpwnam("nobody").pw_uid
