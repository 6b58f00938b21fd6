"""A LangGraph checkpointer that stores graphs in the threads of a ``Persistence`` (extra ``langgraph``).

async with Persistence.from_env() as persistence:
    graph = builder.compile(checkpointer=PersistenceSaver(persistence, user_id="u-42"))
    await graph.ainvoke(inputs, {"configurable": {"thread_id": "t-1"}})
"""

from agent_persistence.errors import MissingExtraError

try:
    import langgraph.checkpoint.base  # noqa: F401 - imported here, so that one error names the missing extra
except ImportError as error:
    raise MissingExtraError("langgraph") from error

from agent_persistence.integrations.langgraph.branches import BranchMessage, branch_of, config_at
from agent_persistence.integrations.langgraph.saver import PersistenceSaver

__all__ = ["BranchMessage", "PersistenceSaver", "branch_of", "config_at"]
