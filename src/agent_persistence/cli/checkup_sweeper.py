"""The check of ``doctor`` on the background purge of old states."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, func, lateral, literal_column, select, text, true
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from agent_persistence.cli.finding import Finding, Level
from agent_persistence.database.driver_errors import translated
from agent_persistence.models import Models, build_models
from agent_persistence.models.base import table_of
from agent_persistence.repositories.maintenance.jobs import PURGE
from agent_persistence.repositories.states.streams import is_abandoned
from agent_persistence.settings import PersistenceSettings

_SUBJECT: Final = "purge"
_COUNTED: Final = 10_000
_LATE: Final = 3  # intervals without a purge
# The count may have to read every thread, so it ends after two seconds, or beyond the limit.
_TIME_TO_COUNT: Final = text("SET LOCAL statement_timeout = '2s'")
_TURN_ON: Final = "export PERSISTENCE_CHECKPOINT_CLEANUP_INTERVAL=3600, in a process that keeps a store open"


async def examine_sweeper(engine: AsyncEngine, settings: PersistenceSettings) -> list[Finding]:
    """Check when it ran last, how much it deleted, and how much is due."""
    with translated():
        async with engine.connect() as connection:
            return [await connection.run_sync(_finding, settings)]


def _finding(connection: Connection, settings: PersistenceSettings) -> Finding:
    models = build_models(settings.id_types, schema=settings.db_schema)
    jobs, age = models.side_tables.jobs, func.extract("epoch", func.now() - models.side_tables.jobs.c.finished_at)
    job = connection.execute(select(jobs, age.label("seconds_ago")).where(jobs.c.job == PURGE)).one_or_none()
    due, abandoned = _due(connection, models, settings.max_checkpoint_history), _abandoned(connection, models)
    interval = settings.checkpoint_cleanup_interval
    parts = [_last(job) if interval or job else "off: PERSISTENCE_CHECKPOINT_CLEANUP_INTERVAL is 0"]
    parts += [f"{due} old states are due"] if settings.max_checkpoint_history else []
    parts += [f"{abandoned} abandoned streams are due"] if abandoned else []
    detail = "; ".join(parts)
    if interval and job is not None and job.seconds_ago is not None and job.seconds_ago > _LATE * interval:
        return Finding(Level.WARN, _SUBJECT, detail, "run a process with these settings that keeps a store open")
    if not interval and abandoned:
        return Finding(Level.WARN, _SUBJECT, detail, _TURN_ON)
    return Finding(Level.OK, _SUBJECT, detail)


def _last(job: Any) -> str:
    if job is None:
        return "has not run yet"
    at_work = "at work now; " if job.holder else ""
    if job.seconds_ago is None:
        return f"{at_work}has not ended yet"
    return f"{at_work}last ended {job.seconds_ago:.0f} s ago, and removed {job.removed:,} states"


def _due(connection: Connection, models: Models[Any, Any], keep_last: int) -> str:
    """Return how many states exceed the limit, as far as they can be counted quickly."""
    if not keep_last:
        return "0"
    threads, states = table_of(models.Thread), table_of(models.State)
    old = lateral(
        select(literal_column("1").label("one"))
        .where(states.c.thread_id == threads.c.thread_id)
        .order_by(states.c.state_id.desc())
        .offset(keep_last)
    )
    some = select(literal_column("1")).select_from(threads.join(old, true())).limit(_COUNTED + 1).subquery()
    # A count that times out fails the transaction; rolled back to here, it serves the next check.
    savepoint = connection.begin_nested()
    try:
        connection.execute(_TIME_TO_COUNT)
        count = connection.execute(select(func.count()).select_from(some)).scalar_one()
    except DBAPIError:
        return "an unknown number of"
    finally:
        savepoint.rollback()
    return f"more than {_COUNTED:,}" if count > _COUNTED else f"{count:,}"


def _abandoned(connection: Connection, models: Models[Any, Any]) -> int:
    streams = models.side_tables.streamed.streams
    count: int = connection.execute(select(func.count()).select_from(streams).where(is_abandoned(models))).scalar_one()
    return count
