"""Conversations of Pydantic AI in threads."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from integration.repository_testing import until_somebody_waits_for_a_lock
from pydantic_ai import (
    Agent,
    BinaryContent,
    BinaryImage,
    CachePoint,
    DeferredToolRequests,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict, ConversationEntry, ConversationRecord
from pydantic_ai.exceptions import UserError
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.ui.vercel_ai import VercelAIAdapter
from pydantic_ai.usage import RunUsage
from sqlalchemy import update

from agent_persistence.errors import CorruptRowError, InvalidInputError, MessageNotFoundError
from agent_persistence.integrations.pydantic_ai import PersistenceConversationStore
from agent_persistence.integrations.pydantic_conversations import kept
from agent_persistence.models.base import table_of
from agent_persistence.persistence import Persistence
from agent_persistence.repositories import MessageRepository

Store = PersistenceConversationStore


@pytest.fixture
def store(persistence: Persistence, user_id: str) -> Store:
    return Store(persistence=persistence, user_id=user_id)


@pytest.fixture
def chat(new_ids: Any) -> str:
    """The id of a conversation that nobody has begun."""
    return str(new_ids.thread())


def ask(text: str) -> ModelRequest:
    return ModelRequest([UserPromptPart(text)])


def say(text: str) -> ModelResponse:
    return ModelResponse([TextPart(text)])


def texts(messages: list[ModelMessage]) -> list[str]:
    return [str(part.content) for message in messages for part in message.parts if hasattr(part, "content")]


async def told(store: Store, chat: str, **which: Any) -> list[str]:
    conversation = await store.load(chat, **which)
    return [] if conversation is None else texts(conversation.messages)


async def begun(store: Store, chat: str, *said: str, **more: Any) -> Conversation:
    """Save a conversation: questions and answers in turn."""
    messages: list[ModelMessage] = [say(text) if number % 2 else ask(text) for number, text in enumerate(said)]
    conversation = Conversation(conversation_id=chat, messages=messages)
    await store.save(conversation, **more)
    return conversation


async def seen(persistence: Persistence, chat: str, user_id: str, **which: Any) -> list[str]:
    page = await persistence.messages.page(chat, user_id=user_id, limit=1000, **which)
    return [message.text for message in page]


async def test_messages_come_back_equal_with_what_a_conversation_carries(store: Store, chat: str) -> None:
    requests = DeferredToolRequests(
        approvals=[ToolCallPart("pay", {"sum": 7}, "call_9")], metadata={"call_9": {"a": 1}}
    )
    usage = RunUsage(requests=2, input_tokens=3, tool_calls=1)
    image = BinaryImage(b"\x89PNG", media_type="image/png")
    messages: list[ModelMessage] = [
        ModelRequest([UserPromptPart(["What is this?", image, CachePoint()])], instructions="Be brief."),
        ModelResponse([ThinkingPart("Hm.", signature="c2ln"), TextPart("I ask."), ToolCallPart("f", {"n": 1}, "c1")]),
        ModelRequest([ToolReturnPart("f", ["A cat:", image], "c1"), UserPromptPart("Well?")]),
        ModelResponse([NativeToolCallPart("web_search", {"query": "cat"}, "ws_1")]),
        ModelResponse([TextPart("A cat.")]),
    ]
    given = Conversation(conversation_id=chat, messages=messages, usage=usage, deferred_tool_requests=requests)
    assert await store.load(chat) is None

    entries = await store.save(given, scope="team")

    loaded = await store.load(chat)
    assert loaded == given
    assert await store.load_entries(chat) == entries
    assert (await store.load(chat, limit=2) or given).messages == messages[-2:]
    record = await store.read_record(chat)
    assert record is not None
    assert (record.head_id, record.usage, record.scope) == (entries[-1].id, usage, "team")
    assert [await store.read_entry(entry.id) for entry in entries[:2]] == entries[:2]


async def test_an_agent_with_tools_remembers_and_streams(store: Store, chat: str) -> None:
    agent = Agent(TestModel(custom_output_text="Snow."), instructions="Be brief.")

    @agent.tool_plain
    def weather(city: str) -> dict[str, str]:
        return {"city": city}

    conversation = await store.load(chat) or Conversation(conversation_id=chat)
    result = await agent.run("Oslo?", conversation=conversation)
    await store.save(result)
    streamed = await agent.run("Rome?", conversation=await store.load(chat), event_stream_handler=watch)
    await store.save(streamed)

    loaded = await store.load(chat)
    assert loaded is not None
    assert loaded.messages == streamed.all_messages()
    assert loaded.messages[: len(result.all_messages())] == result.all_messages()
    assert loaded == streamed.conversation


async def watch(_context: Any, events: Any) -> None:
    async for _ in events:
        pass


async def test_a_server_of_the_vercel_ui_keeps_the_conversation(store: Store, chat: str) -> None:
    agent = Agent(TestModel(custom_output_text="Snow."))

    for number, question in enumerate(("Oslo?", "Rome?")):
        message = {"id": f"m{number}", "role": "user", "parts": [{"type": "text", "text": question}]}
        body = json.dumps({"trigger": "submit-message", "id": chat, "messages": [message]}).encode()
        adapter = VercelAIAdapter(
            agent=agent,
            run_input=VercelAIAdapter.build_run_input(body),
            conversation_store=store,
            conversation_scope="ada",
        )
        assert [event async for event in adapter.run_stream()]

    assert await told(store, chat, scope="ada") == ["Oslo?", "Snow.", "Rome?", "Snow."]


async def test_calls_of_another_program_are_what_a_model_is_given(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    await persistence.threads.create(thread_id=chat, user_id=user_id)
    for message in (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Snow?"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Snow"},
    ):
        await persistence.messages.append(chat, message, user_id=user_id)
    given: list[ModelMessage] = []

    async def answer(messages: list[ModelMessage], _: AgentInfo) -> Any:
        given.extend(messages)
        yield "Yes."

    agent = Agent(FunctionModel(stream_function=answer))
    await store.save(await agent.run("Sure?", conversation=await store.load(chat), event_stream_handler=watch))

    [answered] = [part for message in given for part in message.parts if isinstance(part, ToolReturnPart)]
    assert (answered.tool_name, answered.content, answered.tool_call_id) == ("weather", "Snow", "call_1")
    assert await seen(persistence, chat, user_id) == ["Be brief.", "Snow?", "I look.", "Snow", "Sure?", "Yes."]
    assert await store.load(chat) == await store.load(chat)  # times of other programs' messages are the same each time


async def test_a_save_conflicts_if_anybody_has_written_meanwhile(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    await begun(store, chat, "a", "b")
    mine, other = await store.load(chat), await store.load(chat)
    assert mine is not None
    assert other is not None
    mine.messages.append(ask("mine"))
    other.messages.append(ask("other"))

    await store.save(other)
    with pytest.raises(ConversationConflict):
        await store.save(mine)
    other.messages.append(say("late"))
    await persistence.messages.append(chat, {"role": "user", "content": "core"}, user_id=user_id)
    with pytest.raises(ConversationConflict):
        await store.save(other)
    with pytest.raises(ConversationConflict):
        await begun(store, chat, "new")

    again = await store.load(chat)
    assert again is not None
    again.messages.append(ask("again"))
    await store.save(again)
    await store.save(again)
    assert await told(store, chat) == ["a", "b", "other", "core", "again"]


async def test_a_thread_without_messages_can_be_begun_and_keeps_its_name_and_meta(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    await persistence.threads.create(thread_id=chat, name="Snow", meta={"app": 1}, user_id=user_id)

    conversation = await begun(store, chat, "a")
    conversation.messages.append(say("b"))
    await store.save(conversation)

    thread = await persistence.threads.require(chat, user_id=user_id)
    assert (thread.name, thread.meta["app"]) == ("Snow", 1)


async def test_a_branch_leaves_messages_that_others_no_longer_see_and_comes_back(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    first = await begun(store, chat, "a", "b", "c", "d")
    entries = await store.load_entries(chat) or []

    branched = await store.branch(chat, at=2, expected_revision=first.revision)
    await persistence.messages.append(chat, {"role": "user", "content": "core"}, user_id=user_id)
    assert await seen(persistence, chat, user_id) == await told(store, chat) == ["a", "b", "core"]
    with pytest.raises(ConversationConflict):
        await store.save(branched)
    branched = await store.load(chat) or branched
    branched.messages.append(say("e"))
    await store.save(branched)

    back = await store.branch(chat, from_entry=entries[3].id, expected_revision=branched.revision)
    assert texts(back.messages) == await seen(persistence, chat, user_id) == ["a", "b", "c", "d"]
    record = await store.read_record(chat)
    assert record is not None
    [tip] = record.branches
    assert texts([one.message for one in await store.read_history(tip)]) == ["a", "b", "core", "e"]
    assert await store.load_entries(chat) == entries
    assert await seen(persistence, chat, user_id, asides=True) == ["a", "b", "c", "d", "core", "e"]


async def test_a_rewritten_history_branches_where_it_differs(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    conversation = await begun(store, chat, "a", "b", "c", "d")

    conversation.messages[2:] = [ask("C")]
    await store.save(conversation)
    conversation.messages[:] = [ask("A")]
    await store.save(conversation)

    assert await seen(persistence, chat, user_id) == await told(store, chat) == ["A"]
    record = await store.read_record(chat)
    assert record is not None
    left = [texts([one.message for one in await store.read_history(tip)]) for tip in record.branches]
    assert left == [["a", "b", "c", "d"], ["a", "b", "C"]]


async def test_a_thread_that_was_cleared_is_continued_without_its_branches(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    conversation = await begun(store, chat, "a", "b", scope="ada")
    await store.branch(chat, at=1, expected_revision=conversation.revision)
    await persistence.messages.clear(chat, user_id=user_id)

    cleared = await store.load(chat, scope="ada")
    assert cleared is not None
    cleared.messages.append(ask("c"))
    await store.save(cleared)

    record = await store.read_record(chat)
    assert record is not None
    assert (record.branches, record.scope, await told(store, chat)) == ([], "ada", ["c"])


async def test_entries_that_say_nothing_are_left_and_come_back_as_well(store: Store, chat: str) -> None:
    thought = ModelResponse([ThinkingPart("hm", signature="x")])
    answers = ModelRequest([ToolReturnPart("f", {"n": n}, f"c{n}") for n in range(3)])
    conversation = Conversation(conversation_id=chat, messages=[ask("a"), thought, answers, thought])
    entries = await store.save(conversation)

    for from_entry in (entries[0], entries[3], entries[1], entries[2], entries[3]):
        conversation = await store.branch(chat, from_entry=from_entry.id, expected_revision=conversation.revision)

    assert await store.load_entries(chat) == entries


async def test_a_fork_is_a_thread_of_its_own(persistence: Persistence, store: Store, chat: str, user_id: str) -> None:
    first = await begun(store, chat, "a", "b", "c", scope="ada")
    entries = await store.load_entries(chat) or []

    fork = await store.fork(chat, at=2, new_conversation_id=f"{chat}-f", scope="eve", source_scope="ada")
    fork.messages.append(ask("f"))
    await store.save(fork)
    await store.branch(chat, at=1, expected_revision=first.revision)
    other = await store.fork(chat, from_entry=entries[2].id)  # of a history that was left

    assert [entry.id for entry in await store.load_entries(f"{chat}-f") or []][:2] == [entries[0].id, entries[1].id]
    assert await seen(persistence, f"{chat}-f", user_id) == ["a", "b", "f"]
    assert texts(other.messages) == await told(store, other.conversation_id) == ["a", "b", "c"]
    await store.delete(chat)
    assert await told(store, f"{chat}-f") == ["a", "b", "f"]
    assert await told(store, chat) == []
    with pytest.raises(UserError):
        await store.fork(chat)


async def test_what_was_edited_before_a_fork_does_not_come_back_in_it(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    await begun(store, chat, "a secret", "b\0c")
    page = await persistence.messages.page(chat, user_id=user_id)
    for message, role in zip(page, ("user", "assistant"), strict=True):
        new = {"role": role, "content": "gone"}
        await persistence.messages.update(chat, message.message_id, message=new, user_id=user_id)

    fork = await store.fork(chat)

    assert await told(store, chat) == texts(fork.messages) == await told(store, fork.conversation_id) == ["gone"] * 2


async def test_another_owner_sees_nothing(persistence: Persistence, store: Store, chat: str, new_ids: Any) -> None:
    conversation = await begun(store, chat, "a", "b")
    entries = await store.load_entries(chat) or []
    eve = Store(persistence=persistence, user_id=new_ids.user())

    assert (await eve.load(chat), await eve.load_entries(chat), await eve.list_conversations()) == (None, None, [])
    for entry_id in (entries[0].id, str(entries[0].id)):
        with pytest.raises(MessageNotFoundError):
            await eve.read_entry(entry_id)
    with pytest.raises(ConversationConflict):
        await begun(eve, chat, "mine")
    for save in (
        eve.save(conversation),
        eve.delete_record(chat, expected_revision=str(conversation.revision)),
        eve.write_record(
            ConversationRecord(conversation_id=f"{chat}-e", head_id=entries[1].id), expected_revision=None
        ),
    ):
        with pytest.raises(ConversationConflict):
            await save
    await eve.delete(chat)

    assert await told(store, chat) == ["a", "b"]
    assert await eve.read_record(f"{chat}-e") is None


async def test_conversations_are_listed_by_scope_the_last_saved_first(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    for name, scope in (("1", "ada"), ("2", "ada\0"), ("3", "ada")):
        await begun(store, f"{chat}-{name}", "a", scope=scope)
    await persistence.threads.create(thread_id=f"{chat}-4", user_id=user_id)
    first = await store.load(f"{chat}-1")
    await store.save(first or Conversation())

    listed = [record.conversation_id[-1] for record in await store.list_conversations()]
    of_ada = [record.conversation_id[-1] for record in await store.list_conversations(scope="ada")]

    assert (listed, of_ada) == (["1", "3", "2"], ["1", "3"])
    assert len(await store.list_conversations(limit=1)) == 1
    assert await store.load(f"{chat}-1", scope="eve") is None
    await store.delete(f"{chat}-1", scope="eve")
    assert await store.read_record(f"{chat}-1") == (await store.list_conversations())[0]


async def test_a_conversation_that_was_saved_meanwhile_is_not_deleted(store: Store, chat: str) -> None:
    await begun(store, chat, "a")

    with pytest.raises(ConversationConflict):
        await store.delete_record(chat, expected_revision="older")

    assert await told(store, chat) == ["a"]


async def test_a_record_may_point_to_an_entry_of_any_conversation_of_its_owner(store: Store, chat: str) -> None:
    await begun(store, chat, "a", "b")
    first, _ = await store.load_entries(chat) or []
    record = ConversationRecord(conversation_id=f"{chat}-2", head_id=str(first.id))

    await store.write_record(record, expected_revision=None)

    assert await store.load_entries(f"{chat}-2") == [first]


async def test_a_deleted_conversation_is_not_brought_back_by_a_late_run(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    conversation = await begun(store, chat, "a")
    await persistence.threads.delete(chat, user_id=user_id)
    conversation.messages.append(say("late"))

    with pytest.raises(ConversationConflict):
        await store.save(conversation)
    assert await persistence.threads.get(chat, user_id=user_id) is None
    await begun(store, chat, "new")
    with pytest.raises(ConversationConflict):
        await store.save(conversation)


async def test_the_last_message_deleted_elsewhere_ends_the_history_before_it(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    conversation = await begun(store, chat, "a", "b", "c")
    await persistence.messages.pop(chat, user_id=user_id)

    with pytest.raises(ConversationConflict):
        await store.save(conversation)
    loaded = await store.load(chat)
    assert loaded is not None
    loaded.messages.append(ask("d"))
    await store.save(loaded)

    assert await told(store, chat) == ["a", "b", "d"]


async def test_what_is_read_while_it_is_saved_is_what_was_saved(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    conversation = await begun(store, chat, "a")
    before = await persistence.threads.require(chat, user_id=user_id)
    conversation.messages.append(say("b"))
    await store.save(conversation)
    threads = iter([before, await persistence.threads.require(chat, user_id=user_id)])

    async def read_thread() -> Any:
        return next(threads)

    found = await kept(read_thread, partial(persistence.messages.page, chat, user_id=user_id))

    assert found is not None
    assert found.record["revision"] == conversation.revision


async def test_a_save_is_all_or_nothing(store: Store, chat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = await begun(store, chat, "a", "b")
    conversation.messages[1:] = [say("c")]

    with monkeypatch.context() as broken:
        broken.setattr(MessageRepository, "append_many", refuse)
        with pytest.raises(RuntimeError, match="in between"):
            await store.save(conversation)

    assert await told(store, chat) == ["a", "b"]
    await store.save(conversation)
    assert await told(store, chat) == ["a", "c"]


async def refuse(*_: Any) -> None:
    raise RuntimeError("the process dies in between")


async def test_a_cancelled_caller_waits_until_its_conversation_is_saved(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    conversation = await begun(store, chat, "a")
    conversation.messages.append(say("b"))
    async with persistence.begin(user_id=user_id) as other:
        await other.threads.lock(chat)
        saving = asyncio.create_task(store.save(conversation))
        await until_somebody_waits_for_a_lock(persistence)
        saving.cancel()
        assert not (await asyncio.wait([saving], timeout=0.05))[0]

    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await told(store, chat) == ["a", "b"]
    async with persistence.begin(user_id=user_id) as other:
        await other.threads.lock(chat)
        deleting = asyncio.create_task(store.delete(chat))
        await until_somebody_waits_for_a_lock(persistence)
        deleting.cancel()
        assert not (await asyncio.wait([deleting], timeout=0.05))[0]
    with pytest.raises(asyncio.CancelledError):
        await deleting
    assert await store.load(chat) is None


async def test_concurrent_writers_lose_and_double_nothing(persistence: Persistence, chat: str, user_id: str) -> None:
    async def write(writer: int) -> None:
        mine = Store(persistence=persistence, user_id=user_id)
        for number in range(4):
            while True:
                conversation = await mine.load(chat) or Conversation(conversation_id=chat)
                conversation.messages.append(ask(f"{writer}-{number}"))
                try:
                    await mine.save(conversation)
                except ConversationConflict:
                    continue
                break

    await asyncio.gather(*map(write, range(8)))

    said = await told(Store(persistence=persistence, user_id=user_id), chat)
    assert sorted(said) == sorted(f"{writer}-{number}" for writer in range(8) for number in range(4))
    for writer in range(8):
        assert [one for one in said if one.startswith(f"{writer}-")] == [f"{writer}-{n}" for n in range(4)]


async def test_a_store_is_used_from_other_event_loops(store: Store, chat: str) -> None:
    agent = Agent(TestModel())

    def run() -> None:
        result = agent.run_sync("Hello", conversation=Conversation(conversation_id=chat))
        asyncio.get_event_loop().close()  # the framework leaves the one that it made open, for its next call here
        asyncio.run(store.save(result))

    await asyncio.to_thread(run)

    assert len(await told(store, chat)) == 2


async def test_odd_messages_come_back_equal_and_what_does_not_is_refused(store: Store, chat: str) -> None:
    odd = [
        ask("\0 \ud83d \ue000"),
        ModelRequest([UserPromptPart(["\ud83d", BinaryContent(b"\xff\xfe", media_type="application/pdf")])]),
        ModelRequest([UserPromptPart(["", BinaryContent(b"\xff\xfe\xfd", media_type="application/pdf")])]),
        ModelResponse([ToolCallPart("f", '{"a": \ud83d', "c"), ToolCallPart("f", {"n": None, "big": 2**63}, "d")]),
        ModelRequest([ToolReturnPart("f", "7", "c"), ToolReturnPart("f", [{"n": None}], "d"), UserPromptPart("")]),
        ModelResponse([], metadata={"a": None, "n": 2**70}),
        ModelRequest([]),
    ]
    await store.save(Conversation(conversation_id=chat, messages=odd))  # type: ignore[arg-type]

    loaded = await store.load(chat)
    assert loaded is not None
    assert loaded.messages == odd
    message = ModelRequest([UserPromptPart("x")], metadata={"bad": object()})
    with pytest.raises(InvalidInputError):
        await store.save(Conversation(conversation_id=f"{chat}-bad", messages=[message]))
    entry = replace(ConversationEntry(parent_id=None, message=ask("a")), kind="mark")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="update"):
        await store.write_record(
            ConversationRecord(conversation_id=f"{chat}-bad", head_id=entry.id),
            new_entries=[entry],
            expected_revision=None,
        )
    assert await store.read_record(f"{chat}-bad") is None


@pytest.mark.parametrize("what", ["message", "thread"])
async def test_what_a_newer_version_wrote_is_named_and_not_passed_by(
    persistence: Persistence, store: Store, chat: str, what: str
) -> None:
    await begun(store, chat, "a")
    model = persistence.models.Message if what == "message" else persistence.models.Thread
    table = table_of(model)
    meta = {"record": {"revision": "r", "format_version": 2, "conversation_id": chat}}
    values: dict[str, Any] = {"meta": {"pydantic_ai": meta}}
    if what == "message":
        meta = {"whole": {"kind": "request", "parts": [{"part_kind": "of-2030"}]}}
        values = {"meta": {"pydantic_ai": meta}, "aside": "pydantic_ai"}
    async with persistence.engine.begin() as connection:
        await connection.execute(update(table).where(table.c.thread_id == chat).values(**values))

    with pytest.raises(CorruptRowError) as raised:
        await store.load(chat)
    assert raised.value.table == what


async def test_ids_that_are_texts_become_uuids_and_numbers_are_refused(open_store: Any, user_id: str) -> None:
    uuids, numbers = await open_store(("uuid", "string")), await open_store(("bigint", "string"))
    chat = f"chat of {user_id}"
    store = Store(persistence=uuids, user_id=user_id)
    answers = ModelRequest([ToolReturnPart("f", "1", "a"), ToolReturnPart("f", "2", "b")])
    entries = [
        ConversationEntry(id="e1", parent_id=None, message=ask("a")),
        ConversationEntry(id="e2", parent_id="e1", message=answers),
    ]
    record = ConversationRecord(conversation_id=chat, head_id="e2")
    await store.write_record(record, new_entries=entries, expected_revision=None)

    assert await store.load_entries(chat) == entries
    assert await store.read_record(chat) == record
    assert await store.read_entry("e2") == entries[1]
    assert [one.conversation_id for one in await store.list_conversations()] == [chat]
    fork = await store.fork(chat, at=1)
    assert await store.load_entries(fork.conversation_id) == entries[:1]
    with pytest.raises(InvalidInputError, match="PERSISTENCE_ID_TYPE"):
        Store(persistence=numbers, user_id=user_id)


async def test_the_id_of_an_entry_stays_a_text_that_copies_keep(store: Store, chat: str) -> None:
    await begun(store, chat, "a")
    record = await store.read_record(chat)
    assert record is not None
    assert record.head_id is not None

    for head in (copy.deepcopy(record).head_id, str(record.head_id), record.head_id):
        [entry] = await store.read_history(head)
        assert (entry.id, texts([entry.message])) == (record.head_id, ["a"])
    assert await store.read_history(None) == []
    for unknown in ("nothing", type(record.head_id)("nothing", chat)):  # type: ignore[call-arg, arg-type]
        with pytest.raises(LookupError):
            await store.read_history(unknown)


async def test_a_long_conversation_is_read_in_pages(store: Store, chat: str) -> None:
    answers = ModelRequest([ToolReturnPart("f", str(n), f"c{n}") for n in range(3)])
    messages: list[ModelMessage] = [ask("a"), *[answers] * 400]
    await store.save(Conversation(conversation_id=chat, messages=messages))

    loaded = await store.load(chat)
    assert loaded is not None
    assert loaded.messages == messages
    for limit in (1, 2, 350):
        window = await store.load(chat, limit=limit)
        assert window is not None
        assert window.messages == messages[-limit:]
    window.messages.append(say("z"))
    await store.save(window)
    assert len(await store.load_entries(chat) or []) == 402


async def test_entries_that_are_no_chain_are_refused(store: Store, chat: str) -> None:
    entries = [ConversationEntry(id=f"e{n}", parent_id=None, message=ask("a")) for n in range(2)]
    for record, new in (
        (ConversationRecord(conversation_id=chat, head_id="e1"), entries),
        (ConversationRecord(conversation_id=chat, head_id="e1"), entries[:1]),
    ):
        with pytest.raises(InvalidInputError, match="chain"):
            await store.write_record(record, new_entries=new, expected_revision=None)
    with pytest.raises(ConversationConflict):
        await store.write_record(ConversationRecord(conversation_id=chat, head_id="e9"), expected_revision=None)


WRITER = """
import asyncio, sys
from pydantic_ai import ModelRequest, UserPromptPart
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from agent_persistence import Persistence
from agent_persistence.integrations.pydantic_ai import PersistenceConversationStore

async def main(chat, owner, writer):
    async with Persistence.from_env() as persistence:
        store = PersistenceConversationStore(persistence=persistence, user_id=owner)
        for number in range(3):
            while True:
                conversation = await store.load(chat) or Conversation(conversation_id=chat)
                conversation.messages += [ModelRequest([UserPromptPart(f"{writer}-{number}{end}")]) for end in "ab"]
                try:
                    await store.save(conversation)
                    break
                except ConversationConflict:
                    pass

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_eight_processes_that_save_one_conversation_lose_and_double_nothing(
    persistence: Persistence, store: Store, chat: str, user_id: str
) -> None:
    url = persistence.settings.database_url.get_secret_value()
    environment = {**os.environ, "PERSISTENCE_DATABASE_URL": url}
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, chat, user_id, str(writer), env=environment)
        for writer in range(8)
    ]

    assert [await writer.wait() for writer in writers] == [0] * 8

    said = await told(store, chat)
    turns = [f"{writer}-{number}" for writer in range(8) for number in range(3)]
    assert sorted(said) == sorted(turn + end for turn in turns for end in "ab")
    for writer in range(8):
        mine = [place for place, one in enumerate(said) if one.startswith(f"{writer}-")]
        assert [said[place] for place in mine] == sorted(said[place] for place in mine)
        assert [later - first for first, later in zip(mine[::2], mine[1::2], strict=True)] == [1] * 3
    assert await seen(persistence, chat, user_id, asides=True) == said
