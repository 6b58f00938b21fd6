"""An agent that remembers a user across threads, by ``create_agent`` and a store; it needs no model and no key.

pip install 'agent-persistence[embedded,langgraph]' langchain
PERSISTENCE_DATABASE_URL=embedded python examples/langgraph_memory.py   # or the address of a PostgreSQL
"""

import asyncio
from typing import Any

from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolCall

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.integrations.langgraph import PersistenceSaver, PersistenceStore


class Scripted(GenericFakeChatModel):
    """A model that says what it was given to say; put yours here."""

    def bind_tools(self, *_: Any, **__: Any) -> "Scripted":
        """Ignore the tools."""
        return self


@tool
async def remember(fact: str, runtime: ToolRuntime) -> str:
    """Keep a fact about the user."""
    assert runtime.store is not None  # noqa: S101 - the agent has one
    await runtime.store.aput(("facts",), fact, {"text": fact})
    return "I shall remember."


@tool
async def recall(runtime: ToolRuntime) -> str:
    """Return all facts about the user."""
    assert runtime.store is not None  # noqa: S101 - the agent has one
    return ", ".join([item.value["text"] for item in await runtime.store.asearch(("facts",))])


async def main() -> None:
    """Tell the agent something in one thread, and ask for it in another."""
    likes = ToolCall(name="remember", args={"fact": "likes tea"}, id="c1")
    asks = ToolCall(name="recall", args={}, id="c2")
    turns: list[Any] = [AIMessage("", tool_calls=[likes]), "Good.", AIMessage("", tool_calls=[asks]), "Tea."]
    model = Scripted(messages=iter(turns))
    async with Persistence(PersistenceSettings(auto_migrate=True)) as persistence:
        saver, store = PersistenceSaver(persistence, user_id="u-42"), PersistenceStore(persistence, user_id="u-42")
        agent: Any = create_agent(model, [remember, recall], checkpointer=saver, store=store)
        for thread_id, text in (("t-1", "I like tea"), ("t-2", "What do I like?")):
            result = await agent.ainvoke({"messages": text}, {"configurable": {"thread_id": thread_id}})
            print([message.text for message in result["messages"] if message.text])


if __name__ == "__main__":
    asyncio.run(main())
