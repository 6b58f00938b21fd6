"""The tables of graphs: ``graph_checkpoints``, and ``graph_values`` with what the channels of a graph hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
)

from agent_persistence.ids import IdTypes
from agent_persistence.models.base import NAMING_CONVENTION
from agent_persistence.models.json_type import ExactJSON


@dataclass(frozen=True, slots=True)
class GraphTables:
    """Both tables.

    Attributes:
        checkpoints: a row a checkpoint; ``refs`` says where in ``values`` the values of its channels are.
        values: what tasks wrote and checkpoints brought, each thing once; a row holds several.
    """

    checkpoints: Table
    values: Table


def graph_tables(metadata: MetaData, id_types: IdTypes[Any, Any], *, refers: bool = True) -> GraphTables:
    """Add both tables to a metadata.

    Args:
        refers: whether the metadata has a table of threads to refer to.
    """

    def thread_id() -> Column[Any]:
        refers_to = [ForeignKey("threads.thread_id", ondelete="CASCADE")] if refers else []
        return Column("thread_id", id_types.id.sql_type(), *refers_to, primary_key=True, autoincrement=False)

    checkpoints = Table(
        "graph_checkpoints",
        metadata,
        thread_id(),
        Column("checkpoint_ns", _bytewise(), primary_key=True),
        Column("checkpoint_id", _bytewise(), primary_key=True),
        Column("parent_id", _bytewise()),
        Column("run_id", _bytewise()),
        Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
        Column("metadata", ExactJSON(), nullable=False),
        Column("exact_metadata", LargeBinary()),
        Column("body", LargeBinary(), nullable=False),
        Column("refs", LargeBinary(), nullable=False),
    )
    values = Table(
        "graph_values",
        metadata,
        thread_id(),
        Column("checkpoint_ns", _bytewise(), primary_key=True),
        # Drawn under the thread's row lock: whatever is added to a thread comes behind all that it has.
        Column("value_no", BigInteger, Identity(), primary_key=True),
        Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
        # Where a task wrote it; NULL for what a checkpoint brought.
        Column("checkpoint_id", _bytewise()),
        Column("channel", _bytewise(), nullable=False),
        Column("cells", LargeBinary(), nullable=False),
        Column("content", LargeBinary(), nullable=False),
    )
    run_id, written_at = checkpoints.c.run_id, values.c.checkpoint_id
    Index("ix_graph_checkpoints_run_id", run_id, postgresql_where=run_id.is_not(None))
    Index("ix_graph_values_checkpoint_id", written_at, postgresql_where=written_at.is_not(None))
    return GraphTables(checkpoints, values)


@cache
def graph_tables_in(schema: str | None, id_types: IdTypes[Any, Any]) -> GraphTables:
    """Return the tables beside the threads of a schema; a host's own metadata knows nothing of them."""
    return graph_tables(MetaData(naming_convention=NAMING_CONVENTION, schema=schema), id_types, refers=False)


def _bytewise() -> Text:
    return Text(collation="C")  # the order of Python's, which "the latest checkpoint" goes by
