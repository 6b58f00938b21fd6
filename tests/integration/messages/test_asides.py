"""Rows that frameworks keep between the messages."""

import asyncio
from typing import Any

import pytest
from integration.repository_testing import until_somebody_waits_for_a_lock
from sqlalchemy import update

from agent_persistence.errors import CorruptRowError, InvalidInputError
from agent_persistence.models.base import table_of
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage


def said(text: object, **fields: Any) -> NewMessage[Any]:
    return NewMessage(message={"role": "user", "content": str(text)}, **fields)


async def new_thread(store: Persistence[Any, Any], user_id: Any, *messages: NewMessage[Any]) -> Any:
    thread_id = (await store.threads.create(user_id=user_id)).thread_id
    await store.messages.append_many(thread_id, messages, user_id=user_id)
    return thread_id


async def contents(store: Persistence[Any, Any], thread_id: Any, user_id: Any, **options: Any) -> list[Any]:
    return [one.content for one in await store.messages.page(thread_id, user_id=user_id, **options)]


async def test_a_page_passes_asides_by_unless_it_is_asked_for_them(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    messages = [said(1), said("searched", aside="openai"), said(2), said("compacted", aside="openai")]
    thread_id = await new_thread(any_persistence, any_user, *messages)
    first = (await any_persistence.messages.page(thread_id, user_id=any_user, limit=1)).before

    assert await contents(any_persistence, thread_id, any_user) == ["1", "2"]
    assert await contents(any_persistence, thread_id, any_user, limit=1) == ["2"]
    assert await contents(any_persistence, thread_id, any_user, limit=1, before=first) == ["1"]
    assert await contents(any_persistence, thread_id, any_user, search="compact") == []
    shown = await any_persistence.messages.page(thread_id, user_id=any_user, asides=True)
    assert [(one.content, one.aside) for one in shown] == [
        ("1", None),
        ("searched", "openai"),
        ("2", None),
        ("compacted", "openai"),
    ]


async def test_a_page_shows_the_asides_of_a_name(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    thread_id = await new_thread(
        any_persistence, any_user, said(1), said("searched", aside="openai"), said("left", aside="adk"), said(2)
    )

    assert await contents(any_persistence, thread_id, any_user, asides="openai") == ["1", "searched", "2"]
    await any_persistence.messages.pop(thread_id, user_id=any_user)
    popped = await any_persistence.messages.pop(thread_id, user_id=any_user, asides="openai")
    assert popped is not None
    assert popped.aside == "openai"
    with pytest.raises(InvalidInputError):
        await any_persistence.messages.page(thread_id, user_id=any_user, asides="two words")


async def test_rows_as_objects_are_messages_of_the_conversation_only(persistence: Persistence) -> None:
    thread_id = await new_thread(persistence, "ada", said(1), said(2), said("searched", aside="openai"))

    messages = await persistence.entities.get_last_messages(thread_id, limit=2, user_id="ada")

    assert [message.content for message in messages] == ["1", "2"]


@pytest.mark.parametrize("number", [1, 3, 300], ids=["one", "some", "by COPY"])
async def test_an_aside_comes_back_however_many_are_appended(persistence: Persistence, number: int) -> None:
    thread_id = await new_thread(persistence, "ada")
    new = [said(index, aside="adk") for index in range(number)]

    made = await persistence.messages.append_many(thread_id, new, user_id="ada")

    found = await persistence.messages.page(thread_id, user_id="ada", limit=1000, asides=True)
    assert [one.aside for one in made] == ["adk"] * number
    assert list(found) == list(made)


async def test_a_message_is_taken_out_of_the_conversation_and_back(persistence: Persistence) -> None:
    thread_id = await new_thread(persistence, "ada", said(1, message_id="m-1"))

    aside = await persistence.messages.update(thread_id, "m-1", user_id="ada", aside="pydantic_ai")
    without = await contents(persistence, thread_id, "ada")
    back = await persistence.messages.update(thread_id, "m-1", user_id="ada", aside=None)

    assert (aside.aside, without, back.aside) == ("pydantic_ai", [], None)
    assert await contents(persistence, thread_id, "ada") == ["1"]


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, 7, "nul\0"])
async def test_a_name_that_names_nobody_is_refused(persistence: Persistence, name: Any) -> None:
    thread_id = await new_thread(persistence, "ada", said(1, message_id="m-1"))

    with pytest.raises(InvalidInputError) as refused:
        await persistence.messages.append(thread_id, said(2, aside=name), user_id="ada")
    with pytest.raises(InvalidInputError):
        await persistence.messages.update(thread_id, "m-1", user_id="ada", aside=name)

    assert refused.value.field == "message.aside"
    assert await contents(persistence, thread_id, "ada", asides=True) == ["1"]


async def test_the_last_message_is_popped(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    thread_id = await new_thread(any_persistence, any_user, said(1), said(2), said(3, aside="openai"))
    pop = any_persistence.messages.pop

    popped = [await pop(thread_id, user_id=any_user) for _ in range(3)]

    assert [one and one.content for one in popped] == ["2", "1", None]
    assert await contents(any_persistence, thread_id, any_user, asides=True) == ["3"]
    aside = await pop(thread_id, user_id=any_user, asides=True)
    assert aside is not None
    assert aside.aside == "openai"


async def test_pop_sees_the_message_of_the_writer_that_it_waited_for(persistence: Persistence) -> None:
    thread_id = await new_thread(persistence, "ada", said(1))

    async with persistence.begin(user_id="ada") as writer:
        await writer.messages.append(thread_id, said(2))
        popping = asyncio.create_task(persistence.messages.pop(thread_id, user_id="ada"))
        clearing = asyncio.create_task(persistence.messages.clear(thread_id, user_id="ada"))
        await until_somebody_waits_for_a_lock(persistence)

    popped, cleared = await popping, await clearing
    assert (cleared, popped and popped.content) in [(1, "2"), (2, None)]


async def test_a_message_that_cannot_be_read_is_not_popped(persistence: Persistence) -> None:
    thread_id = await new_thread(persistence, "ada", said(1), said(2))
    message = table_of(persistence.models.Message)
    async with persistence.engine.begin() as connection:
        await connection.execute(update(message).where(message.c.content == "2").values(extra={"set": 7}))

    with pytest.raises(CorruptRowError):
        await persistence.messages.pop(thread_id, user_id="ada")

    assert len((await persistence.messages.page(thread_id, user_id="ada")).corrupt) == 1


async def test_a_thread_is_cleared_of_its_messages_only(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    thread_id = await new_thread(any_persistence, any_user, said(1), said(2, aside="openai"))
    await any_persistence.states.put(thread_id, {"step": 1}, user_id=any_user)

    cleared = [await any_persistence.messages.clear(thread_id, user_id=any_user) for _ in range(2)]

    assert cleared == [2, 0]
    assert await contents(any_persistence, thread_id, any_user, asides=True) == []
    assert (await any_persistence.states.require(thread_id, user_id=any_user)).data == {"step": 1}
    await any_persistence.messages.append(thread_id, said(3), user_id=any_user)
    assert await contents(any_persistence, thread_id, any_user) == ["3"]


async def test_messages_of_another_owner_are_neither_popped_nor_cleared(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id = await new_thread(any_persistence, any_user, said(1))

    assert await any_persistence.messages.pop(thread_id, user_id=any_ids.user()) is None
    assert await any_persistence.messages.clear(thread_id, user_id=any_ids.user()) == 0

    assert await contents(any_persistence, thread_id, any_user) == ["1"]
