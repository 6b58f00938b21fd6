"""The table ``cache_outbox``: cached states that Redis could not be told of, until somebody tells it."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Identity, MetaData, Table, func

from agent_persistence.ids import IdTypes
from agent_persistence.models.base import NAMING_CONVENTION


def outbox_table(metadata: MetaData, id_types: IdTypes[Any, Any]) -> Table:
    """Add the table to a metadata. It refers to no thread: a deleted one is what the cache has to hear of."""
    return Table(
        "cache_outbox",
        metadata,
        Column("outbox_id", BigInteger, Identity(), primary_key=True),
        Column("thread_id", id_types.id.sql_type(), nullable=False),
        Column("user_id", id_types.user.sql_type(), nullable=False),
        Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
    )


@cache
def outbox_in(schema: str | None, id_types: IdTypes[Any, Any]) -> Table:
    """Return the table beside the threads of a schema; a host's own metadata knows nothing of it."""
    return outbox_table(MetaData(naming_convention=NAMING_CONVENTION, schema=schema), id_types)
