"""Cache keys and cached values, without a server."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_persistence.cache.codec import MAX_BYTES, UnreadableValueError, decode_state, encode_state
from agent_persistence.cache.keys import parse_state_key, state_key
from agent_persistence.encoding.exact_json import MAX_JSON_DEPTH, encode_json
from agent_persistence.ids import BIGINT, INT, STRING, UUID, IdTypes
from agent_persistence.records import SavedState, StateRecord

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


def saved(data: object) -> SavedState:
    return SavedState(42, encode_json(data, "data"), b"{}", NOW, NOW)


def test_the_key_has_the_documented_format() -> None:
    assert state_key("app", "thread-1", "user-2") == b"app:state_cache:thread-1:user-2"


@given(ids, ids, ids, ids)
def test_two_states_never_share_a_key(thread: str, user: str, other_thread: str, other_user: str) -> None:
    same = (thread, user) == (other_thread, other_user)

    assert (state_key("n", thread, user) == state_key("n", other_thread, other_user)) is same


@given(ids, ids)
def test_a_key_says_whose_it_is(thread: str, user: str) -> None:
    assert parse_state_key("n:m", state_key("n:m", thread, user), IdTypes(STRING, STRING)) == (thread, user)


@pytest.mark.parametrize(
    ("thread", "user", "id_types"),
    [(-3, uuid.UUID(int=7), IdTypes(INT, UUID)), (uuid.UUID(int=7), 2**40, IdTypes(UUID, BIGINT))],
)
def test_a_key_gives_ids_back_in_their_own_type(thread: Any, user: Any, id_types: IdTypes[Any, Any]) -> None:
    assert parse_state_key("n", state_key("n", thread, user), id_types) == (thread, user)


@pytest.mark.parametrize(
    "key",
    [
        b"n:state_cache:1",
        b"n:state_cache:1:2:3",
        b"n:state_cache:01:2",
        b"n:state_cache: 1:2",
        b"n:state_cache:one:2",
        b"n:state_cache:%31:2",
        b"n:state_cache:99999999999999999999:2",
        b"m:state_cache:1:2",
        b"1:2",
        b"\xff",
        b"",
    ],
)
def test_a_key_that_is_none_of_ours_is_nobodys(key: bytes) -> None:
    assert parse_state_key("n", b"n:state_cache:1:2", IdTypes(INT, INT)) == (1, 2)

    assert parse_state_key("n", key, IdTypes(INT, INT)) is None


def test_ids_with_separators_do_not_meet() -> None:
    assert state_key("n", "a:b", "c") != state_key("n", "a", "b:c")


DEEPEST: Any = 1
for _ in range(MAX_JSON_DEPTH - 1):
    DEEPEST = [DEEPEST]


@pytest.mark.parametrize(
    "data",
    [DEEPEST, None, 0, -0.0, 1e23, "é😀", [1, {"a": [None, True]}], {}, "two\nlines"],
    ids=lambda data: repr(data)[:20],
)
def test_a_state_comes_back_equal(data: object) -> None:
    value = encode_state("t", "u", saved(data))
    assert value is not None

    state = decode_state(value, "t", "u")

    assert state == StateRecord("t", 42, data, {}, NOW, NOW)
    assert state is not None
    assert repr(state.data) == repr(data)


def test_the_absence_of_a_state_comes_back_as_such() -> None:
    value = encode_state("t", "u", None)
    assert value is not None

    assert decode_state(value, "t", "u") is None


def test_a_value_begins_with_its_version_in_a_fixed_width() -> None:
    value = encode_state("t", "u", saved(1))

    assert value is not None
    assert value[:21] == b"V00000000000000000042"


@pytest.mark.parametrize(("thread", "owner"), [("other", "u"), ("t", "other")])
def test_a_value_of_another_thread_or_owner_is_refused(thread: str, owner: str) -> None:
    value = encode_state("t", "u", saved(1))
    assert value is not None

    with pytest.raises(UnreadableValueError):
        decode_state(value, thread, owner)


def test_a_value_with_any_byte_of_its_body_changed_is_refused() -> None:
    value = encode_state("t", "u", saved({"balance": 100}))
    assert value is not None
    start = value.index(b"\n") + 1

    for place in range(start, len(value)):
        damaged = value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
        with pytest.raises(UnreadableValueError):
            decode_state(damaged, "t", "u")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(junk: bytes) -> None:
    with pytest.raises(UnreadableValueError):
        decode_state(b"V" + junk, "t", "u")


def test_a_value_of_another_format_is_refused() -> None:
    value = encode_state("t", "u", saved(1))
    assert value is not None

    with pytest.raises(UnreadableValueError):
        decode_state(value.replace(b'"format":1', b'"format":2'), "t", "u")


def test_a_state_that_is_too_large_is_not_encoded() -> None:
    assert encode_state("t", "u", saved("x" * MAX_BYTES)) is None
