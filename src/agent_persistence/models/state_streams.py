"""The tables ``state_streams`` and ``state_chunks``: states that were streamed in, a row for each piece."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    func,
)

from agent_persistence.ids import IdTypes
from agent_persistence.models.base import NAMING_CONVENTION


class StreamTables(NamedTuple):
    """Both tables."""

    streams: Table
    chunks: Table


def stream_tables(metadata: MetaData, id_types: IdTypes[Any, Any]) -> StreamTables:
    """Add the tables to a metadata. A stream without a state is being written, or was abandoned."""
    streams = Table(
        "state_streams",
        metadata,
        Column("stream_id", BigInteger, Identity(), primary_key=True),
        Column("thread_id", id_types.id.sql_type(), nullable=False),
        Column("state_id", BigInteger),
        Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
    )
    chunks = Table(
        "state_chunks",
        metadata,
        Column("stream_id", BigInteger, primary_key=True, autoincrement=False),
        Column("place", Integer, primary_key=True, autoincrement=False),
        Column("data", LargeBinary, nullable=False),
    )
    Index("ix_state_streams_thread_id_state_id", streams.c.thread_id, streams.c.state_id)
    return StreamTables(streams, chunks)


def tie_streams(tables: StreamTables, threads: Table, states: Table) -> None:
    """Let streams go with their state or their thread, and chunks with their stream."""
    streams, chunks = tables.streams.c, tables.chunks.c
    for columns, of in (
        ([streams.thread_id], [threads.c.thread_id]),
        ([streams.thread_id, streams.state_id], [states.c.thread_id, states.c.state_id]),
        ([chunks.stream_id], [streams.stream_id]),
    ):
        columns[0].table.append_constraint(ForeignKeyConstraint(columns, of, ondelete="CASCADE"))


@cache
def streams_in(schema: str | None, id_types: IdTypes[Any, Any]) -> StreamTables:
    """Return the tables beside the threads of a schema; a host's own metadata knows nothing of them."""
    return stream_tables(MetaData(naming_convention=NAMING_CONVENTION, schema=schema), id_types)
