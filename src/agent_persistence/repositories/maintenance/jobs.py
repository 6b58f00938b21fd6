"""Background jobs that one process at a time runs.

A row names the process that holds a job, and until when. A job is many transactions, so an advisory lock lost: it would
end with one of them or, behind a pooler, belong to a connection that the next transaction does not get.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, update
from sqlalchemy.dialects.postgresql import insert

from agent_persistence.frozen import frozen
from agent_persistence.sessions.scope import Scope

PURGE: Final = "purge"
HELD_FOR: Final = timedelta(minutes=1)
"""How long a process holds a job without renewing it; after that another process can take it."""


@frozen
class Job:
    """A background job, for one process.

    Attributes:
        name: the row's key.
        holder: a name that is unique to this process.
        held_for: how long it is held without being renewed.
    """

    name: str
    holder: str
    held_for: timedelta = HELD_FOR

    async def take(self, scope: Scope[Any, Any], *, rest: timedelta = timedelta()) -> bool:
        """Take the job; return ``False`` if another process holds it, or ended it less than ``rest`` ago."""
        jobs, now = scope.models.side_tables.jobs, func.now()
        mine = {"holder": self.holder, "held_until": now + self.held_for, "started_at": now}
        # Held by this process already where the reply to the first attempt was lost.
        is_free = jobs.c.holder.is_(None) | (jobs.c.held_until < now) | (jobs.c.holder == self.holder)
        has_rested = jobs.c.finished_at.is_(None) | (jobs.c.finished_at <= now - rest)
        taken = (
            insert(jobs)
            .values(job=self.name, **mine)
            .on_conflict_do_update(index_elements=[jobs.c.job], set_=mine, where=is_free & has_rested)
            .returning(jobs.c.job)
        )
        return (await scope.execute(taken)).scalar_one_or_none() is not None

    async def keep(self, scope: Scope[Any, Any]) -> bool:
        """Renew the job; return ``False`` if another process has taken it."""
        return await self._change(scope, held_until=func.now() + self.held_for)

    async def end(self, scope: Scope[Any, Any], *, removed: int) -> bool:
        """End the job, and record how many rows it removed; return ``False`` if another process has taken it."""
        return await self._change(scope, holder=None, held_until=None, finished_at=func.now(), removed=removed)

    async def remove(self, scope: Scope[Any, Any]) -> None:
        """End the job without a trace, unless another process has taken it."""
        jobs = scope.models.side_tables.jobs
        await scope.execute(delete(jobs).where(self._mine(scope)))

    async def _change(self, scope: Scope[Any, Any], **values: Any) -> bool:
        jobs = scope.models.side_tables.jobs
        changed = update(jobs).where(self._mine(scope)).values(values).returning(jobs.c.job)
        return (await scope.execute(changed)).scalar_one_or_none() is not None

    def _mine(self, scope: Scope[Any, Any]) -> ColumnElement[bool]:
        jobs = scope.models.side_tables.jobs
        return (jobs.c.job == self.name) & (jobs.c.holder == self.holder)
