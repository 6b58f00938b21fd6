"""The table ``threads``."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic

from sqlalchemy import ColumnElement, DateTime, ForeignKey, Identity, Index, String, event
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, MappedColumn, Mapper, declared_attr, mapped_column

from agent_persistence.ids import IdT, IdType, T, UserIdT, id_maker
from agent_persistence.models.base import HasIdTypes, MetaMixin, TimestampMixin, table_of


def key_column(kind: IdType[T]) -> MappedColumn[T]:
    """A primary-key column: made by the database for int and bigint, by Python (UUIDv7) for string and uuid."""
    if kind.generated:
        return mapped_column(kind.sql_type(), Identity(), primary_key=True, sort_order=-10)
    return mapped_column(kind.sql_type(), primary_key=True, default=id_maker(kind, "uuid7"), sort_order=-10)


class ThreadMixin(HasIdTypes, TimestampMixin, MetaMixin, Generic[IdT, UserIdT]):
    """A conversation and its owner."""

    __tablename__ = "threads"

    @declared_attr
    @classmethod
    def thread_id(cls) -> Mapped[IdT]:
        return key_column(cls.__id_types__.id)

    @declared_attr
    @classmethod
    def user_id(cls) -> Mapped[UserIdT]:
        # Never generated, whatever its type: a default here would invent users.
        return mapped_column(cls.__id_types__.user.sql_type(), autoincrement=False)

    thread_name: Mapped[str | None] = mapped_column(String(255))
    archived_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @hybrid_property
    def archived(self) -> bool:
        """Whether the thread is archived."""
        return self.archived_at is not None

    @archived.inplace.expression
    @classmethod
    def _archived_expression(cls) -> ColumnElement[bool]:
        return cls.archived_at.is_not(None)


class OfThreadMixin(HasIdTypes, Generic[IdT]):
    """The thread that a row belongs to; it leads the primary key, so that a thread's rows lie together."""

    @declared_attr
    @classmethod
    def thread_id(cls) -> Mapped[IdT]:
        return mapped_column(
            cls.__id_types__.id.sql_type(),
            ForeignKey("threads.thread_id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            sort_order=-11,
        )


@event.listens_for(ThreadMixin, "instrument_class", propagate=True)
def _add_list_index(_mapper: Mapper[Any], model: type[HasIdTypes]) -> None:
    # Not in __table_args__: a host that maps the mixin on its own Base writes those, and would lose the index.
    columns = table_of(model).c
    Index(
        "ix_threads_user_id_updated_at",
        columns.user_id,
        columns.updated_at,
        columns.thread_id,
        postgresql_where=columns.archived_at.is_(None),
    )
