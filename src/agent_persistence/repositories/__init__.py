"""CRUD in a session that somebody else commits."""

from agent_persistence.repositories.checkpoints import CheckpointRepository
from agent_persistence.repositories.entities import EntityRepository
from agent_persistence.repositories.messages import MessageRepository
from agent_persistence.repositories.scope import Limits, Scope
from agent_persistence.repositories.states import StateRepository
from agent_persistence.repositories.threads import ThreadRepository
from agent_persistence.repositories.tool_results import ToolResultRepository
from agent_persistence.repositories.whole_threads import PreparedThread

__all__ = [
    "CheckpointRepository",
    "EntityRepository",
    "Limits",
    "MessageRepository",
    "PreparedThread",
    "Scope",
    "StateRepository",
    "ThreadRepository",
    "ToolResultRepository",
]
