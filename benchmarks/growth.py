"""w6: a thread whose state gains a message of 1 KB at each step. What it costs in bytes and in time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import asyncpg

from benchmarks.contender import Contender, Thread
from benchmarks.samples import growing_states
from benchmarks.servers import Servers

_THREAD = Thread("growing", "user-1")
_MEGABYTE = 1e6
_READS = 20
_ENDS = 50
# Tables with their indexes and what is stored out of line; the catalog is not the store's.
STORED = """\
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""


@dataclass(frozen=True, slots=True)
class Growth:
    """What so many steps cost.

    Attributes:
        seconds: of all saves.
        stored_mb, wal_mb: what the tables grew by, and the write-ahead log.
        first_ms, last_ms: of a save, the mean of the first and of the last 50.
        read_ms: of the latest state, the median.
        versions: how many old states were read back and equal; ``None`` where there is no way to read them.
        curve: after each tenth of the steps: the step, megabytes stored, milliseconds a save since the last point.
    """

    steps: int
    seconds: float
    stored_mb: float
    wal_mb: float
    first_ms: float
    last_ms: float
    read_ms: float
    versions: int | None
    curve: list[tuple[int, float, float]] = field(repr=False)


async def measure_growth(contender: Contender, servers: Servers, steps: int, seed: int) -> Growth:
    """Save all steps in a database of the contender's own, and read them back."""
    addresses = await servers.database(f"growth_{contender.name.replace('-', '_')}_{steps}", migrated=True)
    await contender.open(addresses)
    connection = await asyncpg.connect(addresses.postgresql)
    try:
        await contender.create_thread(_THREAD)
        return await _grow(contender, connection, steps, seed)
    finally:
        await connection.close()
        await contender.close()


async def _grow(contender: Contender, connection: Any, steps: int, seed: int) -> Growth:
    await connection.execute("CHECKPOINT")
    stored, wal = await connection.fetchval(STORED), await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
    saves: list[float] = []
    curve: list[tuple[int, float, float]] = []
    for state in growing_states(seed, steps):
        started = time.perf_counter()
        await contender.save_state(_THREAD, state)
        saves.append((time.perf_counter() - started) * 1000)
        if len(saves) % max(1, steps // 10) == 0:
            now = (await connection.fetchval(STORED) - stored) / _MEGABYTE
            curve.append((len(saves), now, mean(saves[-max(1, steps // 10) :])))
    written = await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", wal)
    grown = await connection.fetchval(STORED) - stored
    ends = min(_ENDS, max(1, steps // 2))
    return Growth(
        steps=steps,
        seconds=sum(saves) / 1000,
        stored_mb=grown / _MEGABYTE,
        wal_mb=float(written) / _MEGABYTE,
        first_ms=mean(saves[:ends]),
        last_ms=mean(saves[-ends:]),
        read_ms=await _read(contender),
        versions=await _equal_versions(contender, list(growing_states(seed, steps))),
        curve=curve,
    )


async def _read(contender: Contender) -> float:
    times = []
    for _ in range(_READS):
        started = time.perf_counter()
        await contender.read_state(_THREAD)
        times.append((time.perf_counter() - started) * 1000)
    return median(times)


async def _equal_versions(contender: Contender, wanted: Sequence[Any]) -> int | None:
    if not contender.offers("read_versions"):
        return None
    found = await contender.read_versions(_THREAD)
    return sum(bool(one == other) for one, other in zip(found, wanted, strict=False))
