"""The read-through cache of the latest state."""

from agent_persistence.cache.circuit_breaker import Guard
from agent_persistence.cache.client import make_redis
from agent_persistence.cache.state_cache import StateCache

__all__ = ["Guard", "StateCache", "make_redis"]
