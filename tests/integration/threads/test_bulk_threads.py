"""Threads that are added with all that is in them."""

from __future__ import annotations

from typing import Any

import pytest
from integration.repository_testing import SettingsFor, counted_statements

from agent_persistence.errors import CheckpointingDisabledError, InvalidInputError, ThreadExistsError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewMessage, NewThread

Store = Persistence[Any, Any]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}], "reasoning_content": "hm"}
MESSAGES = [
    {"role": "user", "content": "hello"},
    CALL,
    {"role": "tool", "content": "8 \U0001f600", "tool_call_id": "c1"},
]
STATES = [{"step": 1, "zero": -0.0}, None, [1, 1.0, True]]


async def contents(store: Store, thread_id: Any, user_id: Any) -> tuple[list[Any], list[Any]]:
    messages = await store.messages.page(thread_id, user_id=user_id)
    states = await store.states.page(thread_id, user_id=user_id)
    return [record.message for record in messages], [repr(record.data) for record in reversed(states.items)]


async def test_whole_threads_are_read_like_any_others(any_persistence: Store, any_user: Any) -> None:
    threads: list[NewThread[Any]] = [
        NewThread(name=f"thread {place}", meta={"place": place}, messages=MESSAGES[place:], states=STATES[: 3 - place])
        for place in range(4)
    ]

    ids = await any_persistence.threads.create_many(threads, user_id=any_user)

    for place, thread_id in enumerate(ids):
        thread = await any_persistence.threads.require(thread_id, user_id=any_user)
        assert (thread.name, thread.meta, thread.user_id) == (f"thread {place}", {"place": place}, any_user)
        found = await contents(any_persistence, thread_id, any_user)
        assert found == (MESSAGES[place:], [repr(state) for state in STATES[: 3 - place]])
        latest = await any_persistence.states.get(thread_id, user_id=any_user)
        assert latest is None or repr(latest.data) == repr(STATES[: 3 - place][-1])
    listed = await any_persistence.threads.page(user_id=any_user)
    assert [thread.thread_id for thread in listed][:4] == list(reversed(ids))


async def test_what_is_said_about_single_messages_is_kept(any_persistence: Store, any_ids: Any) -> None:
    user_id, message_id = any_ids.user(), any_ids.thread()
    told: NewMessage[Any] = NewMessage(
        message=MESSAGES[0], message_id=message_id, total_tokens=7, usages={"in": 3}, meta={"from": "web"}
    )

    threads: list[NewThread[Any]] = [
        NewThread(messages=[told, MESSAGES[1]]),
        NewThread(messages=[MESSAGES[1], told]),
        NewThread(messages=[told]),
    ]
    ids = await any_persistence.threads.create_many(threads, user_id=user_id)

    for thread_id in ids:
        found = await any_persistence.messages.require(thread_id, message_id, user_id=user_id)
        assert (found.total_tokens, found.usages, found.meta) == (7, {"in": 3}, {"from": "web"})
    assert (await contents(any_persistence, ids[0], user_id))[0] == MESSAGES[:2]
    assert (await contents(any_persistence, ids[1], user_id))[0] == MESSAGES[1::-1]


async def test_many_threads_take_a_few_statements(persistence: Persistence[str, str], user_id: str) -> None:
    async with counted_statements(persistence) as statements:
        await persistence.threads.create_many([NewThread(messages=MESSAGES) for _ in range(50)], user_id=user_id)

    assert len(statements) == 1  # and a COPY, which SQLAlchemy does not see


async def test_threads_with_ids_of_the_caller_are_listed_in_their_order_whatever_the_ids_are(
    persistence: Persistence[str, str], user_id: str
) -> None:
    ids = [f"{letter}-{user_id}" for letter in "cab"]

    await persistence.threads.create_many([NewThread(thread_id=one) for one in ids], user_id=user_id)

    assert [thread.thread_id for thread in await persistence.threads.page(user_id=user_id)] == ids[::-1]


async def test_a_cached_absence_ends_with_a_whole_thread(persistence: Persistence[str, str], user_id: str) -> None:
    assert await persistence.states.get(user_id, user_id=user_id) is None

    await persistence.threads.create_many([NewThread(thread_id=user_id, states=STATES)], user_id=user_id)

    assert (await persistence.states.require(user_id, user_id=user_id)).data == STATES[-1]


async def test_an_id_that_is_taken_adds_none_of_them_even_if_the_error_is_caught(
    persistence: Persistence[str, str], user_id: str
) -> None:
    await persistence.threads.create(thread_id="taken", user_id=user_id)
    async with persistence.begin(user_id=user_id) as uow:
        with pytest.raises(ThreadExistsError) as caught:
            await uow.threads.create_many([NewThread(thread_id="another"), NewThread(thread_id="taken")])

    assert caught.value.thread_id == "taken"
    assert await persistence.threads.get("another", user_id=user_id) is None


async def test_an_id_that_is_given_twice_is_refused(persistence: Persistence[str, str], user_id: str) -> None:
    with pytest.raises(ThreadExistsError):
        await persistence.threads.create_many([NewThread(thread_id="t"), NewThread(thread_id="t")], user_id=user_id)

    assert await persistence.threads.get("t", user_id=user_id) is None


@pytest.mark.parametrize(
    ("thread", "field"),
    [
        (NewThread(messages=[MESSAGES[0], {"role": "nobody"}]), "threads[1].messages[1].role"),
        (NewThread(states=[1, float("nan")]), "threads[1].states[1]"),
        (NewThread(meta={"a": (1,)}), "threads[1].meta.a"),
        (NewThread(name="a\0b"), "threads[1].name"),
    ],
)
async def test_what_cannot_be_stored_is_refused_by_name_and_nothing_is_added(
    persistence: Persistence[str, str], user_id: str, thread: NewThread[str], field: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await persistence.threads.create_many([NewThread(thread_id=user_id), thread], user_id=user_id)

    assert caught.value.field == field
    assert await persistence.threads.get(user_id, user_id=user_id) is None


async def test_settings_hold_for_whole_threads_too(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(max_checkpoint_history=2)) as store:
        [one] = await store.threads.create_many([NewThread(states=STATES)], user_id=user_id)
        assert (await contents(store, one, user_id))[1] == [repr(state) for state in STATES[1:]]
    async with Persistence[str, str](await settings_for(enable_checkpointing=False)) as store:
        with pytest.raises(CheckpointingDisabledError):
            await store.threads.create_many([NewThread(states=STATES)], user_id=user_id)


async def test_everybodys_unit_of_work_names_the_owner(persistence: Persistence[str, str], user_id: str) -> None:
    async with persistence.begin(user_id=ANY_USER) as uow:
        [thread_id] = await uow.threads.create_many([NewThread(messages=MESSAGES, states=STATES)], user_id=user_id)

    assert (await contents(persistence, thread_id, user_id))[0] == MESSAGES
