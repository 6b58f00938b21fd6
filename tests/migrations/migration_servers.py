"""Servers that the ``embedded`` extra does not start: another PostgreSQL, a PgBouncer."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_persistence.embedded.server_user import ServerUser, server_user


@contextmanager
def postgres_server(binaries: Path) -> Iterator[str]:
    """Run a PostgreSQL of these binaries on a free port; yields its URL."""
    user, port = server_user(), _free_port()
    with _folder_of(user) as folder:
        data = folder / "data"
        _run(
            user, binaries / "initdb", "-D", data, "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"
        )
        settings = f"-p {port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=50"
        _run(user, binaries / "pg_ctl", "start", "--wait", "-D", data, "-l", folder / "log", "-o", settings)
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            _run(user, binaries / "pg_ctl", "stop", "--mode=immediate", "-D", data)


@contextmanager
def pgbouncer(
    program: str,
    server_port: int,
    *,
    server_host: str = "127.0.0.1",
    server_connections: int = 20,
    mode: str = "transaction",
) -> Iterator[str]:
    """Run a PgBouncer before a server; yields its URL, without a database."""
    user, port = server_user(), _free_port()
    with _folder_of(user) as folder:
        ini = folder / "pgbouncer.ini"
        ini.write_text(
            f"[databases]\n* = host={server_host} port={server_port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"pool_mode = {mode}\ndefault_pool_size = {server_connections}\n"
            f"auth_type = any\npidfile = {folder / 'pid'}\nlogfile = {folder / 'log'}\n"
        )
        _run(user, Path(program), "-d", ini)
        pid = _await_file(folder / "pid")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}"
        finally:
            os.kill(pid, 15)


@contextmanager
def _folder_of(user: ServerUser) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ap-test-"))
    user.own(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a server that is being stopped may still write


def _run(user: ServerUser, *command: str | Path) -> None:
    # Its output goes nowhere: a daemon that inherited a pipe would keep us waiting for the end of it.
    result = user.run(command, output=subprocess.DEVNULL)
    assert result.returncode == 0, command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_file(path: Path, seconds: float = 10) -> int:
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path.name} was not written"
        time.sleep(0.01)
    return int(path.read_text())
