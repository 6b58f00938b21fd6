"""PostgreSQL (a primary and its synchronous standby) and Valkey, as children of the run, to be ill-treated."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from agent_persistence.embedded.binaries import postgres_binary, valkey_binary
from agent_persistence.embedded.server_user import PRIVATE, ServerUser

START_SECONDS = 30.0
STANDBY = "standby"
NOBODYS_PORT = 1
DISK = "2g"
"""The size of a disk of its own; it takes memory only for what is on it."""
# fsync=off: what was written survives the death of the process, though not of the machine. Full pages and synchronous
# commits stay on: a killed process may leave half a page, and nothing may be acknowledged before it was written.
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

    def mount(self) -> bool:
        """Give it a disk of its own, whose size can be changed; that takes root."""
        if not _mounted("-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", self):
            return False
        self.user.own(self.cage)
        return True

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.cage], check=False, capture_output=True)  # noqa: S607

    def resize(self, size: int | None) -> bool:
        return _mounted("-o", f"remount,size={DISK if size is None else size}", self)

    def used_bytes(self) -> int:
        disk = os.statvfs(self.cage)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

    def launch(self, *command: str | Path) -> None:
        with self._log() as log:
            self.process = subprocess.Popen(
                [*self.user.prefix, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
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
        access = ["--username=postgres", "--auth=trust", "--no-sync", "--wal-segsize=4"]
        await self.run(postgres_binary("initdb"), "-D", self.data, *locale, *access)
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
        settings = POSTGRESQL_OPTIONS | {"port": str(self.port)}
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


def _mounted(*words: str | Server) -> bool:
    command = ["mount", *(str(word.cage) if isinstance(word, Server) else word for word in words)]
    return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0


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
        server.unmount()
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
