"""A checkpointer that keeps states in Redis or Valkey, without PostgreSQL.

    checkpointer = RedisCheckpointer(url="redis://localhost:6379/0", user_id="u-42")

All keys of an owner are in one hash slot, so that each save is atomic together with the list of threads, also on a
Cluster. The price: the data of one owner must fit on one node.
"""

from agent_persistence.backends.redis.checkpointer import RedisCheckpointer

__all__ = ["RedisCheckpointer"]
