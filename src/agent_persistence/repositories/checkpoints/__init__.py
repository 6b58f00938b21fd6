"""The checkpoints of graphs: two tables, and the repository over them."""

from agent_persistence.repositories.checkpoints.repository import CheckpointRepository

__all__ = ["CheckpointRepository"]
