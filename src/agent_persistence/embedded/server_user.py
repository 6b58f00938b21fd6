"""The user of the servers: PostgreSQL refuses root, so root starts them as ``nobody``.

No user is created, and no other folder's mode is changed: where Linux permits it, ``nobody`` gets the one capability
that lets it pass root's private folders to the data and the programs. That makes the servers as powerful as root over
files, so their sockets and data are in folders that only root can enter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent_persistence.errors import EmbeddedServerError

if sys.platform != "win32":
    import pwd

PRIVATE = 0o700  # the mode of a folder for its owner only

# The caller's environment is not passed on: it may hold secrets, or PG* variables that redirect a client.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_COMMAND_SECONDS = 120


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The user of the server processes.

    Attributes:
        folder_owner: the user id that owns the private folders of the servers.
        uid: the user id to change to in this process, or ``None``.
        gid: the group id to change to, or ``None``.
        prefix: a command that changes the user, put before every command.
    """

    folder_owner: int
    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    def run(
        self, command: Sequence[str | Path], *, text: str = "", output: int = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, and wait for its end."""
        return subprocess.run(
            [*self.prefix, *map(str, command)],
            input=text,
            stdout=output,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            user=self.uid,
            group=self.gid,
            # Without this the command would keep root's supplementary groups.
            extra_groups=None if self.uid is None else [],
            env=_ENVIRONMENT,
            # The caller's folder may be closed to this user. In another session, Ctrl-C at the caller's terminal ends
            # the caller only: other processes may use the servers.
            cwd="/",
            start_new_session=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )

    def can_run(self) -> bool:
        """Return whether this process may run commands as this user; containers often forbid it."""
        try:
            return self.run(["/bin/sh", "-c", ":"]).returncode == 0
        except OSError:
            return False

    def own(self, folder: Path) -> None:
        """Make a folder private to this user."""
        if folder.lstat().st_uid != self.folder_owner:
            os.chown(folder, self.folder_owner, -1, follow_symlinks=False)
        folder.chmod(PRIVATE)

    def require_access(self, *paths: Path) -> None:
        """Refuse paths that this user cannot reach.

        Raises:
            EmbeddedServerError: a folder above one of the paths is closed to this user.
        """
        if self.uid is None:
            return
        for path in paths:
            if self.run(["/bin/sh", "-c", 'test -x "$0"', path]).returncode != 0:
                raise EmbeddedServerError(
                    f"root starts the servers as user id {self.uid}, which cannot reach {path}; install setpriv "
                    "(util-linux), run as a normal user, or use a place that every user may enter: for the data "
                    "set PERSISTENCE_EMBEDDED_DIR, for the programs make another virtual environment"
                )


def server_user() -> ServerUser:
    """Return the user that starts servers: the current one, or ``nobody`` for root.

    Raises:
        EmbeddedServerError: the process runs as root and cannot become ``nobody``.
    """
    if os.geteuid() != 0:
        return ServerUser(folder_owner=os.geteuid())
    for user in _unprivileged_users():
        if user.can_run():
            return user
    raise EmbeddedServerError("PostgreSQL refuses root, and root cannot become nobody here; run as a normal user")


def _unprivileged_users() -> Iterator[ServerUser]:
    with suppress(KeyError):
        nobody = pwd.getpwnam("nobody")
        if sys.platform == "linux" and (setpriv := shutil.which("setpriv")):
            yield ServerUser(folder_owner=0, prefix=_setpriv(setpriv, nobody))
        yield ServerUser(folder_owner=nobody.pw_uid, uid=nobody.pw_uid, gid=nobody.pw_gid)


def _setpriv(setpriv: str, user: pwd.struct_passwd) -> tuple[str, ...]:
    # It permits searching folders as well, and containers grant it by default.
    capability = "+dac_override"
    return (
        *(setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *(f"--inh-caps={capability}", f"--ambient-caps={capability}"),
        # initdb looks for postgres with access(2), which ignores capabilities without this bit.
        "--securebits=+no_setuid_fixup",
    )
