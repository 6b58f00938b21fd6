"""The latest versions of many threads, by one statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select

from agent_persistence.records import TouchedState
from agent_persistence.sessions.scope import Scope


async def latest_versions(scope: Scope[Any, Any], *, of: Iterable[TouchedState]) -> dict[TouchedState, int]:
    """Return the latest version of each thread's state; 0 where the owner's thread has none."""
    threads, states = scope.threads, scope.states
    latest = select(func.max(states.c.state_id)).where(states.c.thread_id == threads.c.thread_id).scalar_subquery()
    wanted = dict.fromkeys(of, 0)
    statement = select(threads.c.thread_id, threads.c.user_id, func.coalesce(latest, 0).label("version")).where(
        threads.c.thread_id.in_([state.thread_id for state in wanted])
    )
    rows = await scope.execute(statement)
    found = {TouchedState(row.thread_id, row.user_id): row.version for row in rows}
    return {state: found.get(state, 0) for state in wanted}
