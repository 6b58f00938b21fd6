"""The distribution's PostgreSQL, which is older than the embedded one, without a cache in front of it."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from connections import all_are_back
from migrations.migration_testing import with_database
from sqlalchemy import text

from agent_persistence import migrate
from agent_persistence.errors import StateConflictError
from agent_persistence.persistence import Persistence
from agent_persistence.records import StateRecord
from agent_persistence.settings import PersistenceSettings

pytestmark = pytest.mark.needs_apt

Store = Persistence[Any, Any]
PAIRS = [("string", "string"), ("bigint", "bigint"), ("uuid", "uuid"), ("int", "string")]
WRITERS = 16
OWNERS: dict[str, Any] = {"string": "ada", "bigint": 7, "uuid": uuid.UUID(int=7)}
_numbers = itertools.count(1)


@pytest.fixture
def id_pair() -> tuple[str, str]:
    """String ids, unless a test is run for several pairs."""
    return "string", "string"


@pytest_asyncio.fixture
async def store(debian_postgres: str, id_pair: tuple[str, str]) -> AsyncIterator[Store]:
    """A store on a new database."""
    name = f"debian_{next(_numbers)}"
    administrator = await asyncpg.connect(debian_postgres)
    await administrator.execute(f"CREATE DATABASE {name}")
    await administrator.close()
    settings = PersistenceSettings(
        _env_file=None,
        database_url=with_database(debian_postgres, name),
        id_type=id_pair[0],
        user_id_type=id_pair[1],
    )
    await migrate.upgrade(settings)
    async with Persistence[Any, Any](settings) as store:
        yield store
        assert await all_are_back(store)


@pytest.fixture
def user_id(id_pair: tuple[str, str]) -> Any:
    return OWNERS[id_pair[1]]


def said(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def value_of(store: Store, query: str) -> Any:
    async with store.engine.connect() as connection:
        return await connection.scalar(text(query))


@pytest.mark.parametrize("id_pair", PAIRS, ids="-".join)
async def test_a_conversation_comes_back_as_it_was_saved(store: Store, user_id: Any) -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1e23}'}}
    messages = [
        said("What is 100 % of 1e23? \u2028 😀"),
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "a tool knows"},
        {"role": "tool", "content": [{"type": "text", "text": "1e23"}], "tool_call_id": "call-1"},
    ]

    thread = await store.threads.create(user_id=user_id, name="Sums", meta={"tags": ["a", "b"]})
    appended = await store.messages.append_many(thread.thread_id, messages, user_id=user_id)
    states = [
        await store.states.put(thread.thread_id, {"n": [n, 1e23, -0.0]}, user_id=user_id, meta={"n": n})
        for n in range(3)
    ]

    assert await store.threads.require(thread.thread_id, user_id=user_id) == thread
    page = await store.messages.page(thread.thread_id, user_id=user_id)
    assert page.items == appended
    assert [message.message for message in page] == messages
    assert await store.states.require(thread.thread_id, user_id=user_id) == states[2]
    assert (await store.states.page(thread.thread_id, user_id=user_id)).items == tuple(reversed(states))
    assert repr(states[2].data) == "{'n': [2, 1e+23, -0.0]}"


@pytest.mark.parametrize("id_pair", PAIRS, ids="-".join)
async def test_what_is_changed_and_deleted_stays_so(store: Store, user_id: Any) -> None:
    thread = await store.threads.create(user_id=user_id)
    kept, dropped = await store.messages.append_many(thread.thread_id, [said("old"), said("x")], user_id=user_id)
    await store.states.put(thread.thread_id, 1, user_id=user_id)

    await store.threads.update(thread.thread_id, user_id=user_id, name="new", meta={"a": 1})
    await store.messages.update(thread.thread_id, kept.message_id, user_id=user_id, message=said("new"))
    deleted = await store.messages.delete(thread.thread_id, dropped.message_id, user_id=user_id)
    cleared = await store.states.clear(thread.thread_id, user_id=user_id)

    changed = await store.threads.require(thread.thread_id, user_id=user_id)
    assert (changed.name, changed.meta) == ("new", {"a": 1})
    left = await store.messages.page(thread.thread_id, user_id=user_id)
    assert [message.text for message in left] == ["new"]
    assert (deleted, cleared) == (True, 1)
    assert await store.threads.delete(thread.thread_id, user_id=user_id)
    assert await store.threads.get(thread.thread_id, user_id=user_id) is None


@pytest.mark.parametrize("id_pair", [("bigint", "bigint"), ("int", "string")], ids="-".join)
async def test_the_database_counts_past_ids_that_were_given(store: Store, user_id: Any) -> None:
    first = (await store.threads.create(user_id=user_id)).thread_id
    for number in (1, 2, 3):
        await store.threads.create(user_id=user_id, thread_id=first + number)

    made = [(await store.threads.create(user_id=user_id)).thread_id for _ in range(2)]

    assert made == [first + 4, first + 5]


async def test_whoever_follows_a_thread_of_many_writers_misses_no_message(store: Store, user_id: str) -> None:
    thread = await store.threads.create(user_id=user_id)

    async def write(writer: int) -> None:
        for n in range(10):
            await store.messages.append(thread.thread_id, said(f"{writer}.{n}"), user_id=user_id)

    async def follow() -> list[str]:
        page, seen, done = await store.messages.page(thread.thread_id, user_id=user_id), list[str](), False
        while page.items or not done:
            seen += [message.text for message in page]
            done = writing.done()  # what comes after this is read by the next round
            page = await store.messages.page(thread.thread_id, user_id=user_id, after=page.after)
        return seen

    writing = asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    seen = await follow()
    await writing

    stored = await store.messages.page(thread.thread_id, user_id=user_id, limit=1000)
    assert seen == [message.text for message in stored]
    assert len(set(seen)) == WRITERS * 10
    for writer in range(WRITERS):
        assert [text for text in seen if text.startswith(f"{writer}.")] == [f"{writer}.{n}" for n in range(10)]


async def test_of_writers_over_the_same_version_one_wins_and_the_others_learn_whose(store: Store, user_id: str) -> None:
    thread = await store.threads.create(user_id=user_id)
    first = await store.states.put(thread.thread_id, "first", user_id=user_id)

    async def write(writer: int) -> StateRecord[Any]:
        return await store.states.put(thread.thread_id, writer, user_id=user_id, expected_version=first.version)

    outcomes = await asyncio.gather(*(write(writer) for writer in range(WRITERS)), return_exceptions=True)

    [winner] = [outcome for outcome in outcomes if isinstance(outcome, StateRecord)]
    conflicts = [outcome for outcome in outcomes if isinstance(outcome, StateConflictError)]
    assert len(conflicts) == WRITERS - 1
    assert {(conflict.expected, conflict.found) for conflict in conflicts} == {(first.version, winner.version)}
    assert await store.states.require(thread.thread_id, user_id=user_id) == winner


async def test_a_purge_keeps_the_newest_states_of_every_thread(store: Store, user_id: str) -> None:
    threads = [(await store.threads.create(user_id=user_id)).thread_id for _ in range(3)]
    for thread_id, step in itertools.product(threads, range(10)):
        await store.states.put(thread_id, step, user_id=user_id)

    deleted = await store.purge(keep_last=3)

    assert deleted == 21
    for thread_id in threads:
        assert [state.data for state in await store.states.page(thread_id, user_id=user_id)] == [9, 8, 7]


async def test_the_limits_are_those_that_the_server_knows(store: Store) -> None:
    major = await value_of(store, "SELECT current_setting('server_version_num')::int / 10000")

    limits = [
        await value_of(store, f"SELECT current_setting('{name}', true)")
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    ]

    assert limits == ["10s", "3s", "8s", "8s" if major >= 17 else None]


async def test_a_search_finds_the_text_itself(store: Store, user_id: str) -> None:
    thread = await store.threads.create(user_id=user_id, name="100% Sure", meta={"tags": ["a"]})
    await store.threads.create(user_id=user_id, name="1000 sure", meta={"tags": ["b"]})
    await store.messages.append_many(thread.thread_id, [said("a_B"), said("axb"), said("A\\b")], user_id=user_id)

    async def found(search: str) -> list[str]:
        return [one.text for one in await store.messages.page(thread.thread_id, user_id=user_id, search=search)]

    named, tagged = [
        await store.threads.page(user_id=user_id, **wanted)
        for wanted in ({"search": "100% s"}, {"meta": {"tags": ["a"]}})
    ]
    assert [one.thread_id for one in (*named, *tagged)] == [thread.thread_id] * 2
    assert (await found("A_b"), await found("a\\B"), await found("%")) == (["a_B"], ["A\\b"], [])


async def test_pages_lead_through_every_row_once(store: Store, user_id: str) -> None:
    made = [(await store.threads.create(user_id=user_id)).thread_id for _ in range(7)]
    await store.messages.append_many(made[0], [said(str(n)) for n in range(7)], user_id=user_id)

    threads, after = list[Any](), None
    while not threads or after:
        page = await store.threads.page(user_id=user_id, limit=3, after=after)
        threads += [thread.thread_id for thread in page]
        after = page.after
    messages, before = list[str](), None
    while not messages or before:
        newest = await store.messages.page(made[0], user_id=user_id, limit=3, before=before)
        messages = [message.text for message in newest] + messages
        before = newest.before

    assert sorted(threads) == sorted(made)
    assert messages == [str(n) for n in range(7)]


async def test_a_large_state_is_compressed_with_lz4_where_the_server_has_it(store: Store, user_id: str) -> None:
    has_lz4 = await value_of(
        store, "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    )
    thread = await store.threads.create(user_id=user_id)

    saved = await store.states.put(thread.thread_id, ["compressible"] * 10_000, user_id=user_id)

    method = await value_of(store, "SELECT pg_column_compression(state_data) FROM states")
    assert method == ("lz4" if has_lz4 else "pglz")
    assert await store.states.require(thread.thread_id, user_id=user_id) == saved
