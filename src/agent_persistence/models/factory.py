"""The three models for one choice of id types and schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Generic

from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase

from agent_persistence.ids import IdT, IdTypes, UserIdT
from agent_persistence.models.base import NAMING_CONVENTION, table_of
from agent_persistence.models.graph import GraphTables, graph_tables, graph_tables_in
from agent_persistence.models.jobs import jobs_in, jobs_table
from agent_persistence.models.message import MessageMixin
from agent_persistence.models.side_tables import outbox_in, outbox_table
from agent_persistence.models.state import StateMixin
from agent_persistence.models.state_streams import StreamTables, stream_tables, streams_in, tie_streams
from agent_persistence.models.thread import ThreadMixin
from agent_persistence.models.tool_results import tool_results_in, tool_results_table


@dataclass(frozen=True, slots=True)
class Models(Generic[IdT, UserIdT]):
    """The mapped classes that the repositories work on: ours, or a host's own."""

    Thread: type[ThreadMixin[IdT, UserIdT]]
    State: type[StateMixin[IdT]]
    Message: type[MessageMixin[IdT]]

    @property
    def metadata(self) -> MetaData:
        """The metadata that the tables live in."""
        return self.Thread.metadata

    @property
    def id_types(self) -> IdTypes[IdT, UserIdT]:
        """The id types that the classes were mapped with."""
        return self.Thread.__id_types__

    @property
    def outbox(self) -> Table:
        """The table of cached states that Redis could not be told of; it belongs to no model."""
        return outbox_in(table_of(self.Thread).schema, self.id_types)

    @property
    def graph(self) -> GraphTables:
        """The tables of graphs' checkpoints; they belong to no model."""
        return graph_tables_in(table_of(self.Thread).schema, self.id_types)

    @property
    def tool_results(self) -> Table:
        """The table of what tool calls returned; it belongs to no model."""
        return tool_results_in(table_of(self.Thread).schema, self.id_types)

    @property
    def jobs(self) -> Table:
        """The table of what stores do by themselves; it belongs to no model."""
        return jobs_in(table_of(self.Thread).schema)

    @property
    def streamed(self) -> StreamTables:
        """The tables of states that were streamed in; they belong to no model."""
        return streams_in(table_of(self.Thread).schema, self.id_types)


def config_table(metadata: MetaData) -> Table:
    """The table that records which settings built the database."""
    return Table(
        "persistence_config",
        metadata,
        Column("key", Text, primary_key=True),
        Column("value", Text, nullable=False),
    )


def build_models(id_types: IdTypes[IdT, UserIdT], *, schema: str | None = None) -> Models[IdT, UserIdT]:
    """Return the models for these id types; the same classes for the same arguments, so several live side by side."""
    models: Models[IdT, UserIdT] = _build(id_types, schema)
    return models


@cache
def _build(id_types: IdTypes[Any, Any], schema: str | None) -> Models[Any, Any]:
    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention=NAMING_CONVENTION, schema=schema)
        __id_types__ = id_types

    class Thread(ThreadMixin[Any, Any], Base):
        pass

    class State(StateMixin[Any], Base):
        pass

    class Message(MessageMixin[Any], Base):
        pass

    config_table(Base.metadata)
    outbox_table(Base.metadata, id_types)
    graph_tables(Base.metadata, id_types)
    tool_results_table(Base.metadata, id_types, threads=table_of(Thread))
    jobs_table(Base.metadata)
    tie_streams(stream_tables(Base.metadata, id_types), table_of(Thread), table_of(State))
    return Models(Thread, State, Message)
