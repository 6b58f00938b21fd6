"""Any sequence of states, and any pruning of it: what is kept as changes reads back equal."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from agent_persistence.encoding.exact_json import decode_json, encode_json
from agent_persistence.encoding.state_patches import patch_between, patched, snapshot
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from store_machine import values

KEYS = ("messages", "step", "", "é\"'", "keep", "set")
keys = st.sampled_from(KEYS)
items = st.lists(values, max_size=3)


def edited(state: dict[str, Any], edit: tuple[Any, ...]) -> Any:
    """The next state of an agent: a copy with one edit."""
    kind, key, value, place = edit
    state = copy.deepcopy(state)
    old = state.get(key)
    if kind == "drop":
        state.pop(key, None)
    elif kind == "append" and type(old) is list:
        old.extend(value)
    elif kind == "tail" and type(old) is list:
        old[place:] = value
    elif kind == "same":
        pass
    else:
        state[key] = value
    return state


edits = st.one_of(
    st.tuples(st.sampled_from(["append", "tail", "set"]), keys, items, st.integers(0, 4)),
    st.tuples(st.just("set"), keys, values, st.just(0)),
    st.tuples(st.sampled_from(["drop", "same"]), keys, st.none(), st.just(0)),
)


def exact(value: Any) -> str:
    """A text that tells 1, 1.0 and True apart."""
    return json.dumps(value, sort_keys=True)


@given(st.dictionaries(keys, values), st.lists(edits, max_size=6))
def test_patches_lead_from_the_first_state_to_the_last(first: dict[str, Any], changes: list[Any]) -> None:
    state, patches = first, []
    for change in changes:
        old, state = snapshot(state), edited(state, change)
        new = snapshot(state)
        assert old is not None
        assert new is not None
        patches.append(decode_json(encode_json(patch_between(old, new, state), "patch")))
        assert exact(new.state()) == exact(state)

    assert exact(patched(copy.deepcopy(first), patches)) == exact(state)


@pytest.mark.parametrize("value", [[1], "text", None, {1: "one"}, {"a": object()}, {"a": KeyError}])
def test_what_is_no_json_object_is_not_cut(value: Any) -> None:
    assert snapshot(value) is None


def test_what_was_cut_does_not_change_with_the_state() -> None:
    state = {"messages": [{"content": "one"}]}
    old = snapshot(state)
    state["messages"][0]["content"] = "another"
    new = snapshot(state)

    assert old is not None
    assert new is not None
    assert patch_between(old, new, state) == {"messages": {"set": [{"content": "another"}]}}


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ([1, 2], [1, 2, 3], {"keep": 2, "add": [3]}),
        ([1, 2], [1], {"keep": 1, "add": []}),
        ([1, 2], [1, 4], {"keep": 1, "add": [4]}),
        ([1, 2], [3], {"set": [3]}),
        ([1, 1], [1, True], {"keep": 1, "add": [True]}),
        ([0.0], [-0.0], {"set": [-0.0]}),
        ([], [1], {"set": [1]}),
        ("1", "12", {"set": "12"}),
    ],
)
def test_a_list_that_goes_on_is_told_by_what_follows(before: Any, after: Any, change: Any) -> None:
    old, new = snapshot({"a": before, "b": 1}), snapshot({"a": after, "b": 1})

    assert old is not None
    assert new is not None
    assert exact(patch_between(old, new, {"a": after, "b": 1})) == exact({"a": change})


@pytest.mark.slow
async def test_every_version_that_is_kept_reads_back_equal_whatever_was_pruned(settings_for: Any) -> None:
    settings_of_stores: PersistenceSettings = await settings_for(patch_states_from=1, redis_url=None)
    # Long enough for a patch to pay.
    starts = st.dictionaries(keys, values).map(lambda state: {**state, "text": 3000 * "x"})
    steps = st.lists(st.tuples(st.integers(0, 1), edits, st.integers(0, 9)), min_size=1, max_size=12)
    stores: list[Persistence[str, str]] = []  # two processes, each of which remembers the last state of its own
    patches = 0

    async def check(start: dict[str, Any], changes: list[Any], prunes: list[int]) -> int:
        thread_id = (await stores[0].threads.create(user_id="ann")).thread_id
        wanted: dict[int, Any] = {}
        state: Any = start
        for who, edit, keep in changes:
            state = edited(state, edit)
            wanted[(await stores[who].states.put(thread_id, state, user_id="ann")).version] = state
            if keep in prunes:
                await stores[1 - who].states.prune(thread_id, user_id="ann", keep_last=keep + 1)
                wanted = dict(list(wanted.items())[-keep - 1 :])
        await assert_reads(stores[0], thread_id, wanted)
        [[count]] = await rows(stores[0], "SELECT count(base_id) FROM states WHERE thread_id = :id", thread_id)
        return int(count)

    async def open_both() -> None:
        stores.extend(Persistence[str, str](settings_of_stores) for _ in range(2))

    async def close_both() -> None:
        for store in stores:
            await store.aclose()

    def run() -> None:
        with asyncio.Runner() as runner:

            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            @given(starts, steps, st.lists(st.integers(0, 9), max_size=4))
            def run_one(start: dict[str, Any], changes: list[Any], prunes: list[int]) -> None:
                nonlocal patches
                patches += runner.run(check(start, changes, prunes))

            runner.run(open_both())
            try:
                run_one()
            finally:
                runner.run(close_both())

    await asyncio.to_thread(run)
    assert patches > 50


async def rows(store: Persistence[str, str], statement: str, thread_id: str) -> Any:
    async with store.engine.connect() as connection:
        return (await connection.execute(text(statement), {"id": thread_id})).all()


async def assert_reads(store: Persistence[str, str], thread_id: str, wanted: dict[int, Any]) -> None:
    """Every way of reading gives the same states."""
    latest = await store.states.require(thread_id, user_id="ann")
    page = await store.states.page(thread_id, user_id="ann", limit=100)
    view = await rows(
        store,
        "SELECT state_id, state_data::text FROM state_versions WHERE thread_id = :id ORDER BY state_id",
        thread_id,
    )
    expected = {version: exact(state) for version, state in wanted.items()}
    assert {latest.version: exact(latest.data)} == dict([list(expected.items())[-1]])
    assert {state.version: exact(state.data) for state in reversed(page.items)} == expected
    assert {version: exact(decode_json(data)) for version, data in view} == expected
    for version in wanted:
        found = await store.states.get_version(thread_id, version, user_id="ann")
        assert found is not None
        assert exact(found.data) == expected[version]
