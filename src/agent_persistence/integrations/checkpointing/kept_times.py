"""The times that threads and messages had in other tables, kept when they are copied."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, update

from agent_persistence.database.driver_errors import translated
from agent_persistence.frozen import frozen
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.operations.unit_of_work import UnitOfWork


@frozen
class Times:
    """When a thread was made and used last, and when its messages were said, by their ids; ``None`` if not known."""

    created_at: datetime | None
    updated_at: datetime | None
    said_at: Mapping[Any, datetime]

    async def keep(self, uow: UnitOfWork[Any, Any], models: Models[Any, Any], thread_id: Any) -> None:
        """Write them over those of a thread that was added by this unit of work."""
        thread, message = table_of(models.Thread), table_of(models.Message)
        last_said = max(self.said_at.values(), default=None)
        used = [time for time in (self.updated_at, last_said) if time is not None]
        known = {"created_at": self.created_at, "updated_at": max(used, default=None)}
        values = {name: time for name, time in known.items() if time is not None}
        said = [{"id": message_id, "time": time} for message_id, time in self.said_at.items()]
        is_message = (message.c.thread_id == thread_id) & (message.c.message_id == bindparam("id"))
        with translated():
            if values:
                await uow.session.execute(update(thread).where(thread.c.thread_id == thread_id).values(values))
            if said:
                await uow.session.execute(update(message).where(is_message).values(created_at=bindparam("time")), said)
