"""Rows as objects of the mapped classes: the same data as the records, in one round trip."""

from __future__ import annotations

from typing import Any

import pytest
from integration.repository_testing import HELLO, counted_statements, run_sql
from sqlalchemy import inspect

from agent_persistence.errors import InvalidInputError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER

Store = Persistence[Any, Any]
GROWN = {"step": 1, "messages": ["x" * 1000] * 10}


async def thread_with_all(store: Store, user_id: Any, *states: Any) -> Any:
    thread = await store.threads.create(user_id=user_id, name="Refund", meta={"a": 1})
    await store.messages.append_many(thread.thread_id, [HELLO, {"role": "assistant", "content": "hi"}], user_id=user_id)
    for state in states:
        await store.states.put(thread.thread_id, state, user_id=user_id, meta={"b": 2})
    return thread.thread_id


async def test_entities_hold_what_the_records_hold(any_persistence: Store, any_user: Any) -> None:
    store = any_persistence
    thread_id = await thread_with_all(store, any_user, {"step": 0}, {"step": 1})

    thread = await store.entities.get_thread(thread_id, user_id=any_user)
    state = await store.entities.get_latest_state(thread_id, user_id=any_user)
    messages = await store.entities.get_last_messages(thread_id, user_id=any_user)

    assert thread is not None
    assert state is not None
    record = await store.threads.require(thread_id, user_id=any_user)
    assert (thread.user_id, thread.thread_name, thread.meta, thread.updated_at) == (
        any_user,
        record.name,
        record.meta,
        record.updated_at,
    )
    saved = await store.states.require(thread_id, user_id=any_user)
    assert (state.state_id, state.state_data, state.meta, state.created_at) == (
        saved.version,
        saved.data,
        saved.meta,
        saved.created_at,
    )
    page = await store.messages.page(thread_id, user_id=any_user)
    assert [(one.message_id, one.seq, one.role, one.content) for one in messages] == [
        (one.message_id, one.seq, one.role, one.text) for one in page
    ]
    assert all(inspect(one).detached for one in (thread, state, *messages))


async def test_the_newest_messages_are_returned_the_oldest_of_them_first(persistence: Store) -> None:
    thread_id = await thread_with_all(persistence, "ada")

    (last,) = await persistence.entities.get_last_messages(thread_id, user_id="ada", limit=1)

    assert last.content == "hi"


async def test_a_state_that_is_kept_as_a_change_is_whole_as_an_entity(persistence: Store) -> None:
    changed = GROWN | {"step": 2}
    thread_id = await thread_with_all(persistence, "ada", GROWN, changed)
    latest = "SELECT patch IS NOT NULL FROM states WHERE thread_id = :id ORDER BY state_id DESC LIMIT 1"
    assert (await run_sql(persistence, latest, id=thread_id))[0][0]

    state = await persistence.entities.get_latest_state(thread_id, user_id="ada")

    assert state is not None
    assert state.state_data == changed


async def test_entities_of_a_unit_of_work_belong_to_its_session_and_see_its_writes(persistence: Store) -> None:
    thread_id = await thread_with_all(persistence, "ada", 1)

    async with persistence.begin(user_id="ada") as uow:
        await uow.states.put(thread_id, {"in": "here"})
        state = await uow.entities.get_latest_state(thread_id)
        thread = await uow.entities.get_thread(thread_id)
        assert thread is not None
        assert thread in uow.session
        thread.thread_name = "renamed"
        assert state is not None
        assert state.state_data == {"in": "here"}

    assert (await persistence.threads.require(thread_id, user_id="ada")).name == "renamed"


async def test_an_administrator_reads_everybodys_entities(persistence: Store) -> None:
    thread_id = await thread_with_all(persistence, "ada", 1)

    thread = await persistence.entities.get_thread(thread_id, user_id=ANY_USER)

    assert thread is not None
    assert thread.user_id == "ada"
    assert await persistence.entities.get_latest_state(thread_id, user_id=ANY_USER) is not None
    assert len(await persistence.entities.get_last_messages(thread_id, user_id=ANY_USER)) == 2


async def test_each_read_is_one_statement(persistence: Store) -> None:
    thread_id = await thread_with_all(persistence, "ada", 1)

    async with counted_statements(persistence) as statements:
        await persistence.entities.get_latest_state(thread_id, user_id="ada")
        await persistence.entities.get_last_messages(thread_id, user_id="ada")

    assert len(statements) == 2


@pytest.mark.parametrize("limit", [0, 1001, True, "1"])
async def test_a_limit_that_makes_no_sense_is_refused(persistence: Store, limit: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await persistence.entities.get_last_messages("t", user_id="ada", limit=limit)

    assert refused.value.field == "limit"
