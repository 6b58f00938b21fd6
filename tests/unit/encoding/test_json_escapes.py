"""JSON that PostgreSQL has no form for is written in one that it has, and comes back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_persistence.encoding.exact_json import encode_json
from agent_persistence.encoding.json_escapes import from_storable, to_storable

ODD = ["\0", "a\0b", "\ud800", "\ue000", "\ue000f", "\ue0000000", 2**63, -(2**64), math.inf, -math.inf]
TEXTS = st.text(st.characters() | st.sampled_from("\0\ue000\ud800fi0"), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.just("__escaped__"), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("value", ODD, ids=ascii)
def test_what_cannot_be_stored_is_escaped_wherever_it_stands(value: Any) -> None:
    state = {"deep": [{"in": value}], **({value: 1} if isinstance(value, str) else {})}

    stored = to_storable(state)

    encode_json(stored, "state")
    assert from_storable(stored) == state


def test_nan_comes_back() -> None:
    assert math.isnan(from_storable(to_storable({"x": math.nan}))["x"])


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "é"]}, "text", 2**63 - 1, -(2**63) + 1, [], 1e300])
def test_what_can_be_stored_is_stored_as_it_is(value: Any) -> None:
    assert to_storable(value) is value
    assert from_storable(value) is value


def test_a_value_that_looks_escaped_is_taken_for_what_it_is() -> None:
    value = {"__escaped__": "\ue0000000"}

    assert from_storable(to_storable(value)) == value


@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    stored = to_storable(value)

    encode_json(stored, "value")
    assert repr(from_storable(stored)) == repr(value)
