"""w8: a state of 100 MB in and out, against asyncpg that writes and reads the same megabytes as rows, uncompressed."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from benchmarks.contender import Thread
from benchmarks.ours import Ours
from benchmarks.samples import make_message
from benchmarks.servers import Servers

_THREAD = Thread("streamed", "user-1")
_MEGABYTE = 1 << 20
_MESSAGES = 2000
_STORED = "SELECT pg_total_relation_size('state_chunks')"


@dataclass(frozen=True, slots=True)
class Streaming:
    """How long it took.

    Attributes:
        in_seconds, out_seconds: ours.
        rows_in_seconds, rows_out_seconds: by hand, a row a megabyte.
        stored_mb: what is on the disk.
    """

    megabytes: int
    in_seconds: float
    out_seconds: float
    rows_in_seconds: float
    rows_out_seconds: float
    stored_mb: float


async def measure_streaming(servers: Servers, megabytes: int, seed: int) -> Streaming:
    """Stream a state of JSON in and out, in a database of its own."""
    addresses = await servers.database("streamed", migrated=True)
    ours, connection = Ours(), await asyncpg.connect(addresses.postgresql)
    await ours.open(addresses)
    try:
        await ours.create_thread(_THREAD)
        pieces = list(_pieces(megabytes, seed))
        by_hand = await _rows(connection, pieces)
        started = time.perf_counter()
        await ours.plain.states.put_stream(_THREAD.id, _given(pieces), user_id=_THREAD.user)
        saved = time.perf_counter()
        async for _ in ours.plain.states.open_stream(_THREAD.id, user_id=_THREAD.user):
            pass
        read = time.perf_counter()
        stored = await connection.fetchval(_STORED)
        return Streaming(megabytes, saved - started, read - saved, *by_hand, stored / 1e6)
    finally:
        await connection.close()
        await ours.close()


async def _rows(connection: Any, pieces: list[bytes]) -> tuple[float, float]:
    await connection.execute("CREATE TABLE by_hand (place int PRIMARY KEY, data bytea STORAGE EXTERNAL)")
    started = time.perf_counter()
    for place, piece in enumerate(pieces):
        await connection.execute("INSERT INTO by_hand VALUES ($1, $2)", place, piece)
    written = time.perf_counter()
    for place in range(len(pieces)):
        await connection.fetchval("SELECT data FROM by_hand WHERE place = $1", place)
    return written - started, time.perf_counter() - written


async def _given(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _pieces(megabytes: int, seed: int) -> Iterator[bytes]:
    """Make what an agent's state consists of: messages, each time others."""
    rng = random.Random(seed)
    messages = [orjson.dumps(make_message(rng, place)) for place in range(_MESSAGES)]
    for _ in range(megabytes):
        piece = b""
        while len(piece) < _MEGABYTE:
            piece += b",".join(rng.sample(messages, 100))
        yield piece[:_MEGABYTE]
