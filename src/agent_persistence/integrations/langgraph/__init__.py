"""LangGraph's checkpointer and store in a ``Persistence``: graphs in its threads, memory in its items.

Needs the extra ``langgraph``.

async with Persistence.from_env() as persistence:
    graph = builder.compile(
        checkpointer=PersistenceSaver(persistence, user_id="u-42"), store=PersistenceStore(persistence, user_id="u-42")
    )
    await graph.ainvoke(inputs, {"configurable": {"thread_id": "t-1"}})
"""

from agent_persistence.errors import MissingExtraError

try:
    import langgraph.checkpoint.base  # noqa: F401 - imported here, so that one error names the missing extra
except ImportError as error:
    raise MissingExtraError("langgraph") from error

from agent_persistence.integrations.langgraph.branches import BranchMessage, branch_of, config_at
from agent_persistence.integrations.langgraph.message_items import messages_of
from agent_persistence.integrations.langgraph.saver import PersistenceSaver
from agent_persistence.integrations.langgraph.store import PersistenceStore

__all__ = ["BranchMessage", "PersistenceSaver", "PersistenceStore", "branch_of", "config_at", "messages_of"]
