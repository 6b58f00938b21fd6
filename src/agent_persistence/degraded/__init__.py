"""Degraded mode: agents continue in memory while PostgreSQL is down, and no state is dropped silently.

    async with Persistence.from_env() as persistence, DegradedMode(persistence) as degraded:
        checkpointer = degraded.checkpointer("u-42")
        saved = await checkpointer.save_state("support-1", {"step": "lookup"})

A state that is not ``durable`` is in this process's memory only, until the database is back.
"""

from agent_persistence.degraded.checkpointer import DegradedCheckpointer
from agent_persistence.degraded.mode import DegradedMode, UnsavedState

__all__ = ["DegradedCheckpointer", "DegradedMode", "UnsavedState"]
