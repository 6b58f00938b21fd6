"""A PyAgenity graph whose conversation survives the process: run it twice with the same thread id.

    pip install 'agent-persistence[agentflow,cli]'
    agent-persistence upgrade
    python examples/pyagenity_chat.py thread-1 "Where is my order?"

Set ``PERSISTENCE_DATABASE_URL`` and ``PERSISTENCE_REDIS_URL`` to the addresses of the servers.
"""

import asyncio
import sys

from pyagenity.graph import StateGraph
from pyagenity.state import AgentState, Message
from pyagenity.utils.constants import END

from agent_persistence import Persistence
from agent_persistence.integrations.pyagenity import PersistenceCheckpointer


async def answer(state: AgentState) -> list[Message]:
    """Answer with the length of the conversation; a placeholder for a model."""
    return [Message.text_message(f"I have read {len(state.context)} messages.", role="assistant")]


async def main(thread_id: str, question: str) -> None:
    """Ask, and print the conversation as any other program reads it from ``messages``."""
    graph = StateGraph(AgentState())
    graph.add_node("answer", answer)
    graph.set_entry_point("answer")
    graph.add_edge("answer", END)

    async with Persistence.from_env() as persistence:
        app = graph.compile(checkpointer=PersistenceCheckpointer(persistence=persistence))
        config = {"thread_id": thread_id, "user_id": "u-42"}
        await app.ainvoke({"messages": [Message.text_message(question)]}, config=config)
        await app.aclose()

        for message in await persistence.messages.page(thread_id, user_id="u-42"):
            print(f"{message.role}: {message.text}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
