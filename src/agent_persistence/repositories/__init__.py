"""Internal: repositories, which run SQL on the rows of one owner; a folder a table. ``Persistence`` offers them.

They run statements in the scope they are given, and never commit.
"""

from agent_persistence.repositories.checkpoints import CheckpointRepository
from agent_persistence.repositories.entities import EntityRepository
from agent_persistence.repositories.items.repository import ItemRepository
from agent_persistence.repositories.messages.repository import MessageRepository
from agent_persistence.repositories.states.repository import StateRepository
from agent_persistence.repositories.threads.bulk import PreparedThread
from agent_persistence.repositories.threads.repository import ThreadRepository
from agent_persistence.repositories.tool_results import ToolResultRepository
from agent_persistence.sessions.scope import Scope, StoreOptions

__all__ = [
    "CheckpointRepository",
    "EntityRepository",
    "ItemRepository",
    "MessageRepository",
    "PreparedThread",
    "Scope",
    "StateRepository",
    "StoreOptions",
    "ThreadRepository",
    "ToolResultRepository",
]
