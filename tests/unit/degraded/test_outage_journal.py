"""The journal of unsaved states keeps exactly the states that wait, and known states stay bounded."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from itertools import count as count_from
from unittest.mock import Mock

import orjson
import pytest
from memory import measured

from agent_persistence.degraded import journal as journals
from agent_persistence.degraded.journal import FIRST_PROVISIONAL, Journal, KnownStates, StateKey
from agent_persistence.degraded.outage import Outage
from agent_persistence.errors import UnavailableError

NOW = datetime.now(UTC)
HERE, THERE = StateKey("ada", "here"), StateKey("ada", "there")


def test_states_are_kept_in_order_until_they_are_settled_or_taken() -> None:
    journal = Journal()
    added = [journal.add(key, b'"%d"' % number, None) for number, key in enumerate((HERE, THERE, HERE))]

    assert list(journal) == added
    assert journal.latest(HERE) is added[2]
    assert journal.threads == [HERE, THERE]
    assert journal.first(HERE) is added[0]
    journal.settle(HERE, 7)
    assert journal.first(HERE) is added[2]
    assert journal.settled(added[0].version) == 7
    assert journal.take(HERE) == [added[2]]
    assert journal.first(HERE) is journal.latest(HERE) is None
    assert list(journal) == [added[1]]
    assert journal.size == 3
    journal.settle(THERE, 8)
    assert (len(journal), journal.size, journal.threads) == (0, 0, [])


def test_of_saved_states_the_latest_provisional_versions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_MOST_SETTLED", 2)
    journal = Journal()
    versions = [journal.add(HERE, b"1", None).version for _ in range(3)]
    for number in range(3):
        journal.settle(HERE, number)

    assert [journal.settled(version) for version in versions] == [versions[0], 1, 2]


def test_provisional_versions_grow_from_process_to_process_and_fit_into_a_double() -> None:
    versions = [journal.add(HERE, b"1", None).version for journal in (Journal(), Journal()) for _ in range(3)]

    assert versions[:3] == sorted(set(versions[:3]))
    assert min(versions) > FIRST_PROVISIONAL + 10**15
    assert max(versions) < 2**53


def test_the_least_recent_known_states_are_evicted_first() -> None:
    known = KnownStates(most_bytes=10)
    known.put(HERE, 1, b'"1234"', NOW)
    known.put(THERE, 1, b'"12"', NOW)
    known.put(HERE, 2, b'"4321"', NOW)
    known.put(StateKey("ada", "third"), 1, b"1", NOW)

    assert [known.version(key) for key in (HERE, THERE, StateKey("ada", "third"))] == [2, 0, 1]
    found = known.get(HERE)
    assert found is not None
    assert (found.state, found.durable) == ("4321", False)
    known.put(THERE, 1, b'"too large for it"', NOW)
    assert known.get(THERE) is None


def test_a_state_above_the_limit_evicts_no_other_and_leaves_no_older_one() -> None:
    known = KnownStates(most_bytes=10)
    known.put(HERE, 1, b"1", NOW)
    known.put(THERE, 1, b"1", NOW)

    known.put(THERE, 2, b'"too large for it"', NOW)

    assert [known.version(key) for key in (HERE, THERE)] == [1, 0]


@pytest.mark.parametrize("size", [100_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 100, 2_000))])
def test_states_take_no_more_memory_than_their_limit(size: int) -> None:
    limit, count = 4 * 1024 * 1024, 0

    with measured() as memory:
        outage = Outage(limit, recover=Mock())
        with suppress(UnavailableError):
            for count in count_from(0):
                key = StateKey(f"user {count}", f"thread {count} {'x' * 30}")
                outage.add(key, orjson.dumps("x" * size), count)
    assert limit / 3 < memory.grown < limit
    assert count * size < limit

    with measured() as memory:
        known = KnownStates(limit)
        for number in range(2 * count):
            key = StateKey(f"user {number}", f"thread {number} {'x' * 30}")
            known.put(key, number, orjson.dumps("x" * size), datetime.now(UTC))
    assert limit / 5 < memory.grown < limit


def test_a_late_answer_does_not_replace_a_newer_known_state() -> None:
    known = KnownStates(most_bytes=100)
    known.put(HERE, 2, b"2", NOW)
    known.put(HERE, 1, b"1", NOW)

    assert known.version(HERE) == 2
