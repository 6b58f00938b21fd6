"""Mixins and types that the mapped classes share."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final

from sqlalchemy import DateTime, MetaData, Table, event, func, text
from sqlalchemy.orm import Mapped, MappedAsDataclass, Mapper, declared_attr, mapped_column
from sqlalchemy.types import TypeEngine

from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import IdT, IdTypes, UserIdT
from agent_persistence.models.json_type import ExactJSON

# Every constraint has a name: a revision can drop it by that name, and ``alembic check`` can compare it.
NAMING_CONVENTION: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class HasIdTypes:
    """The attributes of a declarative base that the mixins read.

    Attributes:
        __id_types__: the id types of the database, declared once on a host's ``Base`` for all three models.
    """

    __id_types__: ClassVar[IdTypes[Any, Any]]
    metadata: ClassVar[MetaData]
    __table__: ClassVar[Any]

    def __init_subclass__(cls, **options: Any) -> None:
        # Before SQLAlchemy maps the class: its own errors do not say what to do about these mixins.
        if hasattr(cls, "metadata"):  # mapped: it has a declarative base
            _refuse_other_bases(cls)
        super().__init_subclass__(**options)


_OWN_BASE: Final = (
    "map it on a base of its own: class AgentBase(DeclarativeBase), with metadata = Base.metadata and "
    "__id_types__ = IdTypes(...)"
)


def _refuse_other_bases(model: type[HasIdTypes]) -> None:
    if issubclass(model, MappedAsDataclass):
        raise InvalidInputError(model.__name__, f"is mapped as a dataclass, which the mixins are not; {_OWN_BASE}")
    if hasattr(model, "model_fields"):
        raise InvalidInputError(model.__name__, f"is a pydantic model, which the mixins are not; {_OWN_BASE}")
    if not hasattr(model, "__id_types__"):
        raise InvalidInputError(
            model.__name__,
            "has no __id_types__: its base declares those of the database, such as IdTypes(STRING, UUID)",
        )


@event.listens_for(HasIdTypes, "instrument_class", propagate=True)
def _refuse_schema_of_table(_mapper: Mapper[Any], model: type[HasIdTypes]) -> None:
    table = table_of(model)
    if table.schema != table.metadata.schema:
        raise InvalidInputError(
            model.__name__,
            f"has schema {table.schema} in __table_args__, where the foreign keys of the other classes do not look; "
            f"map all three on a base with metadata = MetaData(schema={table.schema!r})",
        )


class TimestampMixin:
    """``created_at`` and ``updated_at``: times with a time zone, set by the database's clock."""

    @declared_attr
    @classmethod
    def created_at(cls) -> Mapped[datetime]:
        return mapped_column(DateTime(timezone=True), server_default=func.now(), sort_order=10)

    @declared_attr
    @classmethod
    def updated_at(cls) -> Mapped[datetime]:
        # Not by a trigger, which takes 7.0 us an update in PL/pgSQL, while the statement takes 6.1.
        # clock_timestamp would run ahead of created_at within one transaction; now() keeps the two comparable.
        return mapped_column(DateTime(timezone=True), server_default=func.now(), onupdate=func.now(), sort_order=11)


class MetaMixin:
    """``meta``: a JSON object for the application."""

    @declared_attr
    @classmethod
    def meta(cls) -> Mapped[dict[str, Any]]:
        return mapped_column(ExactJSON(), server_default=text("'{}'::jsonb"), default=dict, sort_order=12)


def table_of(model: type[HasIdTypes]) -> Table:
    """Return the table that a model is mapped to."""
    table: Table = model.__table__
    return table


def thread_id_type(id_types: IdTypes[IdT, Any]) -> TypeEngine[IdT]:
    """Return the type for a host's column that refers to a thread or a message.

    A column of another type or collation can refer to a thread as well, but PostgreSQL does not use an index on it when
    it looks for the rows of one thread.
    """
    return id_types.id.sql_type()


def user_id_type(id_types: IdTypes[Any, UserIdT]) -> TypeEngine[UserIdT]:
    """Return the type for a host's column that holds a user's id, as ``threads.user_id`` does."""
    return id_types.user.sql_type()
