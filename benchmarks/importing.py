"""w7: ``agent-persistence import`` of a file of conversations, against COPY of the same rows."""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import psutil

from benchmarks.contender import Addresses
from benchmarks.samples import make_message
from benchmarks.servers import Servers

_TABLES = ("threads", "messages", "states")
_PER_CONVERSATION = 20
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Import:
    """How long both took.

    Attributes:
        ratio: the import's messages a second against COPY's.
        import_seconds: by the command's own count, without the start of Python.
        peak_mb: the most memory that the import had at any moment.
    """

    messages: int
    import_seconds: float
    copy_seconds: float
    peak_mb: float

    @property
    def ratio(self) -> float:
        """What part of COPY's rate the import reaches."""
        return self.copy_seconds / self.import_seconds


async def measure_import(servers: Servers, messages: int, seed: int) -> Import:
    """Import a file into one database, and copy its rows into another."""
    source, target = await servers.database("imported", migrated=True), await servers.database("copied", migrated=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "conversations.jsonl")
        write_conversations(file, messages, seed)
        seconds, peak_mb = await asyncio.to_thread(_import, file, source)
        copied = 0.0
        for table in _TABLES:
            rows = Path(folder, table)
            await _copy_out(source, table, rows)
            copied += await _copy_in(target, table, rows)
    return Import(messages, seconds, copied, peak_mb)


def write_conversations(file: Path, messages: int, seed: int) -> None:
    """Write conversations of 20 messages each, as JSON Lines."""
    rng = random.Random(seed)
    some = [make_message(rng, place) for place in range(_PER_CONVERSATION * 50)]
    with file.open("wb") as lines:
        for number, start in enumerate(range(0, messages, _PER_CONVERSATION)):
            place = start % len(some)
            said = some[place : place + min(_PER_CONVERSATION, messages - start)]
            lines.write(orjson.dumps({"id": f"conversation-{number}", "source": "benchmark", "messages": said}) + b"\n")


def _import(file: Path, addresses: Addresses) -> tuple[float, float]:
    """Run the command; return the seconds that it says, and its greatest memory."""
    environment = {**os.environ, "PERSISTENCE_DATABASE_URL": addresses.postgresql}
    command = [sys.executable, "-m", "agent_persistence.cli", "import", str(file), "--json"]
    peak = 0
    # Looked at from outside: the kernel's own high-water mark begins with that of the process that started it.
    with psutil.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, process.memory_info().rss)
            time.sleep(_LOOK_SECONDS)
        said = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"the import ended with {process.returncode}")
    return float(orjson.loads(said)["seconds"]), peak / 1e6


async def _copy_out(addresses: Addresses, table: str, file: Path) -> None:
    connection: Any = await asyncpg.connect(addresses.postgresql)
    await connection.copy_from_table(table, output=file, format="binary")
    await connection.close()


async def _copy_in(addresses: Addresses, table: str, file: Path) -> float:
    connection: Any = await asyncpg.connect(addresses.postgresql)
    started = time.monotonic()
    with io.FileIO(file) as rows:
        await connection.copy_to_table(table, source=rows, format="binary")
    seconds = time.monotonic() - started
    await connection.close()
    return seconds
