"""Sessions of the OpenAI Agents SDK in threads."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from agents import Agent, Runner
from agents.memory import OpenAIResponsesCompactionSession, Session, SessionSettings
from integration.repository_testing import until_somebody_waits_for_a_lock
from integrations.openai_agents.fake_model import FakeModel
from openai import AsyncOpenAI
from sqlalchemy import update
from unit.forms.test_openai_form import ANSWER, CALL, OUTPUT, PICTURE, REASONING, SEARCH

from agent_persistence.errors import CorruptRowError, InvalidInputError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.models.base import table_of
from agent_persistence.persistence import Persistence
from agent_persistence.repositories import MessageRepository

ITEMS: list[Any] = [{"role": "user", "content": "Snow?"}, REASONING, CALL, ANSWER, SEARCH, OUTPUT, PICTURE]


@pytest.fixture
def session(persistence: Persistence, new_ids: Any) -> PersistenceSession:
    return PersistenceSession(new_ids.thread(), persistence=persistence, user_id="ada")


async def test_items_come_back_in_their_order(session: PersistenceSession) -> None:
    assert isinstance(session, Session)
    assert await session.get_items() == []

    await session.add_items(ITEMS[:3])
    await session.add_items(ITEMS[3:])

    assert await session.get_items() == ITEMS
    assert await session.get_items(limit=2) == ITEMS[-2:]
    assert await session.get_items(limit=0) == []
    assert await session.get_items(limit=-1) == ITEMS
    session.session_settings = SessionSettings(limit=1)
    assert await session.get_items() == ITEMS[-1:]


async def test_a_limit_counts_items_of_messages_of_others(
    persistence: Persistence, session: PersistenceSession
) -> None:
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "add", "arguments": "{}"}} for n in range(3)]
    await session.add_items([{"role": "user", "content": "Add."}])
    for message in (
        {"role": "assistant", "content": "I add.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c0", "content": "1"},
    ):
        await persistence.messages.append(session.session_id, message, user_id="ada")
    call = {"type": "function_call", "name": "add", "arguments": "{}"}
    items = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "I add."},
        *[{**call, "call_id": f"c{number}"} for number in range(3)],
        {"type": "function_call_output", "call_id": "c0", "output": "1"},
    ]

    assert await session.get_items() == items
    assert [await session.get_items(limit) for limit in range(1, 7)] == [items[-n:] for n in range(1, 7)]
    assert [await session.pop_item() for _ in range(7)] == [*items[::-1], None]


async def test_what_others_say_is_read_and_what_is_said_here_is_read_by_others(
    persistence: Persistence, session: PersistenceSession
) -> None:
    await session.add_items(ITEMS)

    page = await persistence.messages.page(session.session_id, user_id="ada")

    assert [(one.role, one.text) for one in page][:3] == [("user", "Snow?"), ("assistant", ""), ("tool", "Snow")]
    assert len(page) == len(ITEMS) - 2  # reasoning and a search are asides


async def test_a_run_of_the_sdk_remembers(session: PersistenceSession) -> None:
    model = FakeModel()
    agent = Agent("helper", model=model)

    await Runner.run(agent, "Hello", session=session)
    await Runner.run(agent, "Again", session=session)

    assert [[item["role"] for item in given] for given in model.given] == [["user"], ["user", "assistant", "user"]]
    assert [item["role"] for item in await session.get_items()] == ["user", "assistant"] * 2  # type: ignore[typeddict-item]


async def test_a_session_is_used_from_other_event_loops(session: PersistenceSession) -> None:
    agent = Agent("helper", model=FakeModel())

    def run() -> None:
        asyncio.run(session.add_items([{"role": "user", "content": "From a thread"}]))
        Runner.run_sync(agent, "Hello", session=session)
        asyncio.get_event_loop().close()  # the SDK leaves the one that it made open, for its next call in this thread

    await asyncio.to_thread(run)

    assert len(await session.get_items()) == 3


async def test_cleared_items_are_gone_and_the_thread_stays(
    persistence: Persistence, session: PersistenceSession
) -> None:
    await session.clear_session()
    await session.add_items(ITEMS)
    await persistence.states.put(session.session_id, {"step": 1}, user_id="ada")

    await session.clear_session()

    assert (await session.get_items(), await session.pop_item()) == ([], None)
    assert await persistence.states.get(session.session_id, user_id="ada") is not None
    await session.add_items(ITEMS[:1])
    assert await session.get_items() == ITEMS[:1]


@pytest.mark.skipif(
    not hasattr(OpenAIResponsesCompactionSession, "_replace_underlying_session_items"),
    reason="the SDK asks no session to replace its items before 0.24",
)
async def test_a_compaction_replaces_all_items_or_none(
    persistence: Persistence, session: PersistenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.add_items(ITEMS)
    rows = await persistence.messages.page(session.session_id, user_id="ada", asides=True)
    around = OpenAIResponsesCompactionSession("s", session, client=AsyncOpenAI(api_key="none"))
    replace = partial(around._replace_underlying_session_items, previous_items=ITEMS)  # noqa: SLF001 - what it calls

    with monkeypatch.context() as broken:
        broken.setattr(MessageRepository, "append_many", refuse)
        with pytest.raises(RuntimeError, match="in between"):
            await replace(output_items=ITEMS[-2:])
    # The same rows: they were not deleted and written again, as the SDK does without the hook.
    assert await persistence.messages.page(session.session_id, user_id="ada", asides=True) == rows
    await replace(output_items=ITEMS[-2:])

    assert await session.get_items() == ITEMS[-2:]


async def refuse(*_: Any) -> None:
    raise RuntimeError("the process dies in between")


async def test_a_session_of_another_owner_is_neither_read_nor_written(
    persistence: Persistence, session: PersistenceSession
) -> None:
    await session.add_items(ITEMS)
    eve = PersistenceSession(session.session_id, persistence=persistence, user_id="eve")

    assert (await eve.get_items(), await eve.pop_item()) == ([], None)
    await eve.clear_session()
    with pytest.raises(ThreadExistsError):
        await eve.add_items(ITEMS)

    assert await session.get_items() == ITEMS


async def test_a_deleted_thread_is_not_brought_back_by_a_late_run(
    persistence: Persistence, session: PersistenceSession
) -> None:
    await session.add_items(ITEMS)
    await persistence.threads.delete(session.session_id, user_id="ada")

    with pytest.raises(ThreadNotFoundError):
        await session.add_items(ITEMS)

    again = PersistenceSession(session.session_id, persistence=persistence, user_id="ada")
    await again.add_items(ITEMS[:1])
    assert await again.get_items() == ITEMS[:1]


async def test_what_cannot_be_read_is_neither_passed_by_nor_popped(
    persistence: Persistence, session: PersistenceSession
) -> None:
    await session.add_items(ITEMS)
    message = table_of(persistence.models.Message)
    async with persistence.engine.begin() as connection:
        is_last = (message.c.thread_id == session.session_id) & message.c.content.contains("What is this?")
        await connection.execute(update(message).where(is_last).values(extra={"set": 7}))

    for call in (session.get_items(), session.get_items(1), session.pop_item()):
        with pytest.raises(CorruptRowError):
            await call

    page = await persistence.messages.page(session.session_id, user_id="ada", asides=True)
    assert len(page.items) + len(page.corrupt) == len(ITEMS)


@pytest.mark.parametrize("item", ["text", 7, {"role": "user", "content": object()}])
async def test_what_is_no_item_is_refused_and_nothing_is_added(session: PersistenceSession, item: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await session.add_items([ITEMS[0], item])

    assert refused.value.field == "items[1]"
    assert await session.get_items() == []


async def test_a_cancelled_caller_waits_until_its_items_are_written(
    persistence: Persistence, session: PersistenceSession
) -> None:
    await session.add_items(ITEMS[:1])
    async with persistence.begin(user_id="ada") as other:
        await other.threads.lock(session.session_id)
        adding = asyncio.create_task(session.add_items(ITEMS[1:]))
        await until_somebody_waits_for_a_lock(persistence)
        adding.cancel()
        assert not (await asyncio.wait([adding], timeout=0.05))[0]

    with pytest.raises(asyncio.CancelledError):
        await adding
    assert await session.get_items() == ITEMS


async def test_a_uuid_is_made_of_a_session_id_and_numbers_are_refused(open_store: Any) -> None:
    uuids, numbers = await open_store(("uuid", "string")), await open_store(("bigint", "string"))

    sessions = [PersistenceSession("chat-1", persistence=uuids, user_id="ada") for _ in range(2)]
    await sessions[0].clear_session()
    await sessions[0].add_items(ITEMS)

    assert await sessions[1].get_items() == ITEMS
    with pytest.raises(InvalidInputError, match="PERSISTENCE_ID_TYPE"):
        PersistenceSession("chat-1", persistence=numbers, user_id="ada")


async def test_concurrent_writers_lose_and_double_nothing(
    persistence: Persistence, session: PersistenceSession
) -> None:
    async def add(writer: int) -> None:
        mine = PersistenceSession(session.session_id, persistence=persistence, user_id="ada")
        for number in range(10):
            await mine.add_items([{"role": "user", "content": f"{writer}-{number}"}])

    await asyncio.gather(*map(add, range(8)))

    texts = [item["content"] for item in await session.get_items()]  # type: ignore[typeddict-item]
    assert sorted(texts) == sorted(f"{writer}-{number}" for writer in range(8) for number in range(10))
    for writer in range(8):
        assert [text for text in texts if text.startswith(f"{writer}-")] == [f"{writer}-{n}" for n in range(10)]


async def test_an_item_that_a_writer_is_adding_is_popped_once_it_is_there(
    persistence: Persistence, session: PersistenceSession
) -> None:
    await session.add_items(ITEMS[:1])

    async with persistence.begin(user_id="ada") as writer:
        await writer.messages.append(session.session_id, {"role": "user", "content": "newer"})
        popping = asyncio.create_task(session.pop_item())
        await until_somebody_waits_for_a_lock(persistence)

    assert await popping == {"role": "user", "content": "newer"}
