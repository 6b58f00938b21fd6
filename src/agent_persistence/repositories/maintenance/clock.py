"""The clock of the database, which wrote the times of its rows: that of a client may go hours wrong."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, literal, select

from agent_persistence.sessions.scope import Scope


async def moment_of(age: datetime | timedelta | None, scope: Scope[Any, Any]) -> datetime | None:
    """Return when that was which has an age now; a time, or ``None``, as it is."""
    if not isinstance(age, timedelta):
        return age
    found: datetime = (await scope.execute(select(func.clock_timestamp() - literal(age)))).scalar_one()
    return found
