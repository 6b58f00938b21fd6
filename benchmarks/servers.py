"""PostgreSQL and Valkey in a temporary folder, durable, migrated, and what their processes use of the processors."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
import redis

from agent_persistence import PersistenceSettings, embedded, migrate
from benchmarks.contender import Addresses


@dataclass(frozen=True, slots=True)
class Servers:
    """Servers that run.

    Attributes:
        processes: the first process of each; PostgreSQL's others are its children.
    """

    addresses: Addresses
    processes: list[psutil.Process]

    async def database(self, name: str, *, migrated: bool = False) -> Addresses:
        """Make another database on the same server."""
        made = await create_database(self.addresses, name)
        if migrated:
            await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=made.postgresql))
        return made

    async def settle(self) -> None:
        """Clean and analyse every database, so that nobody's plans depend on when autovacuum comes."""
        connection = await asyncpg.connect(self.addresses.postgresql)
        names = await connection.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate")
        await connection.close()
        for (name,) in names:
            connection = await asyncpg.connect(self.addresses.postgresql, database=name)
            await connection.execute("VACUUM ANALYZE")
            await connection.close()

    def cpu_seconds(self) -> float:
        """Return the processor time that the servers have used so far."""
        total = 0.0
        for process in self.processes:
            ended = process.cpu_times()
            total += ended.children_user + ended.children_system
            total += _cpu_seconds(process.pid) + sum(map(_cpu_seconds, _children(process)))
        return total


async def create_database(here: Addresses, name: str) -> Addresses:
    """Make another database on the same server, and return its addresses."""
    connection = await asyncpg.connect(here.postgresql)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    return Addresses(
        here.postgresql.replace("/agent_persistence?", f"/{name}?"),
        here.sqlalchemy.replace("/agent_persistence?", f"/{name}?"),
        here.redis,
    )


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Start servers with this package's schema; stop them and remove all that they kept."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        with embedded.embedded_servers(folder) as started:
            settings = PersistenceSettings(_env_file=None, database_url=started.database_url)
            asyncio.run(migrate.upgrade(settings))
            first_line = (folder / "postgresql" / "data" / "postmaster.pid").read_text().splitlines()[0]
            processes = [psutil.Process(int(first_line)), psutil.Process(_redis_process(started.redis_url))]
            yield Servers(_addresses(started), processes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _addresses(started: embedded.EmbeddedServers) -> Addresses:
    url = started.database_url
    sqlalchemy = url.replace("postgresql://", "postgresql+asyncpg://", 1)
    return Addresses(url, sqlalchemy, started.redis_url)


def _redis_process(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def _children(process: psutil.Process) -> list[int]:
    """Return the children's process ids; psutil looks at every process of the machine for them, the kernel knows."""
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    return [child.pid for child in process.children()]


def _cpu_seconds(pid: int) -> float:
    """Return what one process has used: from the scheduler to the nanosecond on Linux, elsewhere in ticks."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:  # it ended just now: its time is in its parent's count
        return 0.0
    return float(times.user + times.system)
