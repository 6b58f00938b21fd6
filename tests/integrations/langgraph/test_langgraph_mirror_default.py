"""What a graph says is seen as messages without being asked for, and what others say can be given to a graph."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
from checkpoints import config_of, put
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from typing_extensions import TypedDict

from agent_persistence import Persistence
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver, branch_of, messages_of
from graphs import Conversation


class Reversing:
    """A cipher for the tests."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "reversed", plaintext[::-1]

    def decrypt(self, _: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


def answering(*answers: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph that says something."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Conversation)
    graph.add_node("answer", lambda _: {"messages": [one.model_copy() for one in answers]})  # add_messages gives ids
    graph.add_edge(START, "answer")
    return graph


async def said(persistence: Persistence[str, str], config: Any, user_id: str, **options: Any) -> list[Any]:
    page = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id, **options)
    return [one.content for one in page]


async def test_what_a_graph_says_is_a_message_by_default(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    graph = answering(AIMessage("Hello.")).compile(checkpointer=saver)
    await graph.ainvoke({"messages": [HumanMessage("Hi")]}, config)

    assert await said(persistence, config, user_id) == ["Hi", "Hello."]


async def test_a_graph_says_nothing_to_others_if_told_so(
    persistence: Persistence[str, str], config: Any, user_id: str
) -> None:
    graph = answering(AIMessage("Hello.")).compile(
        checkpointer=PersistenceSaver(persistence, user_id=user_id, mirror=None)
    )
    await graph.ainvoke({"messages": [HumanMessage("Hi")]}, config)

    assert await said(persistence, config, user_id) == []


async def test_what_is_encrypted_is_not_written_as_text_by_default(
    persistence: Persistence[str, str], config: Any, user_id: str
) -> None:
    saver = PersistenceSaver(persistence, user_id=user_id, serde=EncryptedSerializer(Reversing()))

    await put(saver, config, {"messages": [HumanMessage("Hi")]})

    assert await said(persistence, config, user_id) == []


async def test_graphs_with_numbers_as_ids_work_by_default(open_store: Any) -> None:
    store = await open_store(("int", "string"))
    thread = await store.threads.create(user_id="u-1")
    saver, config = PersistenceSaver(store, user_id="u-1"), config_of(str(thread.thread_id))

    await put(saver, config, {"messages": [HumanMessage("Hi")]})

    assert await saver.aget_tuple(config) is not None
    assert len(await store.messages.page(thread.thread_id, user_id="u-1")) == 0


async def test_a_channel_of_other_things_stops_no_graph_and_is_named_once(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str, caplog: Any
) -> None:
    others: list[Any] = [7, None, {"no": "message"}, ["a", [None]], {"role": "user", "content": {}}]
    with caplog.at_level(logging.WARNING, "agent_persistence"):
        await put(saver, config, {"messages": others})
        await put(saver, config, {"messages": [*others, *others]}, versions={"messages": 2})

    assert await said(persistence, config, user_id) == []
    assert [record.event_name for record in caplog.records] == ["graph.not_mirrored"]


async def test_a_channel_that_the_graph_lacks_is_named_once(
    persistence: Persistence[str, str], config: Any, user_id: str, caplog: Any
) -> None:
    saver = PersistenceSaver(persistence, user_id=user_id, mirror="chat")
    graph = answering(AIMessage("Hello.")).compile(checkpointer=saver)
    with caplog.at_level(logging.WARNING, "agent_persistence"):
        for _ in range(2):
            await graph.ainvoke({"messages": [HumanMessage("Hi")]}, config)

    [warning] = caplog.records
    assert (warning.event_name, warning.channel) == ("graph.no_such_channel", "chat")
    assert warning.getMessage().endswith("which has messages")


async def test_a_graph_without_messages_is_silent_by_default(
    saver: PersistenceSaver, config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Count(TypedDict):
        n: int

    graph = StateGraph(Count).add_node("add", lambda state: {"n": state["n"] + 1}).add_edge(START, "add")
    with caplog.at_level(logging.WARNING, "agent_persistence"):
        await graph.compile(checkpointer=saver).ainvoke({"n": 1}, config)

    assert caplog.records == []


SUMMARY = HumanMessage("Before: ...", id="s", additional_kwargs={"lc_source": "summarization"})


@pytest.mark.parametrize("summary", [SUMMARY, SystemMessage("Before: ...", id="s")], ids=["marked", "at the beginning"])
async def test_a_summary_that_replaces_the_beginning_is_an_aside_and_what_was_said_stays(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str, summary: Any
) -> None:
    kept = AIMessage("two", id="2")
    graph = answering(RemoveMessage(REMOVE_ALL_MESSAGES), summary, kept, AIMessage("three", id="3"))
    app = graph.compile(checkpointer=saver)
    await app.aupdate_state(config, {"messages": [HumanMessage("one", id="1"), kept]})
    await app.ainvoke({"messages": []}, config)

    assert [message.id for message in (await app.aget_state(config)).values["messages"]] == ["s", "2", "3"]
    assert await said(persistence, config, user_id) == ["one", "two", "three"]
    assert await said(persistence, config, user_id, asides="langgraph") == ["one", "two", "Before: ...", "three"]


async def test_a_branch_goes_on_after_a_summary(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    graph = answering(RemoveMessage(REMOVE_ALL_MESSAGES), SUMMARY, AIMessage("two", id="2")).compile(checkpointer=saver)
    await graph.ainvoke({"messages": [HumanMessage("one", id="1")]}, config)

    page = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id)

    assert [one.record.message_id for one in branch_of(page)] == ["1", "2"]


async def test_messages_of_others_continue_in_a_graph_and_stay_as_others_wrote_them(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    thread_id = config["configurable"]["thread_id"]
    await persistence.threads.create(thread_id=thread_id, user_id=user_id)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}, "index": 0}
    others: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi", "name": "li", "mine": 1},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "why"},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}]},
    ]
    await persistence.messages.append_many(thread_id, others, user_id=user_id)
    before = await persistence.messages.page(thread_id, user_id=user_id)
    graph = answering(AIMessage("One.")).compile(checkpointer=saver)

    await graph.ainvoke({"messages": messages_of(before)}, config)
    after = await persistence.messages.page(thread_id, user_id=user_id)
    await graph.ainvoke({"messages": [*messages_of(after), HumanMessage("And two?")]}, config)

    assert after.items[:3] == before.items
    texts = [message.text for message in (await graph.aget_state(config)).values["messages"]]
    assert texts == ["Hi", "", "1", "One.", "And two?", "One."]
    assert (await persistence.messages.page(thread_id, user_id=user_id)).items[:4] == after.items


async def test_messages_of_a_graph_come_back_equal(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    used: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "output_token_details": {"reasoning": 1}}
    thinking = {"type": "thinking", "thinking": "why", "signature": "s"}
    given = [
        SystemMessage("Be brief.", id="1"),
        HumanMessage(["a", {"type": "image", "base64": "aGk=", "mime_type": "image/png"}], id="2"),
        AIMessage([thinking, {"type": "text", "text": "b\0"}], id="3", usage_metadata=used, response_metadata={"m": 1}),
        AIMessage("", id="4"),
        AIMessage("without an id that fits", id="x" * 300),
    ]
    await put(saver, config, {"messages": given})

    page = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id, asides="langgraph")

    assert messages_of(page) == given


async def test_a_message_that_a_graph_changes_is_read_as_it_is_now(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    first = await put(saver, config, {"messages": [AIMessage("a", id="1", response_metadata={"m": 1})]})
    new = AIMessage("b", id="1", response_metadata={"m": 2})
    await put(saver, first, {"messages": [new]}, versions={"messages": 2})

    page = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id)

    assert messages_of(page) == [new]
    assert page.items[0].meta["checkpoint_id"] == first["configurable"]["checkpoint_id"]


async def test_a_thread_is_mirrored_in_a_database_with_uuids(open_store: Any) -> None:
    store = await open_store(("uuid", "string"))
    config = config_of(str(uuid7()))

    await put(PersistenceSaver(store, user_id="u-1"), config, {"messages": [HumanMessage("Hi", id="run-1")]})

    page = await store.messages.page(uuid.UUID(config["configurable"]["thread_id"]), user_id="u-1")
    assert messages_of(page) == [HumanMessage("Hi", id="run-1")]
