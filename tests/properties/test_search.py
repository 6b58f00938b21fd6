"""Searches and filters against models of them: nothing that is typed finds a row too many, or one too few."""

from __future__ import annotations

from typing import Any

import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from torture.hostile import PIECES, TEXTS, fold

from agent_persistence.ids import uuid7
from agent_persistence.persistence import Persistence

# What Unicode has not assigned in Python's version of it may have a case in PostgreSQL's.
characters = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0")
NAMES = tuple(text for text in TEXTS if text)
METAS: tuple[dict[str, Any], ...] = (
    {}, {"a": 1}, {"a": 1.5, "b": "x"}, {"a": True}, {"a": None}, {"a": "1"}, {"a": [1, 2, [3]]},
    {"a": [[1], {"b": 2}]}, {"a": {"b": {"c": 1}}}, {"a": {"b": []}}, {"A": 1, "": {"": ""}}, {"a": ["x", None, True]},
    {"%": "_", "'": "\\"},
    {"a": [{"b": 1, "c": 2}, {"b": 2}]}, {"a": "x", "b": ["y"]}, {"a": 0}, {"a": {}}, {"a": []},
)  # fmt: skip

pieces = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
parts = st.builds(
    lambda text, start, length: text[start : start + length],
    st.sampled_from(NAMES),
    st.integers(0, 12),
    st.integers(1, 9),
)
searches = pieces | st.text(characters, max_size=4) | parts | parts.map(str.swapcase)
scalars = st.sampled_from([None, True, False, 0, 1, 2, 3, 1.0, 1.5, -1, "", "x", "y", "1", "_", "\\", "%"])
keys = st.sampled_from(["a", "b", "c", "A", "", "%", "'"])
filters = st.dictionaries(
    keys,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
        max_leaves=4,
    ),
    min_size=1,
    max_size=2,
)


def contains(whole: Any, part: Any) -> bool:
    """PostgreSQL's ``@>``, below the top of a document."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(contains(one, wanted) for one in whole) for wanted in part)
    return isinstance(whole, bool) is isinstance(part, bool) and not isinstance(whole, dict | list) and whole == part


class Searched:
    """An owner with a thread for each name, one for each meta, and one with a message for each name."""

    def __init__(self, store: Persistence[str, str]) -> None:
        self.store = store
        self.user_id = str(uuid7())

    async def fill(self) -> None:
        async with self.store.begin(user_id=self.user_id) as uow:
            self.thread_id = (await uow.threads.create()).thread_id
            for name in NAMES:
                await uow.threads.create(name=name)
            self.metas = {(await uow.threads.create(meta=meta)).thread_id: meta for meta in METAS}
            said = [{"role": "user", "content": name} for name in NAMES]
            await uow.messages.append_many(self.thread_id, said)


@pytest_asyncio.fixture(scope="module")
async def searched(open_store: Any) -> Searched:
    made = Searched(await open_store(("string", "string")))
    await made.fill()
    return made


@given(search=searches)
@settings(max_examples=250, deadline=None)
async def test_a_search_finds_exactly_what_contains_it_whatever_its_case(searched: Searched, search: str) -> None:
    wanted = sorted(name for name in NAMES if fold(search) in fold(name))

    messages = await searched.store.messages.page(
        searched.thread_id, user_id=searched.user_id, search=search, limit=1000
    )
    threads = await searched.store.threads.page(user_id=searched.user_id, search=search, limit=1000)

    assert sorted(str(one.text) for one in messages) == wanted
    assert sorted(str(one.name) for one in threads) == wanted


@given(meta=filters)
@settings(max_examples=150, deadline=None)
async def test_a_filter_finds_exactly_what_holds_it(searched: Searched, meta: dict[str, Any]) -> None:
    found = await searched.store.threads.page(user_id=searched.user_id, meta=meta, limit=1000)

    wanted = {thread_id for thread_id, one in searched.metas.items() if contains(one, meta)}
    assert {one.thread_id for one in found} == wanted
