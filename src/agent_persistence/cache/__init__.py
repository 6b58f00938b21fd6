"""The read-through cache of the latest state."""

from agent_persistence.cache.cached_states import CachedStates
from agent_persistence.cache.client import make_redis
from agent_persistence.cache.guard import Guard
from agent_persistence.cache.state_cache import StateCache

__all__ = ["CachedStates", "Guard", "StateCache", "make_redis"]
