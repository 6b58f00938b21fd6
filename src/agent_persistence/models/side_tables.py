"""Tables that belong to no mapped class: the repositories use them, and a host never maps them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
)

from agent_persistence.ids import IdTypes
from agent_persistence.models.base import NAMING_CONVENTION
from agent_persistence.models.json_type import ExactJSON

MAX_TOOL_CALL_ID: Final = 255


@dataclass(frozen=True, slots=True)
class GraphTables:
    """The tables of graphs' checkpoints.

    Attributes:
        checkpoints: one row for each checkpoint; ``refs`` refers to the values of its channels in ``values``.
        values: values of channels and writes of tasks, each stored once; a row can hold several.
    """

    checkpoints: Table
    values: Table


class StreamTables(NamedTuple):
    """The tables of streamed states. A stream without a state is being written, or was abandoned."""

    streams: Table
    chunks: Table


@dataclass(frozen=True, slots=True)
class SideTables:
    """The tables beside those of threads, states and messages.

    Attributes:
        outbox: cache invalidations that were not delivered to Redis yet.
        jobs: a row a background job: which process runs it, and when it was run last.
        tool_results: results of tool calls, so that no call is made twice.
        graph: checkpoints of graphs.
        streamed: states that were streamed in.
        imports: for each imported thread, the fields of its line.
        items: values of an owner by namespace and key, which belong to no thread.
    """

    outbox: Table
    jobs: Table
    tool_results: Table
    graph: GraphTables
    streamed: StreamTables
    imports: Table
    items: Table


@cache
def side_tables_of(schema: str | None, id_types: IdTypes[Any, Any]) -> SideTables:
    """Return the tables of a schema in a metadata of theirs, so that a host's metadata does not hold them."""
    return add_side_tables(MetaData(naming_convention=NAMING_CONVENTION, schema=schema), id_types, refers=False)


def add_side_tables(metadata: MetaData, id_types: IdTypes[Any, Any], *, refers: bool = True) -> SideTables:
    """Add the tables to a metadata.

    Args:
        refers: whether the metadata holds ``threads`` and ``states`` for foreign keys.
    """
    return SideTables(
        outbox=_outbox(metadata, id_types),
        jobs=_jobs(metadata),
        tool_results=_tool_results(metadata, id_types, refers=refers),
        graph=_graph(metadata, id_types, refers=refers),
        streamed=_streamed(metadata, id_types, refers=refers),
        imports=_imports(metadata, id_types, refers=refers),
        items=_items(metadata, id_types),
    )


def _outbox(metadata: MetaData, id_types: IdTypes[Any, Any]) -> Table:
    # Without a foreign key: the cached state of a deleted thread must be invalidated too.
    return Table(
        "cache_outbox",
        metadata,
        Column("outbox_id", BigInteger, Identity(), primary_key=True),
        Column("thread_id", id_types.id.sql_type(), nullable=False),
        Column("user_id", id_types.user.sql_type(), nullable=False),
        _created_at(),
    )


def _jobs(metadata: MetaData) -> Table:
    # A row and not an advisory lock: a job is many transactions, each perhaps on another connection.
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


def _tool_results(metadata: MetaData, id_types: IdTypes[Any, Any], *, refers: bool) -> Table:
    # Not messages, because a result is written before the conversation goes on; not in states, because a result must
    # outlast the loss of one.
    return Table(
        "tool_results",
        metadata,
        _thread_id(id_types, primary_key=True),
        Column("tool_call_id", String(MAX_TOOL_CALL_ID), primary_key=True),
        Column("result", ExactJSON(), nullable=False),
        _created_at(),
        *_refers(metadata, ["thread_id"], "threads", when=refers),
    )


def _imports(metadata: MetaData, id_types: IdTypes[Any, Any], *, refers: bool) -> Table:
    # Not in the meta of threads, which the application replaces: the next import would then add the thread again.
    return Table(
        "conversation_imports",
        metadata,
        _thread_id(id_types, primary_key=True),
        Column("fields", ExactJSON(), nullable=False),
        *_refers(metadata, ["thread_id"], "threads", when=refers),
    )


def _items(metadata: MetaData, id_types: IdTypes[Any, Any]) -> Table:
    # The owner first: all of a user is one range, and so is what lies below a namespace, without a second index.
    items = Table(
        "items",
        metadata,
        Column("user_id", id_types.user.sql_type(), primary_key=True, autoincrement=False, nullable=False),
        Column("namespace", _bytewise(), primary_key=True),
        Column("key", _bytewise(), primary_key=True),
        Column("value", ExactJSON(), nullable=False),
        _created_at(),
        Column("updated_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
        Column("expires_at", DateTime(timezone=True)),
        # Kept beside the time, so that a read can grant it again.
        Column("ttl_seconds", Double),
    )
    Index("ix_items_expires_at", items.c.expires_at, postgresql_where=items.c.expires_at.is_not(None))
    return items


def _graph(metadata: MetaData, id_types: IdTypes[Any, Any], *, refers: bool) -> GraphTables:
    checkpoints = Table(
        "graph_checkpoints",
        metadata,
        _thread_id(id_types, primary_key=True),
        Column("checkpoint_ns", _bytewise(), primary_key=True),
        Column("checkpoint_id", _bytewise(), primary_key=True),
        Column("parent_id", _bytewise()),
        Column("run_id", _bytewise()),
        _created_at(),
        Column("metadata", ExactJSON(), nullable=False),
        Column("exact_metadata", LargeBinary()),
        Column("body", LargeBinary(), nullable=False),
        Column("refs", LargeBinary(), nullable=False),
        *_refers(metadata, ["thread_id"], "threads", when=refers),
    )
    values = Table(
        "graph_values",
        metadata,
        _thread_id(id_types, primary_key=True),
        Column("checkpoint_ns", _bytewise(), primary_key=True),
        # Drawn while the thread's row is locked, so the values of a thread are numbered in the order of commits: new
        # items of a list come after all stored ones, and a list that grew is still one span of numbers.
        Column("value_no", BigInteger, Identity(), primary_key=True),
        _created_at(),
        # The checkpoint at which a task wrote the row; NULL for a checkpoint's own values. No foreign key: the writes
        # can be saved before the checkpoint.
        Column("checkpoint_id", _bytewise()),
        Column("channel", _bytewise(), nullable=False),
        Column("cells", LargeBinary(), nullable=False),
        Column("content", LargeBinary(), nullable=False),
        *_refers(metadata, ["thread_id"], "threads", when=refers),
    )
    # Partial: queries look for the rows of a run or of a task, never for those without one.
    run_id, written_at = checkpoints.c.run_id, values.c.checkpoint_id
    Index("ix_graph_checkpoints_run_id", run_id, postgresql_where=run_id.is_not(None))
    Index("ix_graph_values_checkpoint_id", written_at, postgresql_where=written_at.is_not(None))
    return GraphTables(checkpoints, values)


def _streamed(metadata: MetaData, id_types: IdTypes[Any, Any], *, refers: bool) -> StreamTables:
    streams = Table(
        "state_streams",
        metadata,
        Column("stream_id", BigInteger, Identity(), primary_key=True),
        _thread_id(id_types),
        Column("state_id", BigInteger),
        _created_at(),
        *_refers(metadata, ["thread_id"], "threads", when=refers),
        *_refers(metadata, ["thread_id", "state_id"], "states", when=refers),
    )
    chunks = Table(
        "state_chunks",
        metadata,
        Column("stream_id", BigInteger, primary_key=True, autoincrement=False),
        Column("place", Integer, primary_key=True, autoincrement=False),
        Column("data", LargeBinary, nullable=False),
        *_refers(metadata, ["stream_id"], "state_streams", when=refers),
    )
    # For the cascades from threads and states: PostgreSQL makes no index for a foreign key.
    Index("ix_state_streams_thread_id_state_id", streams.c.thread_id, streams.c.state_id)
    return StreamTables(streams, chunks)


def _thread_id(id_types: IdTypes[Any, Any], *, primary_key: bool = False) -> Column[Any]:
    return Column("thread_id", id_types.id.sql_type(), primary_key=primary_key, autoincrement=False, nullable=False)


def _created_at() -> Column[Any]:
    return Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False)


def _bytewise() -> Text:
    # Python's order of strings, by which LangGraph finds its latest checkpoint.
    return Text(collation="C")


def _refers(metadata: MetaData, columns: list[str], table: str, *, when: bool) -> list[ForeignKeyConstraint]:
    """Return a foreign key to columns of the same names, whose rows take those of this table along."""
    schema = f"{metadata.schema}." if metadata.schema else ""
    targets = [f"{schema}{table}.{name}" for name in columns]
    return [ForeignKeyConstraint(columns, targets, ondelete="CASCADE")] if when else []
