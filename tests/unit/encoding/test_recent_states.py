"""The memory of recent states is bounded in bytes."""

from __future__ import annotations

from typing import Any

import pytest
from memory import measured

from agent_persistence.encoding import recent_states
from agent_persistence.encoding.recent_states import Origin, RecentState, RecentStates
from agent_persistence.encoding.state_patches import snapshot

LIMIT = 4 * 1024 * 1024


def recent(state: dict[str, Any], version: int = 1) -> RecentState:
    taken = snapshot(state)
    assert taken is not None
    return RecentState(version, version, taken, Origin(1, 1, 0))


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        (100, 100),
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 8_000), (1_000, 1), (3, 500_000), (1, 0))),
    ],
)
def test_states_take_no_more_memory_than_their_limit(monkeypatch: pytest.MonkeyPatch, keys: int, size: int) -> None:
    monkeypatch.setattr(recent_states, "MOST_BYTES", LIMIT)

    with measured() as memory:
        states = RecentStates()
        for number in range(5 + 2 * LIMIT // (keys * (size + 50) + 500)):
            states.put(f"thread {number}", recent({f"key {number} {key}": "x" * size for key in range(keys)}, number))

    assert LIMIT / 4 < memory.grown < LIMIT


def test_a_state_above_the_limit_evicts_no_other_and_leaves_no_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_states, "MOST_BYTES", 10_000)
    states = RecentStates()
    for thread_id in ("a", "b"):
        states.put(thread_id, recent({"x": 1}))

    states.put("b", recent({"x": "y" * 10_000}))

    assert states.get("a") is not None
    assert states.get("b") is None
