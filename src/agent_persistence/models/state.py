"""The table ``states``: what an agent resumes from, one row a version."""

from __future__ import annotations

from typing import Any, Generic

from sqlalchemy import BigInteger, ForeignKey, Identity
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from agent_persistence.ids import IdT
from agent_persistence.models.base import HasIdTypes, MetaMixin, TimestampMixin
from agent_persistence.models.json_type import ExactJSON


class StateMixin(HasIdTypes, TimestampMixin, MetaMixin, Generic[IdT]):
    """One saved state of a thread; the one with the greatest ``state_id`` is the latest."""

    __tablename__ = "states"

    # The key leads with thread_id: "latest state of a thread" is then one probe of the one index there is.
    @declared_attr
    @classmethod
    def thread_id(cls) -> Mapped[IdT]:
        return mapped_column(
            cls.__id_types__.id.sql_type(),
            ForeignKey("threads.thread_id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            sort_order=-10,
        )

    @declared_attr
    @classmethod
    def state_id(cls) -> Mapped[int]:
        return mapped_column(BigInteger, Identity(), primary_key=True, sort_order=-9)

    @declared_attr
    @classmethod
    def state_data(cls) -> Mapped[Any]:
        return mapped_column(ExactJSON(), nullable=False)
