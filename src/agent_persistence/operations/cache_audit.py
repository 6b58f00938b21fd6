"""The auditor: is what the cache holds what the database holds?

It measures, as a reader from outside would, and takes nothing for granted that the protocol promises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from agent_persistence.cache.codec import VALUE, UnreadableValueError, version_of
from agent_persistence.cache.keys import parse_state_key
from agent_persistence.cache.state_cache import StateCache
from agent_persistence.ids import IdTypes
from agent_persistence.records import TouchedState

LatestVersions = Callable[[Collection[TouchedState]], Awaitable[Mapping[TouchedState, int]]]

_STATES_A_BATCH: Final = 100
_PAGES: Final = 1_000


@dataclass(frozen=True, slots=True)
class CacheAudit:
    """How many cached values were compared with the database, and how many of them were wrong.

    Attributes:
        checked: values that were compared.
        stale: those that were not the latest state of that thread and owner, twice in a row.
        stale_beyond_bound: those that still were not when a sweep had been due, and was done once more.
        unreadable: keys or values that are damaged, or somebody else's; a read takes them for a miss.
    """

    checked: int
    stale: int
    stale_beyond_bound: int
    unreadable: int


async def audit(
    cache: StateCache,
    id_types: IdTypes[Any, Any],
    *,
    sample: int,
    latest_versions: LatestVersions,
    let_bound_pass: Callable[[], Awaitable[Any]],
) -> CacheAudit:
    """Compare some cached values with the database.

    Args:
        sample: how many values, at most.
        latest_versions: asks the database, by one statement.
        let_bound_pass: waits for as long as a stale value may stand; called if there is one.
    """
    states, unreadable = await _sample(cache, id_types, sample)
    checked, differing = await _compare(cache, states, latest_versions)
    stale = await _still(cache, differing, latest_versions)  # a commit between the two questions is no fault
    if stale:
        await let_bound_pass()
    beyond_bound = await _still(cache, stale, latest_versions)
    return CacheAudit(checked, len(stale), len(beyond_bound), unreadable)


async def _sample(cache: StateCache, id_types: IdTypes[Any, Any], sample: int) -> tuple[list[TouchedState], int]:
    """Find states that have a value; count what is none of ours."""
    found: dict[TouchedState, None] = {}  # a walk may come by a key twice
    unreadable, cursor = 0, 0
    for _ in range(_PAGES):  # others may have any number of keys in the same server
        cursor, keys = await cache.scan(cursor)
        states = [parse_state_key(cache.namespace, key, id_types) for key in keys]
        unreadable += states.count(None)
        versions = await _cached_versions(cache, [state for state in states if state is not None])
        unreadable += list(versions.values()).count(None)
        found |= dict.fromkeys(state for state, version in versions.items() if version is not None)
        if cursor == 0 or len(found) >= sample:
            break
    return list(islice(found, sample)), unreadable


async def _compare(
    cache: StateCache, states: Sequence[TouchedState], latest_versions: LatestVersions
) -> tuple[int, dict[TouchedState, int]]:
    """Say how many states still have a value, and which values are of another version than the database's.

    The database is asked first: a value that is older than its answer was wrong already when it was looked at.
    """
    checked: int = 0
    differing: dict[TouchedState, int] = {}
    for start in range(0, len(states), _STATES_A_BATCH):
        batch = states[start : start + _STATES_A_BATCH]
        latest = await latest_versions(batch)
        for state, version in (await _cached_versions(cache, batch)).items():
            if version is not None:
                checked += 1
                differing |= {} if version == latest[state] else {state: version}
    return checked, differing


async def _still(
    cache: StateCache, before: Mapping[TouchedState, int], latest_versions: LatestVersions
) -> dict[TouchedState, int]:
    """Compare once more, and keep the very values that differed before."""
    _, differing = await _compare(cache, list(before), latest_versions)
    return {state: version for state, version in differing.items() if before[state] == version}


async def _cached_versions(cache: StateCache, states: Sequence[TouchedState]) -> dict[TouchedState, int | None]:
    """Read the versions of those states that have a value; ``None`` where it cannot be read."""
    versions: dict[TouchedState, int | None] = {}
    for start in range(0, len(states), _STATES_A_BATCH):
        batch = states[start : start + _STATES_A_BATCH]
        for state, head in zip(batch, await cache.heads(batch), strict=True):
            if head.startswith(VALUE):
                versions[state] = _version(head)
    return versions


def _version(head: bytes) -> int | None:
    try:
        return version_of(head)
    except UnreadableValueError:
        return None
