"""Hundreds of messages at once, which are added by COPY where nothing can have their ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from integration.repository_testing import HELLO, SettingsFor, counted_statements, run_sql

from agent_persistence.errors import IdempotencyConflictError, ThreadNotFoundError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewMessage
from agent_persistence.repositories.messages.append import COPIED_FROM

Store = Persistence[Any, Any]


def varied(size: int) -> list[dict[str, Any]]:
    """Messages of every kind, with what the columns hold and what they do not."""
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    kinds: list[dict[str, Any]] = [
        {"role": "user", "content": "Where is my order?\n\t\\N \\. 😀"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "[1.0, -0.0]", "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "text", "text": "here"}], "x": {"score": -0.0}},
    ]
    return [{**kinds[place % 4], "name": str(place)} for place in range(size)]


async def everything(store: Store, thread_id: Any, user_id: Any) -> list[Any]:
    return list(await store.messages.page(thread_id, user_id=user_id, limit=1000))


@pytest.mark.parametrize("size", [COPIED_FROM - 1, COPIED_FROM])
async def test_a_long_batch_comes_back_equal_and_in_order(any_persistence: Store, any_user: Any, size: int) -> None:
    thread_id = (await any_persistence.threads.create(user_id=any_user)).thread_id
    first = await any_persistence.messages.append(thread_id, HELLO, user_id=any_user)

    made = await any_persistence.messages.append_many(thread_id, varied(size), user_id=any_user)

    assert [one.message for one in made] == varied(size)
    assert await everything(any_persistence, thread_id, any_user) == [first, *made]


async def test_it_is_copied(persistence: Store) -> None:
    thread_id = (await persistence.threads.create(user_id="ada")).thread_id

    async with counted_statements(persistence) as statements:
        await persistence.messages.append_many(thread_id, varied(COPIED_FROM), user_id="ada")

    assert not any("INSERT" in statement for statement in statements)


async def test_a_batch_with_ids_of_the_caller_s_may_meet_its_like_and_is_not_copied(persistence: Store) -> None:
    thread_id = (await persistence.threads.create(user_id="ada")).thread_id
    batch = [NewMessage(message=one, message_id=f"m{place}") for place, one in enumerate(varied(COPIED_FROM))]
    await persistence.messages.append(thread_id, batch[7], user_id="ada")
    others = [NewMessage(message=HELLO, message_id=f"n{place}") for place in range(COPIED_FROM)]

    made = await persistence.messages.append_many(thread_id, batch, user_id="ada")

    assert [one.message_id for one in made] == [one.message_id for one in batch]
    with pytest.raises(IdempotencyConflictError):
        await persistence.messages.append_many(
            thread_id, [*others, NewMessage(message=HELLO, message_id="m1")], user_id="ada"
        )
    assert len(await everything(persistence, thread_id, "ada")) == COPIED_FROM


@pytest.mark.parametrize("owner", ["bob", "ada"])
async def test_it_needs_a_thread_of_its_owner_s(persistence: Store, owner: str) -> None:
    thread_id = (await persistence.threads.create(user_id="ada")).thread_id
    wanted = thread_id if owner == "bob" else "absent"

    with pytest.raises(ThreadNotFoundError):
        await persistence.messages.append_many(wanted, varied(COPIED_FROM), user_id=owner)

    assert await everything(persistence, thread_id, "ada") == []


async def test_an_administrator_adds_to_anybodys_thread(persistence: Store) -> None:
    thread_id = (await persistence.threads.create(user_id="ada")).thread_id

    made = await persistence.messages.append_many(thread_id, varied(COPIED_FROM), user_id=ANY_USER)

    assert await everything(persistence, thread_id, "ada") == list(made)


async def test_a_unit_of_work_that_fails_takes_its_long_batch_along(persistence: Store) -> None:
    thread_id = (await persistence.threads.create(user_id="ada")).thread_id

    async def fail() -> None:
        async with persistence.begin(user_id="ada") as uow:
            await uow.messages.append_many(thread_id, varied(COPIED_FROM))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await everything(persistence, thread_id, "ada") == []


async def test_long_batches_of_one_thread_do_not_mix(persistence: Store) -> None:
    thread_id = (await persistence.threads.create(user_id="ada")).thread_id

    batches = await asyncio.gather(
        *(persistence.messages.append_many(thread_id, varied(COPIED_FROM), user_id="ada") for _ in range(4))
    )

    in_order = sorted(batches, key=lambda batch: batch[0].seq)
    assert await everything(persistence, thread_id, "ada") == [one for batch in in_order for one in batch]


async def test_a_long_batch_moves_the_thread_s_activity(settings_for: SettingsFor) -> None:
    async with Store(await settings_for(thread_touch_interval=0)) as store:
        before = await store.threads.create(user_id="ada")

        await store.messages.append_many(before.thread_id, varied(COPIED_FROM), user_id="ada")

        assert (await store.threads.require(before.thread_id, user_id="ada")).updated_at > before.updated_at
        count = await run_sql(store, "SELECT count(*) FROM messages WHERE thread_id = :id", id=before.thread_id)
        assert count[0][0] == COPIED_FROM
