"""The mixins on bases of an application: what fits, and what is refused with the way that works."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, configure_mappers, mapped_column, relationship

from agent_persistence import (
    STRING,
    UUID,
    IdTypes,
    InvalidInputError,
    MessageMixin,
    Models,
    Persistence,
    PersistenceSettings,
    SettingsError,
    StateMixin,
    ThreadMixin,
    build_models,
)
from agent_persistence.models.base import table_of


def on_dataclasses() -> object:
    class Base(MappedAsDataclass, DeclarativeBase):
        __id_types__ = IdTypes(STRING, STRING)

    class Thread(ThreadMixin[str, str], Base):
        pass

    return Thread


def on_pydantic() -> object:
    sqlmodel = pytest.importorskip("sqlmodel")

    class Thread(ThreadMixin[str, str], sqlmodel.SQLModel, table=True):  # type: ignore[misc, name-defined, call-arg]  # not in every environment
        pass

    return Thread


def without_id_types() -> object:
    class Base(DeclarativeBase):
        pass

    class Thread(ThreadMixin[str, str], Base):
        pass

    return Thread


def in_a_schema_of_the_table() -> object:
    class Base(DeclarativeBase):
        __id_types__ = IdTypes(STRING, STRING)

    class Thread(ThreadMixin[str, str], Base):
        __table_args__ = ({"schema": "agents"},)

    return Thread


@pytest.mark.parametrize(
    ("mapping", "advice"),
    [
        (on_dataclasses, "class AgentBase"),
        (on_pydantic, "class AgentBase"),
        (without_id_types, "IdTypes"),
        (in_a_schema_of_the_table, "MetaData(schema='agents')"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_base_that_does_not_fit_is_refused_with_the_way_that_does(mapping: Callable[[], object], advice: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        mapping()

    assert refusal.value.field == "Thread"
    assert advice in refusal.value.reason


def test_a_base_beside_that_of_the_application_shares_its_tables() -> None:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"

        id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default_factory=uuid.uuid4)

    class AgentBase(DeclarativeBase):
        metadata = Base.metadata
        __id_types__ = IdTypes(STRING, UUID)

    class Thread(ThreadMixin[str, uuid.UUID], AgentBase):
        __table_args__ = (ForeignKeyConstraint(["user_id"], ["users.id"]),)

        user: Mapped[User] = relationship(User, lazy="raise")

    class State(StateMixin[str], AgentBase):
        pass

    class Message(MessageMixin[str], AgentBase):
        pass

    configure_mappers()

    assert Models(Thread, State, Message).metadata is Base.metadata
    assert [key.target_fullname for key in table_of(Thread).c.user_id.foreign_keys] == ["users.id"]


def test_models_in_another_schema_than_the_settings_name_are_refused() -> None:
    settings = PersistenceSettings(_env_file=None, database_url="postgresql://app@db/app", db_schema="agents")

    with pytest.raises(SettingsError, match="MetaData\\(schema='agents'\\)") as refusal:
        Persistence(settings, models=build_models(settings.id_types))

    assert refusal.value.variable == "PERSISTENCE_DB_SCHEMA"
