"""The table ``tool_results``: what the tool calls of a thread returned, so that none is made twice."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Column, DateTime, ForeignKey, MetaData, String, Table, func

from agent_persistence.ids import IdTypes
from agent_persistence.models.base import NAMING_CONVENTION
from agent_persistence.models.json_type import ExactJSON

MAX_TOOL_CALL_ID: Final = 255


def tool_results_table(metadata: MetaData, id_types: IdTypes[Any, Any], *, threads: Table | None = None) -> Table:
    """Add the table to a metadata.

    Args:
        threads: the table of threads there; ``None`` where the metadata has none.
    """
    thread = [] if threads is None else [ForeignKey(threads.c.thread_id, ondelete="CASCADE")]
    return Table(
        "tool_results",
        metadata,
        Column("thread_id", id_types.id.sql_type(), *thread, primary_key=True, autoincrement=False),
        Column("tool_call_id", String(MAX_TOOL_CALL_ID), primary_key=True),
        Column("result", ExactJSON(), nullable=False),
        Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
    )


@cache
def tool_results_in(schema: str | None, id_types: IdTypes[Any, Any]) -> Table:
    """Return the table beside the threads of a schema; a host's own metadata knows nothing of it."""
    return tool_results_table(MetaData(naming_convention=NAMING_CONVENTION, schema=schema), id_types)
