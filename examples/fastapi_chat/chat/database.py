"""The store: settings and mapped classes."""

from __future__ import annotations

from agent_persistence import Persistence, PersistenceSettings

from .models import models


def read_settings() -> PersistenceSettings:
    """Read ``PERSISTENCE_*``, except the id types: they are fixed, because the models name them."""
    return PersistenceSettings(id_type="string", user_id_type="bigint")


def make_persistence() -> Persistence[str, int]:
    """Create the store, which the application opens when it starts."""
    return Persistence(read_settings(), models=models)
