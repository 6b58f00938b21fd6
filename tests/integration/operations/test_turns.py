"""States that are saved with their messages: both or neither, whoever else saves at the same time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from integration.repository_testing import counted_statements

from agent_persistence.errors import StateConflictError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage, NewThread, StateRecord

AnyStore = Persistence[Any, Any]
Store = Persistence[str, str]


async def put(
    store: AnyStore,
    thread_id: Any,
    step: int,
    *,
    user_id: Any,
    message_id: Any = None,
    expected: int | None = None,
    alone: list[int] | None = None,
) -> StateRecord[Any]:
    """Save a turn of one message; ``alone`` collects the steps that were saved without others."""
    said = NewMessage[Any](message={"role": "user", "content": f"said {step}"}, message_id=message_id)

    async def work(uow: UnitOfWork[Any, Any]) -> StateRecord[Any]:
        saved = await uow.states.put(thread_id, {"step": step}, expected_version=expected)
        await uow.messages.append_many(thread_id, [said])
        return saved

    async def save() -> StateRecord[Any]:
        if alone is not None:
            alone.append(step)
        return await store.run(work, user_id=user_id)

    return await store.checkpoints.put_turn(
        NewThread(thread_id=thread_id, name="made", meta={"by": "a turn"}),
        {"step": step},
        [said],
        user_id=user_id,
        expected_version=expected,
        alone=save,
    )


async def contents(store: AnyStore, thread_id: Any, user_id: Any) -> tuple[Any, list[str]]:
    state = await store.states.get(thread_id, user_id=user_id)
    page = await store.messages.page(thread_id, user_id=user_id)
    return state and state.data, [message.text for message in page]


async def test_turns_of_known_and_new_threads_are_saved_together(
    any_persistence: AnyStore, any_user: Any, any_ids: Any
) -> None:
    known = [(await any_persistence.threads.create(user_id=any_user)).thread_id for _ in range(3)]
    threads, alone = [*known, *(any_ids.thread() for _ in range(3))], list[int]()

    await asyncio.gather(
        *(put(any_persistence, one, step, user_id=any_user, alone=alone) for step, one in enumerate(threads))
    )

    for step, thread_id in enumerate(threads):
        assert await contents(any_persistence, thread_id, any_user) == ({"step": step}, [f"said {step}"])
    made = await any_persistence.threads.require(threads[-1], user_id=any_user)
    assert (made.name, made.meta) == ("made", {"by": "a turn"})
    assert alone == []


async def test_a_crowd_of_turns_costs_a_few_statements(persistence: Store, user_id: str) -> None:
    threads = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(16)]

    async with counted_statements(persistence) as sent:
        await asyncio.gather(*(put(persistence, one, step, user_id=user_id) for step, one in enumerate(threads)))

    assert len(sent) <= 8


async def test_a_message_that_is_there_leaves_its_turn_unsaved_and_the_others_are(
    persistence: Store, user_id: str
) -> None:
    threads = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(4)]
    await persistence.messages.append(threads[2], {"role": "user", "content": "other"}, user_id=user_id, message_id="2")

    found = await asyncio.gather(
        *(put(persistence, one, step, user_id=user_id, message_id=f"{step}") for step, one in enumerate(threads)),
        return_exceptions=True,
    )

    assert [isinstance(one, BaseException) for one in found] == [False, False, True, False]
    assert await contents(persistence, threads[2], user_id) == (None, ["other"])
    assert await contents(persistence, threads[3], user_id) == ({"step": 3}, ["said 3"])


async def test_of_two_turns_that_expect_the_same_version_one_is_saved(persistence: Store, user_id: str) -> None:
    threads = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(4)]
    first = [await put(persistence, one, 0, user_id=user_id) for one in threads]
    again = partial(put, persistence, user_id=user_id)
    alone: list[int] = []

    calls = [
        again(one, step, expected=state.version, alone=alone)
        for one, state in zip(threads, first, strict=True)
        for step in (1, 2)
    ]
    found = await asyncio.gather(*calls, return_exceptions=True)

    assert [isinstance(one, StateConflictError) for one in found] == [False, True] * 4
    assert [await contents(persistence, one, user_id) for one in threads] == [({"step": 1}, ["said 0", "said 1"])] * 4
    assert 1 not in alone


async def test_a_turn_that_expects_a_version_that_has_passed_saves_neither_state_nor_message(
    persistence: Store, user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    first = await put(persistence, thread_id, 0, user_id=user_id)
    await put(persistence, thread_id, 1, user_id=user_id)

    with pytest.raises(StateConflictError):
        await put(persistence, thread_id, 2, user_id=user_id, expected=first.version)

    assert await contents(persistence, thread_id, user_id) == ({"step": 1}, ["said 0", "said 1"])


async def test_a_thread_of_another_user_is_not_written(persistence: Store, user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id="another")).thread_id
    alone: list[int] = []

    found = await asyncio.gather(put(persistence, thread_id, 1, user_id=user_id, alone=alone), return_exceptions=True)

    assert [type(one).__name__ for one in found] == ["ThreadNotFoundError"]
    assert alone == [1]
    assert await contents(persistence, thread_id, "another") == (None, [])
