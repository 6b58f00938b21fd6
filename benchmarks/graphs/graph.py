"""Two small graphs: a message in, a message out; and the same with a step of tools in between."""

from __future__ import annotations

import random
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from benchmarks.samples import make_text

_BYTES = 400
_RNG = random.Random(1)
_TEXTS = [make_text(_RNG, _BYTES) for _ in range(200)]


class _State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def text_at(place: int) -> str:
    """Return what is said at that place of a conversation."""
    return _TEXTS[place % len(_TEXTS)]


def answering(saver: Any) -> Any:
    """Compile a graph of one node."""

    async def answer(state: _State) -> dict[str, Any]:
        return {"messages": [AIMessage(text_at(len(state["messages"])))]}

    builder = StateGraph(_State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=saver)


def calling_tools(saver: Any) -> Any:
    """Compile a graph that calls two tools, and then answers."""

    async def think(state: _State) -> dict[str, Any]:
        place = len(state["messages"])
        if state["messages"][-1].type == "tool":
            return {"messages": [AIMessage(text_at(place))]}
        calls = [{"name": "look_up", "args": {"id": number}, "id": f"call_{place}_{number}"} for number in range(2)]
        return {"messages": [AIMessage(text_at(place), tool_calls=calls)]}

    async def look_up(state: _State) -> dict[str, Any]:
        asked: Any = state["messages"][-1]
        first = len(state["messages"])
        said = enumerate(asked.tool_calls, first)
        return {"messages": [ToolMessage(text_at(place), tool_call_id=call["id"]) for place, call in said]}

    def choose(state: _State) -> str:
        return "look_up" if getattr(state["messages"][-1], "tool_calls", None) else END

    builder = StateGraph(_State)
    builder.add_node("think", think)
    builder.add_node("look_up", look_up)
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", choose, ["look_up", END])
    builder.add_edge("look_up", "think")
    return builder.compile(checkpointer=saver)
