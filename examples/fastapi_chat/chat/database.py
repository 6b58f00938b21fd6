"""Which database, and whose tables."""

from __future__ import annotations

from agent_persistence import Persistence, PersistenceSettings

from .models import models


def read_settings() -> PersistenceSettings:
    """Read ``PERSISTENCE_*``; the kinds of id are not for the environment to say, the models name them."""
    return PersistenceSettings(id_type="string", user_id_type="bigint")


def make_persistence() -> Persistence[str, int]:
    """Make what the application opens when it starts."""
    return Persistence(read_settings(), models=models)
