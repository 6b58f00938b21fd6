"""States in Redis or Valkey, as the only store.

    checkpointer = RedisCheckpointer(url="redis://localhost:6379/0", user_id="u-42")

All keys of an owner share a hash slot, so every save is atomic, the list of threads included, on a Cluster as well.
What that costs: one owner cannot outgrow one node.
"""

from agent_persistence.backends.redis.checkpointer import RedisCheckpointer

__all__ = ["RedisCheckpointer"]
