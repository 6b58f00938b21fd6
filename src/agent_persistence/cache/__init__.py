"""Internal: the read-through cache of latest states in Redis."""

from agent_persistence.cache.circuit_breaker import CircuitBreaker
from agent_persistence.cache.client import make_redis
from agent_persistence.cache.state_cache import StateCache

__all__ = ["CircuitBreaker", "StateCache", "make_redis"]
