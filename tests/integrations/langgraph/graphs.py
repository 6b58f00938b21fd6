"""Graphs for the tests, and what they hold."""

from __future__ import annotations

import random
import string
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from typing_extensions import TypedDict


class Conversation(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def letters(count: int, *, seed: int) -> str:
    """A text that compresses as badly as letters do."""
    return "".join(random.Random(seed).choices(string.ascii_letters, k=count))


class ConversationOfChanges(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=100)]


def talker(steps: int, *, size: int = 1024, schema: type[Any] = Conversation) -> StateGraph[Any, Any, Any, Any]:
    """A graph that says something for so many steps."""

    async def say(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(letters(size, seed=len(state["messages"])))]}

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(schema)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    graph.add_conditional_edges("say", lambda state: "say" if len(state["messages"]) <= steps else END)
    return graph


HELLO: Any = {"messages": [HumanMessage("hello", id="hello")]}
