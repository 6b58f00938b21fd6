"""PostgreSQL 18 and Valkey 9 from wheels, for development, the demo, the command line and the tests.

    with embedded_servers(Path("servers")) as servers:
        print(servers.database_url, servers.redis_url)

Every process that uses a folder holds a share of the folder's lock while it lives. One process at a time starts or
stops servers, and the last process that leaves stops them. The kernel releases the share of a killed process, and the
next process uses, and stops, servers that it left running. A folder belongs to one user on one machine: keep it on a
local disk.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import SubprocessError

from agent_persistence.embedded.binaries import postgres_binary, require_binaries
from agent_persistence.embedded.membership import Membership
from agent_persistence.embedded.server_pair import EmbeddedServers
from agent_persistence.errors import EmbeddedServerError

__all__ = ["EmbeddedServers", "default_folder", "embedded_servers", "postgres_binary", "start", "stop"]

_lock = threading.Lock()
_memberships: dict[Path, Membership] = {}


def start(folder: Path | str, *, durable: bool = True) -> EmbeddedServers:
    """Start the servers of a folder, or join them if they run; ``stop`` must follow.

    Args:
        folder: holds the data; created if it does not exist.
        durable: whether committed work survives a crash of the machine; ``False`` is faster, for tests. Ignored where
            the servers run already.

    Returns:
        The addresses of the servers.

    Raises:
        MissingExtraError: the ``embedded`` extra is not installed.
        EmbeddedServerError: a server could not be started; the message says why and what to do.
    """
    if sys.platform == "win32":
        raise EmbeddedServerError(
            "embedded servers run on Linux and macOS; on Windows set PERSISTENCE_DATABASE_URL and PERSISTENCE_REDIS_URL"
        )
    folder = Path(folder).resolve()
    with _lock:
        if folder not in _memberships:
            _memberships[folder] = _join(folder, durable=durable)
        membership = _memberships[folder]
        membership.uses += 1
        return membership.addresses


def stop(folder: Path | str) -> None:
    """Leave the servers of a folder; the last process that leaves stops them.

    Does nothing in a process that did not start or join them, such as a forked child.
    """
    folder = Path(folder).resolve()
    with _lock:
        membership = _memberships.get(folder)
        if membership is None:
            return
        membership.uses -= 1
        if membership.uses == 0:
            del _memberships[folder]
            membership.leave()


@contextmanager
def embedded_servers(folder: Path | str, *, durable: bool = True) -> Iterator[EmbeddedServers]:
    """Use the servers of a folder within a block; see ``start``."""
    servers = start(folder, durable=durable)
    try:
        yield servers
    finally:
        stop(folder)


def default_folder() -> Path:
    """Return the folder for the servers of the project in the working directory.

    It is below ``$XDG_DATA_HOME`` or ``~/.local/share``, and named after the working directory: projects share no data,
    whose id types may differ.

    Raises:
        EmbeddedServerError: the user has no home directory.
    """
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    # The XDG specification has relative paths ignored; an empty one is relative.
    if not data_home.is_absolute():
        data_home = _home() / ".local" / "share"
    project = Path.cwd()
    digest = hashlib.sha256(os.fsencode(project)).hexdigest()[:8]
    return data_home / "agent-persistence" / "projects" / f"{project.name or 'root'}-{digest}"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise EmbeddedServerError("this user has no home folder; set PERSISTENCE_EMBEDDED_DIR") from None


def _join(folder: Path, *, durable: bool) -> Membership:
    require_binaries()
    try:
        return Membership.join(folder, durable=durable)
    except (OSError, SubprocessError) as error:
        raise EmbeddedServerError(
            f"embedded servers cannot use {folder}: {error}; set PERSISTENCE_EMBEDDED_DIR to a folder of your own"
        ) from error


def _leave_all() -> None:
    """Leave all servers at the end of the process."""
    with _lock, ExitStack() as leaving:
        for membership in _memberships.values():
            leaving.callback(membership.leave)
        _memberships.clear()


def _forget_in_child() -> None:
    """Forget the memberships, which are the parent's."""
    for membership in _memberships.values():
        membership.abandon()
    _memberships.clear()
    _lock.release()


atexit.register(_leave_all)
if sys.platform != "win32":
    # No thread forks while another one starts or stops: the child would share, and hold, the locks of that moment.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget_in_child)
