"""The code that the checkpointers for Agentflow and PyAgenity share; it imports neither framework."""

from agent_persistence.integrations.checkpointing.framework import Framework
from agent_persistence.integrations.checkpointing.methods import CheckpointMethods

__all__ = ["CheckpointMethods", "Framework"]
