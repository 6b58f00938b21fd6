"""The latest states that many callers ask for at once, by one statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from agent_persistence.concurrency.batching import Batch
from agent_persistence.concurrency.retries import Retries
from agent_persistence.database.connections import ConnectionPins
from agent_persistence.models import Models
from agent_persistence.records import StateRecord
from agent_persistence.repositories.states.rows import whole_states
from agent_persistence.repositories.states.statements import latest_state, latest_states


class Wanted(NamedTuple):
    """Whose latest state is asked for."""

    thread_id: Any
    owner: Any


Found = StateRecord[Any] | None
ReadTogether = Callable[[Batch[Wanted]], Awaitable[list[Found | Exception]]]


def reader_of_latest_states(leases: ConnectionPins, models: Models[Any, Any], retries: Retries) -> ReadTogether:
    """Make what reads several latest states in one round trip, and again while that may help."""
    one, many = latest_state(models, of_anybody=False), latest_states(models)

    async def read(wanted: list[Wanted]) -> list[Found | Exception]:
        lease = await leases.take()
        try:
            if len(wanted) == 1:
                rows = await lease.fetch(one, thread_id=wanted[0].thread_id, owner=wanted[0].owner)
                places = [0]
            else:
                ids, owners = [one.thread_id for one in wanted], [one.owner for one in wanted]
                rows = await lease.fetch(many, thread_ids=ids, owners=owners)
                places = [row.place - 1 for row in rows]
            states = await whole_states(lease.fetch, models, rows)
        finally:
            leases.give_back(lease)
        found: list[Found | Exception] = [None] * len(wanted)
        for place, state in zip(places, states, strict=False):
            # One that was deleted between two statements is not the latest any more.
            found[place] = state if state is not None else (await read([wanted[place]]))[0]
        return found

    async def read_again(batch: Batch[Wanted]) -> list[Found | Exception]:
        return await retries.run(lambda: read(batch.items), is_wanted=lambda: bool(batch.wanted()))

    return read_again
