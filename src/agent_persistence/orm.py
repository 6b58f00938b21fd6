"""``Thread``, ``State`` and ``Message`` for the settings of this process, read from the environment.

    from agent_persistence.orm import Thread, State, Message

For several configurations in one process, or a ``Base`` of yours, use ``build_models`` or the mixins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import DeclarativeBase

from agent_persistence.models import MessageMixin, Models, StateMixin, ThreadMixin, build_models
from agent_persistence.settings import PersistenceSettings

__all__ = ["Message", "State", "Thread", "metadata", "models"]

# Read at import, because classes cannot wait for an application to start: their columns depend on the id types.
_settings = PersistenceSettings()
models: Models[Any, Any] = build_models(_settings.id_types, schema=_settings.db_schema)
"""The three classes, to pass to ``Persistence(settings, models=models)``."""
metadata = models.metadata
"""Their tables, for joins and for Alembic."""

if TYPE_CHECKING:
    # The id types are known at run time only; everything else is exact.
    class Thread(ThreadMixin[Any, Any], DeclarativeBase):
        """A conversation and its owner."""

    class State(StateMixin[Any], DeclarativeBase):
        """One saved state of a thread."""

    class Message(MessageMixin[Any], DeclarativeBase):
        """One message of a thread."""
else:
    Thread, State, Message = models.Thread, models.State, models.Message
