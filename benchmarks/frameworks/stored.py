"""w14-stored: what the same conversations and items take in the database of each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

import asyncpg

from benchmarks.contender import Contender, Samples
from benchmarks.growth import STORED
from benchmarks.samples import make_threads
from benchmarks.servers import Servers
from benchmarks.stores import each

TITLE = "w14-stored: 50 threads, of 20 turns each or of 50 items"
_THREADS = 50


@dataclass(frozen=True, slots=True)
class Stored:
    """What a contender has stored.

    Attributes:
        megabytes: what its tables grew by, with their indexes and rows that are not vacuumed yet.
    """

    workloads: str
    contender: str
    megabytes: float


async def measure_stored(contender: Contender, workloads: str, servers: Servers, samples: Samples) -> Stored:
    """Write the conversations or the items in a database of the contender's own.

    Args:
        workloads: the first part of their keys.
    """
    name = f"stored_{workloads}_{contender.name}".replace("-", "_")
    addresses = await servers.database(name, migrated=not contender.own_database)
    await contender.open(addresses)
    connection = await asyncpg.connect(addresses.postgresql)
    try:
        before = await connection.fetchval(STORED)
        threads = make_threads(random.Random(name), _THREADS)
        await each(partial(contender.furnish, kind="plain", samples=samples), threads)
        return Stored(workloads, contender.name, (await connection.fetchval(STORED) - before) / 1e6)
    finally:
        await connection.close()
        await contender.close()
