"""The repository of graphs' checkpoints, over the tables ``graph_checkpoints`` and ``graph_values``."""

from agent_persistence.repositories.checkpoints.repository import CheckpointRepository

__all__ = ["CheckpointRepository"]
