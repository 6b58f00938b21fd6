"""Rows of states as records; changes are applied to the versions that they rest on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.encoding.recent_states import RecentState
from agent_persistence.encoding.state_patches import patched
from agent_persistence.errors import CorruptRowError
from agent_persistence.models import Models
from agent_persistence.records import StateRecord, StateStream
from agent_persistence.repositories.rows import check_readable
from agent_persistence.repositories.states.statements import links_of_states

Fetch = Callable[..., Awaitable[Sequence[Any]]]
Read = StateRecord[Any] | CorruptRowError | None


async def whole_states(fetch: Fetch, models: Models[Any, Any], rows: Sequence[Any]) -> list[Read]:
    """Return the records of rows with ``state_columns``; a second statement reads the versions that changes rest on.

    Returns:
        For each row a record, or the error that explains why it cannot be read; ``None`` for a version that was deleted
        between the statements.
    """
    changes = [row for row in rows if row.base_id is not None]
    if not changes:
        return [_record(row, row.state_data) for row in rows]
    # One more statement for all changed rows of a page; rows that are whole cost nothing.
    wanted = {"thread_ids": [row.thread_id for row in changes], "versions": [row.state_id for row in changes]}
    found = await fetch(links_of_states(models), **wanted)
    links = {(link.thread_id, link.state_id): link for link in found}
    return [_whole(row, links) if row.base_id is not None else _record(row, row.state_data) for row in rows]


def lacks_contents(row: Any, *, knows: bool) -> bool:
    """Whether a row of ``latest_state`` is a change, and what it rests on was not asked for."""
    return row.base_id is not None and not knows


def latest_record(row: Any, known: RecentState | None) -> StateRecord[Any] | CorruptRowError:
    """Return the record of a row of ``latest_state``, or the error that explains why it cannot be read.

    Args:
        known: what the statement was told that this process has; its snapshot is decoded anew, as no two callers may
            get the same object.
    """
    if known is not None and row.is_known:
        return _record(row, known.snapshot.state())
    return _record(row, row.state_data) if row.base_id is None else _folded(row, row.links)


def readable_state(found: Read) -> StateRecord[Any] | None:
    """Return a record of ``whole_states``, or raise its error."""
    if isinstance(found, CorruptRowError):
        raise found
    return found


def _whole(row: Any, links: Mapping[tuple[Any, int], Any]) -> Read:
    link = links.get((row.thread_id, row.state_id))
    if link is None:
        return None
    parts: list[bytes] = []
    while link is not None and link.base_id is not None:
        parts.append(link.patch)
        link = links.get((row.thread_id, link.base_id))
    return _folded(row, [link and link.state_data, *reversed(parts)])


def _folded(row: Any, links: Any) -> StateRecord[Any] | CorruptRowError:
    """Return the record of a row that is a change, given the JSON of a whole version and of the changes since."""
    try:
        whole, *patches = links
        data = patched(decode_json(whole), map(decode_json, patches))
    except (ValueError, LookupError, TypeError):  # not written by this package
        return CorruptRowError("states", (row.thread_id, row.state_id), "patch")
    return _record(row, data)


def _record(row: Any, data: Any) -> StateRecord[Any] | CorruptRowError:
    try:
        check_readable("states", (row.thread_id, row.state_id), row, row.created_at, row.updated_at)
    except CorruptRowError as error:  # returned, not raised: the other rows can be read
        return error
    if row.stream_id is None:
        return StateRecord(row.thread_id, row.state_id, data, row.meta, row.created_at, row.updated_at)
    try:
        stream = StateStream(data["bytes"], data["sha256"], data["chunks"])
    except (KeyError, TypeError):  # not written by this package
        return CorruptRowError("states", (row.thread_id, row.state_id), "state_data")
    return StateRecord(row.thread_id, row.state_id, None, row.meta, row.created_at, row.updated_at, stream)
