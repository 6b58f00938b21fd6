"""The table ``persistence_jobs``: what stores do by themselves, who is at it, and when it was done last."""

from __future__ import annotations

from functools import cache

from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, Text

from agent_persistence.models.base import NAMING_CONVENTION


def jobs_table(metadata: MetaData) -> Table:
    """Add the table to a metadata; a row a job."""
    return Table(
        "persistence_jobs",
        metadata,
        Column("job", Text, primary_key=True),
        Column("holder", Text),
        Column("held_until", DateTime(timezone=True)),
        Column("started_at", DateTime(timezone=True)),
        Column("finished_at", DateTime(timezone=True)),
        Column("removed", BigInteger),
    )


@cache
def jobs_in(schema: str | None) -> Table:
    """Return the table beside the threads of a schema; a host's own metadata knows nothing of it."""
    return jobs_table(MetaData(naming_convention=NAMING_CONVENTION, schema=schema))
