"""The mapped classes for one choice of id types and schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Generic

from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase

from agent_persistence.ids import IdT, IdTypes, UserIdT
from agent_persistence.models.base import NAMING_CONVENTION, table_of
from agent_persistence.models.message import MessageMixin
from agent_persistence.models.side_tables import SideTables, add_side_tables, side_tables_of
from agent_persistence.models.state import StateMixin
from agent_persistence.models.thread import ThreadMixin


@dataclass(frozen=True, slots=True)
class Models(Generic[IdT, UserIdT]):
    """The mapped classes on which the repositories work: built by ``build_models``, or a host's."""

    Thread: type[ThreadMixin[IdT, UserIdT]]
    State: type[StateMixin[IdT]]
    Message: type[MessageMixin[IdT]]

    @property
    def metadata(self) -> MetaData:
        """The metadata that holds their tables."""
        return self.Thread.metadata

    @property
    def id_types(self) -> IdTypes[IdT, UserIdT]:
        """The id types that the classes were mapped with."""
        return self.Thread.__id_types__

    @property
    def side_tables(self) -> SideTables:
        """The tables that belong to no mapped class."""
        return side_tables_of(table_of(self.Thread).schema, self.id_types)


def config_table(metadata: MetaData) -> Table:
    """Add the table that records with which id types the database was created."""
    return Table(
        "persistence_config",
        metadata,
        Column("key", Text, primary_key=True),
        Column("value", Text, nullable=False),
    )


def build_models(id_types: IdTypes[IdT, UserIdT], *, schema: str | None = None) -> Models[IdT, UserIdT]:
    """Return mapped classes for these id types: the same classes for the same arguments.

    Args:
        id_types: the types of the id columns.
        schema: the PostgreSQL schema of the tables; the connection's default if left out.
    """
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
    add_side_tables(Base.metadata, id_types)
    return Models(Thread, State, Message)
