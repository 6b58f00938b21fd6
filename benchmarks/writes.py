"""Counts what this process writes to the sockets of the two servers.

asyncpg and redis-py hand a request to the event loop's transport in one piece and wait for the answer, so a write is a
round trip. (A COPY of many rows is several writes; a pipeline is one.) Counted where asyncio's own transport is used:
not under uvloop, and not for libpq, which has its sockets to itself.
"""

from __future__ import annotations

from asyncio import selector_events
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

_counts: Counter[object] = Counter()


class Writes(NamedTuple):
    """How many writes there were."""

    postgresql: int
    redis: int

    def since(self, before: Writes) -> Writes:
        """Return how many there were in between."""
        return Writes(self.postgresql - before.postgresql, self.redis - before.redis)


@cache
def start_counting() -> None:
    """Count from now on, in every transport of this process. A second call changes nothing."""
    transport = vars(selector_events)["_SelectorSocketTransport"]  # asyncio has no public place for this
    for name in ("write", "writelines"):
        if name in vars(transport):
            setattr(transport, name, _counted(vars(transport)[name]))


def counted_writes() -> Writes:
    """Return the writes so far."""
    named = {str(peer): count for peer, count in _counts.items() if peer}  # a client of this process has no name
    postgresql = sum(count for peer, count in named.items() if ".s.PGSQL." in peer)
    return Writes(postgresql, sum(named.values()) - postgresql)


def _counted(original: Any) -> Any:
    def write(transport: Any, data: Any) -> None:
        _counts[transport._extra.get("peername")] += 1  # noqa: SLF001  # get_extra_info costs twice as much
        original(transport, data)

    return write
