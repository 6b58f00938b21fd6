"""What the checkpointers of PyAgenity and Agentflow have in common; neither package is imported here."""

from agent_persistence.integrations.checkpointing.async_methods import Framework
from agent_persistence.integrations.checkpointing.methods import CheckpointMethods

__all__ = ["CheckpointMethods", "Framework"]
