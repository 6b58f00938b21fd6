"""The cache audit: compares cached states with the database.

It reads as an outside observer does, and relies on no guarantee of the cache protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from agent_persistence.cache.codec import VALUE, UnreadableValueError, version_of
from agent_persistence.cache.keys import parse_state_key
from agent_persistence.cache.state_cache import StateCache
from agent_persistence.ids import IdTypes
from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import TouchedState
from agent_persistence.repositories.maintenance.latest_versions import latest_versions

LatestVersions = Callable[[Collection[TouchedState]], Awaitable[Mapping[TouchedState, int]]]

_STATES_A_BATCH: Final = 100
_PAGES: Final = 1_000


@dataclass(frozen=True, slots=True)
class CacheAudit:
    """The result of an audit.

    Attributes:
        checked: the number of values that were compared.
        stale: those that were not the latest state of their thread and owner, twice in a row.
        stale_beyond_bound: those that were still stale after another sweep was due and done.
        unreadable: keys or values that are damaged, or of another program; a read counts them as misses.
    """

    checked: int
    stale: int
    stale_beyond_bound: int
    unreadable: int


async def audit(
    cache: StateCache,
    transactions: Transactions[Any, Any],
    *,
    sample: int,
    let_bound_pass: Callable[[], Awaitable[Any]],
) -> CacheAudit:
    """Compare cached values with the database, and count the stale ones.

    Args:
        cache: the cache.
        transactions: those of its store.
        sample: the maximum number of values.
        let_bound_pass: waits as long as a stale value may live; called if there is one.
    """

    def latest(states: Collection[TouchedState]) -> Awaitable[Mapping[TouchedState, int]]:
        return transactions.maintain(partial(latest_versions, of=states))

    states, unreadable = await _sample(cache, transactions.sessions.models.id_types, sample)
    checked, differing = await _compare(cache, states, latest)
    stale = await _still(cache, differing, latest)  # a commit between the two reads is no fault
    if stale:
        await let_bound_pass()
    beyond_bound = await _still(cache, stale, latest)
    cache.counts.stale = len(stale)
    return CacheAudit(checked, len(stale), len(beyond_bound), unreadable)


async def _sample(cache: StateCache, id_types: IdTypes[Any, Any], sample: int) -> tuple[list[TouchedState], int]:
    """Return states that have a cached value, and the number of unreadable keys and values."""
    found: dict[TouchedState, None] = {}  # SCAN may return a key twice
    unreadable, cursor = 0, 0
    for _ in range(_PAGES):  # the server may hold any number of other keys
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
    cache: StateCache, states: Sequence[TouchedState], read_latest: LatestVersions
) -> tuple[int, dict[TouchedState, int]]:
    """Return the number of states that still have a value, and the values that differ from the database.

    The database is read first, so that a value older than its answer was stale when it was read.
    """
    checked: int = 0
    differing: dict[TouchedState, int] = {}
    for start in range(0, len(states), _STATES_A_BATCH):
        batch = states[start : start + _STATES_A_BATCH]
        latest = await read_latest(batch)
        for state, version in (await _cached_versions(cache, batch)).items():
            if version is not None:
                checked += 1
                differing |= {} if version == latest[state] else {state: version}
    return checked, differing


async def _still(
    cache: StateCache, before: Mapping[TouchedState, int], read_latest: LatestVersions
) -> dict[TouchedState, int]:
    """Compare once more, and return the values that differ again."""
    _, differing = await _compare(cache, list(before), read_latest)
    return {state: version for state, version in differing.items() if before[state] == version}


async def _cached_versions(cache: StateCache, states: Sequence[TouchedState]) -> dict[TouchedState, int | None]:
    """Return the versions of states that have a cached value; ``None`` for an unreadable one."""
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
