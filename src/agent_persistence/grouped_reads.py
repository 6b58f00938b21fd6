"""The latest states that many callers ask for at once, by one statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from agent_persistence.batching import Batch
from agent_persistence.errors import CorruptRow
from agent_persistence.leases import Leases
from agent_persistence.models import Models
from agent_persistence.records import StateRecord
from agent_persistence.repositories.state_statements import latest_state, latest_states
from agent_persistence.repositories.states import state_record
from agent_persistence.retries import Retries


class Wanted(NamedTuple):
    """Whose latest state is asked for."""

    thread_id: Any
    owner: Any


Found = StateRecord[Any] | None
ReadTogether = Callable[[Batch[Wanted]], Awaitable[list[Found | Exception]]]


def reader_of_latest_states(leases: Leases, models: Models[Any, Any], retries: Retries) -> ReadTogether:
    """Make what reads several latest states in one round trip, and again while that may help."""
    one, many = latest_state(models, of_anybody=False), latest_states(models)

    async def read(wanted: list[Wanted]) -> list[Found | Exception]:
        lease = await leases.take()
        try:
            if len(wanted) == 1:
                rows = await lease.fetch(one, thread_id=wanted[0].thread_id, owner=wanted[0].owner)
                return [_found(rows[0]) if rows else None]
            ids, owners = [one.thread_id for one in wanted], [one.owner for one in wanted]
            found: list[Found | Exception] = [None] * len(wanted)
            for row in await lease.fetch(many, thread_ids=ids, owners=owners):
                found[row.place - 1] = _found(row)
            return found
        finally:
            leases.give_back(lease)

    async def read_again(batch: Batch[Wanted]) -> list[Found | Exception]:
        return await retries.run(lambda: read(batch.items), is_wanted=lambda: bool(batch.wanted()))

    return read_again


def _found(row: Any) -> StateRecord[Any] | CorruptRow:
    try:
        return state_record(row)
    except CorruptRow as error:  # the others can be read
        return error
