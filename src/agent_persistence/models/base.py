"""What every mapped class of this package shares."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final

from sqlalchemy import DateTime, MetaData, Table, func, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from agent_persistence.ids import IdTypes
from agent_persistence.models.json_type import ExactJSON

NAMING_CONVENTION: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class HasIdTypes:
    """What a mixin reads off the declarative base it is mapped on.

    Attributes:
        __id_types__: the id types of the database; a host's ``Base`` names them once for all three models.
    """

    __id_types__: ClassVar[IdTypes[Any, Any]]
    metadata: ClassVar[MetaData]
    __table__: ClassVar[Any]


class TimestampMixin:
    """``created_at`` and ``updated_at``, aware, set by the database's clock."""

    @declared_attr
    @classmethod
    def created_at(cls) -> Mapped[datetime]:
        return mapped_column(DateTime(timezone=True), server_default=func.now(), sort_order=10)

    @declared_attr
    @classmethod
    def updated_at(cls) -> Mapped[datetime]:
        # clock_timestamp would run ahead of created_at within one transaction; now() keeps the two comparable.
        return mapped_column(DateTime(timezone=True), server_default=func.now(), onupdate=func.now(), sort_order=11)


class MetaMixin:
    """``meta``: a JSON object of the application's own."""

    @declared_attr
    @classmethod
    def meta(cls) -> Mapped[dict[str, Any]]:
        return mapped_column(ExactJSON(), server_default=text("'{}'::jsonb"), default=dict, sort_order=12)


def table_of(model: type[HasIdTypes]) -> Table:
    """Return the table that a model is mapped to."""
    table: Table = model.__table__
    return table
