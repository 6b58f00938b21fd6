"""A graph's messages in the table ``messages``."""

from __future__ import annotations

import logging
import uuid
from typing import Annotated, Any, Literal

import pytest
from checkpoints import config_of, put
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from agent_persistence import InvalidInputError, Persistence
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver

CALL = {"name": "weather", "args": {"city": "Rome"}, "id": "call-1", "type": "tool_call"}


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


@pytest.fixture
def mirroring(persistence: Persistence[str, str], user_id: str) -> PersistenceSaver:
    return PersistenceSaver(persistence, user_id=user_id, mirror="messages")


async def history(persistence: Persistence[str, str], config: Any, user_id: str) -> list[Any]:
    page = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id)
    return [(one.message_id, one.message) for one in page]


async def test_messages_are_mirrored_as_they_are_said(
    persistence: Persistence[str, str], mirroring: PersistenceSaver, config: Any, user_id: str
) -> None:
    used = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    graph = StateGraph(State)
    graph.add_node("ask", lambda _: {"messages": [AIMessage("", id="a-1", tool_calls=[CALL], usage_metadata=used)]})
    graph.add_node("tool", lambda _: {"messages": [ToolMessage("sunny", tool_call_id="call-1", id="t-1")]})
    graph.add_node("say", lambda _: {"messages": [AIMessage("It is sunny.", id="a-2")]})
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "tool")
    graph.add_edge("tool", "say")
    graph.add_edge("say", END)

    said = [SystemMessage("Be brief.", id="s-1"), HumanMessage("Rome?", id="h-1")]
    await graph.compile(checkpointer=mirroring).ainvoke({"messages": said}, config)

    messages = await history(persistence, config, user_id)
    assert [(message_id, message["role"]) for message_id, message in messages] == [
        ("s-1", "system"),
        ("h-1", "user"),
        ("a-1", "assistant"),
        ("t-1", "tool"),
        ("a-2", "assistant"),
    ]
    calls = messages[2][1]["tool_calls"]
    assert calls == [
        {"type": "function", "id": "call-1", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    ]
    assert messages[3][1] == {"role": "tool", "tool_call_id": "call-1", "content": "sunny"}
    found = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id, search="SUNNY")
    assert [one.message_id for one in found] == ["t-1", "a-2"]
    counted = await persistence.messages.require(config["configurable"]["thread_id"], "a-1", user_id=user_id)
    assert (counted.total_tokens, counted.usages) == (7, used)


async def test_a_message_is_mirrored_once_changed_where_it_is_and_never_taken_away(
    persistence: Persistence[str, str], mirroring: PersistenceSaver, config: Any, user_id: str
) -> None:
    one, two = HumanMessage("one", id="m-1"), HumanMessage("two", id="m-2")
    first = await put(mirroring, config, {"messages": [one, two]})
    second = await put(mirroring, first, {"messages": [HumanMessage("uno", id="m-1"), two]}, versions={"messages": 2})
    await put(mirroring, second, {"messages": [two, HumanMessage("three", id="m-3")]}, versions={"messages": 3})
    await put(mirroring, first, {"messages": [one, two, RemoveMessage("m-9")]}, versions={"messages": 4})

    assert [(key, message["content"]) for key, message in await history(persistence, config, user_id)] == [
        ("m-1", "uno"),
        ("m-2", "two"),
        ("m-3", "three"),
    ]


class Changes(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=5)]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_messages_that_are_stored_as_their_changes_are_mirrored(
    persistence: Persistence[str, str],
    mirroring: PersistenceSaver,
    config: Any,
    user_id: str,
    durability: Literal["sync", "async", "exit"],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Some are written by tasks, some come with a command or from outside, and some checkpoints hold them all."""
    builder = StateGraph(Changes)
    builder.add_node("ask", lambda state: {"messages": [AIMessage(f"question {len(state['messages'])}")]})
    builder.add_node("answer", lambda _: {"messages": [{"role": "user", "content": interrupt("what?")}]})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "answer")
    builder.add_edge("answer", END)
    graph = builder.compile(checkpointer=mirroring)

    for _ in range(3):
        await graph.ainvoke({"messages": [HumanMessage("hello")]}, config, durability=durability)
        answer: Command[Any] = Command(resume="this", update={"messages": [("user", "wait")]})
        await graph.ainvoke(answer, config, durability=durability)
        await graph.aupdate_state(config, {"messages": HumanMessage("by hand")})

    said = (await graph.aget_state(config)).values["messages"]
    assert len(said) == 15
    assert [
        (message_id, message["content"]) for message_id, message in await history(persistence, config, user_id)
    ] == [(message.id, message.content) for message in said]
    assert "not mirrored" not in caplog.text


async def test_what_no_message_can_hold_does_not_stop_a_graph(
    persistence: Persistence[str, str],
    mirroring: PersistenceSaver,
    config: Any,
    user_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    messages = [HumanMessage("nul \0", id="x" * 300), {"role": "user", "content": "plain"}, ("ai", "pair")]
    with caplog.at_level(logging.WARNING, "agent_persistence"):
        await put(mirroring, config, {"messages": messages})
        await put(mirroring, config, {"messages": [{"no": "message"}]}, versions={"messages": 2})

    found = await history(persistence, config, user_id)
    assert [message["content"] for _, message in found] == ["nul \ufffd", "plain", "pair"]
    assert "not mirrored" in caplog.text


async def test_only_the_root_graph_is_mirrored(
    persistence: Persistence[str, str], mirroring: PersistenceSaver, config: Any, user_id: str
) -> None:
    thread_id = config["configurable"]["thread_id"]
    inner = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "inner:1"}}

    await put(mirroring, inner, {"messages": [HumanMessage("inside", id="m-1")]})

    assert await history(persistence, config, user_id) == []


async def test_ids_that_are_uuids_are_derived_from_the_messages(open_store: Any) -> None:
    store = await open_store(("uuid", "string"))
    own = uuid7()
    saver = PersistenceSaver(store, user_id="u-1", mirror="messages")
    config = config_of(str(uuid7()))

    for _ in range(2):
        await put(saver, config, {"messages": [HumanMessage("a", id="run-1"), HumanMessage("b", id=str(own))]})

    page = await store.messages.page(uuid.UUID(config["configurable"]["thread_id"]), user_id="u-1")
    assert len(page) == 2
    assert page.items[1].message_id == own


async def test_numbers_are_no_ids_for_a_graphs_messages(open_store: Any) -> None:
    with pytest.raises(InvalidInputError, match="mirror"):
        PersistenceSaver(await open_store(("int", "string")), user_id="u-1", mirror="messages")
