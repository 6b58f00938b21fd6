"""PostgreSQL (a primary and its synchronous standby), Valkey and PgBouncer, as children of the run."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from agent_persistence.embedded.binaries import postgres_binary, valkey_binary
from agent_persistence.embedded.server_user import PRIVATE, ServerUser
from torture import clocks
from torture.disk import Disk

START_SECONDS = 30.0
STANDBY = "standby"
NOBODYS_PORT = 1
# fsync=off: what was written survives the death of the process, though not of the machine. Full pages and synchronous
# commits stay on: a killed process may leave half a page, and nothing may be acknowledged before it was written.
# A server with a disk of its own, which can lose its power, has fsync=on.
POSTGRESQL_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "120",
    "max_wal_senders": "4",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "wal_retrieve_retry_interval": "100ms",
    "restart_after_crash": "on",
    "fsync": "off",
    "timezone": "UTC",
}
PGBOUNCER_OPTIONS = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    "auth_type": "any",
    "pool_mode": "transaction",
    "default_pool_size": 10,
    # Sooner than the clients' limits, so that they get an answer, and another connection to the server.
    "server_connect_timeout": 1,
    "server_login_retry": 0.1,
    "server_idle_timeout": 1,
    "query_wait_timeout": 3,
}
VALKEY_OPTIONS = {"save": "", "appendonly": "no", "maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}


class Server:
    """A server that is a child of ours, and its port."""

    def __init__(self, folder: Path, name: str, user: ServerUser) -> None:
        self.user = user
        self.cage = folder / name
        self.cage.mkdir(mode=PRIVATE)
        user.own(self.cage)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.disk: Disk | None = None

    def mount(self) -> bool:
        """Give it a disk of its own, if that is permitted."""
        self.disk = Disk.mounted_at(self.cage)
        if self.disk is not None:
            self.user.own(self.cage)
            self.cage.chmod(PRIVATE)
        return self.disk is not None

    def family(self) -> list[int]:
        """The process and its children."""
        if self.process is None or self.process.poll() is not None:
            return []
        pid = self.process.pid
        found = subprocess.run(["pgrep", "-P", str(pid)], check=False, capture_output=True, text=True)  # noqa: S607
        return [pid, *map(int, found.stdout.split())]

    def signal_family(self, number: int) -> None:
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def launch(self, *command: str | Path) -> None:
        clocks.set_clock(self.cage, 0)
        with self._log() as log:
            self.process = subprocess.Popen(
                [*self.user.prefix, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", **clocks.environment(self.cage)},
                user=self.user.uid,
                group=self.user.gid,
                extra_groups=None if self.user.uid is None else [],
                start_new_session=True,  # a Ctrl-C is the run's to handle, not the servers'
            )

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    async def end(self, number: int) -> None:
        self.signal(number)
        if self.process is not None:
            await asyncio.to_thread(self.process.wait)

    async def run(self, *command: str | Path) -> None:
        with self._log() as log:
            done = await asyncio.to_thread(self.user.run, command, output=log)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {(self.cage / 'log').read_text()[-1500:]}")

    @contextmanager
    def _log(self) -> Iterator[int]:
        log = os.open(self.cage / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield log
        finally:
            os.close(log)


class PostgreSQL(Server):
    """A PostgreSQL cluster."""

    database = "postgres"
    options: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        return self.cage / "data"

    async def create(self, *, standby: bool) -> None:
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username=postgres", "--auth=trust", "--wal-segsize=4"]
        sync = ["--no-sync"] if self.disk is None else []
        await self.run(postgres_binary("initdb"), "-D", self.data, *locale, *access, *sync)
        self.start()
        await self.answers()
        if standby:
            self.options = ("-c", f"synchronous_standby_names={STANDBY}")

    async def clone(self, primary: PostgreSQL) -> None:
        """Become the standby of a primary, which waits for it at every COMMIT from now on."""
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        await self.run(postgres_binary("pg_basebackup"), "-D", self.data, *source, "-R", "-c", "fast", "--no-sync")
        address = f"host=127.0.0.1 port={primary.port} user=postgres application_name={STANDBY}"
        self.options = ("-c", f"primary_conninfo={address}")
        self.start()
        await self.answers()
        await primary.end(signal.SIGINT)
        primary.start()
        await primary.answers()

    def start(self) -> None:
        settings = POSTGRESQL_OPTIONS | {"port": str(self.port), "fsync": "off" if self.disk is None else "on"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.launch(postgres_binary("postgres"), "-D", self.data, *words, *self.options)

    def fence(self) -> None:
        """Let it come back as a standby of nobody: it takes no writes."""
        (self.data / "standby.signal").touch()
        self.options = ("-c", "primary_conninfo=")

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            f"postgresql://postgres@127.0.0.1:{self.port}/{self.database}",
            timeout=5,
            command_timeout=10,
            server_settings={"application_name": "torture"},
        )

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await self.connect()
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    async def answers(self) -> None:
        """Wait until it serves, and its standby follows where it has one: until then no COMMIT would return."""
        async with asyncio.timeout(START_SECONDS):
            while not await self._serves():  # noqa: ASYNC110 - a server sets no event of ours
                await asyncio.sleep(0.02)

    async def _serves(self) -> bool:
        try:
            [row] = await self.fetch("SELECT count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return row[0] > 0 or not any("synchronous_standby_names" in option for option in self.options)


class PgBouncer(Server):
    """A pooler in transaction mode before the server at a port of this machine."""

    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

    def start(self, upstream: int) -> None:
        assert self.program is not None
        options = {**PGBOUNCER_OPTIONS, "listen_port": self.port}
        lines = [f"[databases]\n* = host=127.0.0.1 port={upstream} user=postgres\n[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        ini = self.cage / "pgbouncer.ini"
        ini.write_text("\n".join(lines) + "\n")
        ini.chmod(0o644)
        self.launch(self.program, ini)

    async def answers(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return


class Valkey(Server):
    """A Valkey server that keeps everything in memory, as a cache may."""

    def start(self, *, with_data: bool = False) -> None:
        options = {**VALKEY_OPTIONS, "dir": str(self.cage), "appendonly": "yes" if with_data else "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.launch(valkey_binary(), "--port", str(self.port), "--bind", "127.0.0.1", *words)

    async def keep_data(self) -> None:
        """Write what there is, and all that comes, to a file."""
        await self.ask("CONFIG", "SET", "appendonly", "yes")
        async with asyncio.timeout(START_SECONDS):
            while (await self.ask("INFO", "persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)

    def shorten_data(self, by: float) -> bool:
        """Cut off a part of the file that has grown since."""
        grown = [path for path in self.cage.glob("appendonlydir/*.incr.aof") if path.stat().st_size > 0]
        for path in grown:
            os.truncate(path, int(path.stat().st_size * (1 - by)))
        return bool(grown)

    async def ask(self, *command: str | int) -> Any:
        async with Redis(port=self.port, socket_timeout=5) as client:
            return await client.execute_command(*command)

    async def answers(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    await self.ask("PING")
                except (OSError, ConnectionError, TimeoutError):
                    await asyncio.sleep(0.02)
                else:
                    return


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def stop_all(servers: Sequence[Server], folder: Path) -> None:
    """End every server, whatever state it is in, and remove what they kept."""
    for server in servers:
        server.signal(signal.SIGCONT)
        await server.end(signal.SIGQUIT if isinstance(server, PostgreSQL) else signal.SIGKILL)
        if server.disk is not None:
            server.disk.unmount()
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
