"""The agent, which knows nothing of HTTP and of the database."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from typing_extensions import TypedDict

from .model import FakeModel

model = FakeModel()


class State(TypedDict):
    """The state of the graph."""

    messages: Annotated[list[AnyMessage], add_messages]


async def answer(state: State) -> dict[str, Any]:
    """Ask the model; LangGraph streams its tokens although the node waits for the whole answer."""
    return {"messages": [await model.ainvoke(state["messages"])]}


async def refund(state: State) -> dict[str, Any]:
    """Ask a person, and act on the decision; the run pauses meanwhile, for days if need be."""
    allowed = interrupt({"question": f"May I refund for {state['messages'][-1].text!r}?"})
    return {"messages": [AIMessage("It is refunded." if allowed else "I am sorry, no.")]}


def choose(state: State) -> str:
    """Return the node that answers the last message."""
    return "refund" if "refund" in state["messages"][-1].text.lower() else "answer"


builder = StateGraph(State)
builder.add_node("answer", answer)
builder.add_node("refund", refund)
builder.add_conditional_edges(START, choose, ["answer", "refund"])

graph = builder.compile()
"""Without a checkpointer: for ``langgraph dev``, which adds its own."""
