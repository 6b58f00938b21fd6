"""A graph's messages in the table ``messages``."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import logging
import math
import operator
import uuid
from typing import Annotated, Any, Literal

import pytest
from checkpoints import config_of, put
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from sqlalchemy import text
from typing_extensions import TypedDict

from agent_persistence import InvalidInputError, Persistence
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver

CALL = {"name": "weather", "args": {"city": "Rome"}, "id": "call-1", "type": "tool_call"}


def tool_message(content: Any, **fields: Any) -> ToolMessage:
    return ToolMessage(content, tool_call_id="c-1", **fields)


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


TEXT = {"type": "text", "text": "look"}
BLOCKS: list[Any] = [
    {"cachePoint": {"type": "default"}},
    {"guardContent": {"text": {"text": "x"}}},
    {"type": "video", "url": "https://a.example/v.mp4", "mime_type": "video/mp4"},
    {"type": "file", "url": "https://a.example/f.pdf", "mime_type": "application/pdf"},
    {"type": "file", "file_id": "f-1"},
    {"type": "image", "file_id": "i-1"},
    {"type": "image", "source_type": "id", "id": "i-1"},
    {"type": "text-plain", "text": "plain", "mime_type": "text/plain"},
    {"type": "media", "mime_type": "image/png", "data": "aGk="},
    {"type": "image_url"},
    {"type": None},
    {"type": "input_audio"},
    {"type": "document", "source": {"type": "url", "url": "https://a.example/f.pdf"}},
]


@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, SystemMessage, tool_message], ids=lambda kind: kind.__name__)
async def test_a_block_that_has_no_other_shape_stays_as_it_is_beside_the_text(
    persistence: Persistence[str, str],
    mirroring: PersistenceSaver,
    config: Any,
    user_id: str,
    kind: Any,
) -> None:
    graph = StateGraph(State)
    said = [kind([TEXT, block, TEXT], id=f"m-{number}") for number, block in enumerate(BLOCKS)]
    graph.add_node("say", lambda _: {"messages": said})
    graph.add_edge(START, "say")

    await graph.compile(checkpointer=mirroring).ainvoke({"messages": [HumanMessage("hello", id="h-1")]}, config)

    found = dict(await history(persistence, config, user_id))
    assert len(found) == 1 + len(BLOCKS)
    for number, block in enumerate(BLOCKS):
        first, between, last = found[f"m-{number}"]["content"]
        assert (first, last) == (TEXT, TEXT)
        as_converted = between == {"type": "file", "file": {"file_id": "f-1", "filename": "LC_AUTOGENERATED"}}
        assert between == block or as_converted
    searched = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id, search="look")
    assert len(searched.items) == len(BLOCKS)


class Color(enum.StrEnum):
    RED = "red"


class Part(BaseModel):
    note: str = "n"


async def test_any_message_that_a_graph_can_hold_is_mirrored_with_its_text(
    persistence: Persistence[str, str],
    mirroring: PersistenceSaver,
    config: Any,
    user_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad_call: Any = {"name": "f", "args": '{"a":', "id": "c-1", "error": "cut", "type": "invalid_tool_call"}
    usages: list[Any] = [
        {"input_tokens": -5, "output_tokens": 4, "total_tokens": -1},
        {"input_tokens": 0, "output_tokens": 0, "total_tokens": 2**31},
        {"input_tokens": 0, "output_tokens": 0, "total_tokens": 2**63},
        {"input_tokens": 0, "output_tokens": 0, "total_tokens": 1, "input_token_details": {"audio": 2**64 - 1}},
    ]
    said: list[Any] = [
        ChatMessage("text", role="critic"),
        ChatMessage("text", role=""),
        *[AIMessage("text", usage_metadata=used) for used in usages],
        AIMessage("text", invalid_tool_calls=[bad_call]),
        AIMessage("text", tool_calls=[{**CALL, "args": {"at": dt.date(2026, 1, 1), "raw": b"x"}}]),
        AIMessage(
            [
                TEXT | {"text": "text"},
                {"type": "odd", "raw": b"x", "color": Color.RED, "big": 2**64 - 1, "nan": math.nan},
            ]
        ),
        AIMessage([TEXT | {"text": "text"}, {"type": "odd", "part": Part(), "set": {1}, "pair": (1, 2), 7: "seven"}]),
        HumanMessage("text", additional_kwargs={"odd": b"x"}),
        HumanMessage(["text", {"type": "deep", "in": functools.reduce(lambda inner, _: [inner], range(150), "end")}]),
        HumanMessage([TEXT | {"text": "text"}, {"type": "large", "data": "x" * 17_000_000}]),
        FunctionMessage("text", name="f"),
        ToolMessage("text", tool_call_id="c" * 300, status="error", artifact=b"x"),
        {"role": "critic", "content": "text"},
        {"type": "critic", "content": [{"type": "text", "text": "text"}]},
        ("critic", "text"),
        "text",
    ]

    with caplog.at_level(logging.WARNING, "agent_persistence"):
        await put(mirroring, config, {"messages": said})

    found = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id)
    assert [one.text for one in found] == ["text"] * len(said)
    roles = [one.message["role"] for one in found]
    assert (roles[0], found.items[0].message["name"], roles[14]) == ("user", "critic", "tool")
    assert [one.total_tokens for one in found][2:6] == [0, 2**31 - 1, 2**31 - 1, 1]
    assert found.items[6].message["invalid_tool_calls"] == [bad_call]
    assert found.items[14].message["status"] == "error"
    [warning] = [record.getMessage() for record in caplog.records]  # the one that is too large
    assert "not mirrored whole" in warning


async def test_reasoning_is_mirrored(
    persistence: Persistence[str, str], mirroring: PersistenceSaver, config: Any, user_id: str
) -> None:
    said = [
        AIMessage("a", id="1", additional_kwargs={"reasoning_content": "why"}),
        AIMessage([{"type": "thinking", "thinking": "why", "signature": "s"}, TEXT], id="2"),
        AIMessage([{"type": "reasoning", "reasoning": "why"}, TEXT, {"type": "video", "url": "u"}], id="3"),
    ]
    await put(mirroring, config, {"messages": said})

    found = await history(persistence, config, user_id)
    assert [message["reasoning_content"] for _, message in found] == ["why"] * 3


@pytest.mark.parametrize("as_dicts", [True, False])
async def test_equal_messages_without_ids_are_mirrored_as_often_as_they_are_said(
    persistence: Persistence[str, str], mirroring: PersistenceSaver, config: Any, user_id: str, as_dicts: bool
) -> None:
    class Log(TypedDict):
        messages: Annotated[list[Any], operator.add]

    yes: Any = {"role": "user", "content": "yes"} if as_dicts else HumanMessage("yes")
    graph = StateGraph(Log)
    graph.add_node("answer", lambda _: {"messages": [{"role": "assistant", "content": "sure?"}]})
    graph.add_edge(START, "answer")
    app = graph.compile(checkpointer=mirroring)
    for _ in range(3):
        await app.ainvoke({"messages": [yes]}, config)
    await app.ainvoke({"messages": [yes, yes]}, config, durability="exit")
    await app.aupdate_state(config, {"messages": [yes]})

    said = [message["content"] for _, message in await history(persistence, config, user_id)]
    assert said == ["yes", "sure?"] * 3 + ["yes", "yes", "sure?", "yes"]


async def test_of_two_messages_with_one_id_the_last_one_is_mirrored(
    persistence: Persistence[str, str], mirroring: PersistenceSaver, config: Any, user_id: str
) -> None:
    await put(
        mirroring, config, {"messages": [HumanMessage("a", id="1"), AIMessage("b", id="2"), AIMessage("c", id="1")]}
    )

    found = await history(persistence, config, user_id)
    assert [(key, message["content"]) for key, message in found] == [("1", "c"), ("2", "b")]


async def test_a_message_whose_row_cannot_be_read_stops_no_graph(
    persistence: Persistence[str, str],
    mirroring: PersistenceSaver,
    config: Any,
    user_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = HumanMessage("one", id="1"), HumanMessage("two", id="2")
    stored = await put(mirroring, config, {"messages": [one]})
    async with persistence.engine.begin() as connection:
        statement = text("UPDATE messages SET extra = '[1e5000]' WHERE thread_id = :thread_id")
        await connection.execute(statement, {"thread_id": config["configurable"]["thread_id"]})

    with caplog.at_level(logging.WARNING, "agent_persistence"):
        await put(mirroring, stored, {"messages": [HumanMessage("uno", id="1"), two]}, versions={"messages": 2})

    page = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id)
    assert [message.text for message in page] == ["two"]
    assert "'1'" in caplog.text


async def test_the_branches_of_a_conversation_can_be_told_apart(
    persistence: Persistence[str, str], mirroring: PersistenceSaver, config: Any, user_id: str
) -> None:
    asked = await put(mirroring, config, {"messages": [HumanMessage("which?", id="q")]})
    for answer in ("a-1", "a-2"):
        messages = [HumanMessage("which?", id="q"), AIMessage(answer, id=answer), HumanMessage("ok", id=f"ok-{answer}")]
        await put(mirroring, asked, {"messages": messages}, versions={"messages": 2})

    page = await persistence.messages.page(config["configurable"]["thread_id"], user_id=user_id)
    assert [(one.message_id, one.meta.get("follows")) for one in page] == [
        ("q", None),
        ("a-1", "q"),
        ("ok-a-1", "a-1"),
        ("a-2", "q"),
        ("ok-a-2", "a-2"),
    ]


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
