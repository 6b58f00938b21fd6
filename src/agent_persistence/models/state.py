"""The table ``states``: what an agent resumes from, one row a version."""

from __future__ import annotations

from typing import Any, Generic

from sqlalchemy import BigInteger, Identity
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from agent_persistence.ids import IdT
from agent_persistence.models.base import MetaMixin, TimestampMixin
from agent_persistence.models.json_type import ExactJSON
from agent_persistence.models.thread import OfThreadMixin


class StateMixin(OfThreadMixin[IdT], TimestampMixin, MetaMixin, Generic[IdT]):
    """One saved state of a thread; the one with the greatest ``state_id`` is the latest."""

    __tablename__ = "states"

    # Behind thread_id in the key: "latest state of a thread" is then one probe of the one index there is.
    @declared_attr
    @classmethod
    def state_id(cls) -> Mapped[int]:
        return mapped_column(BigInteger, Identity(), primary_key=True, sort_order=-9)

    @declared_attr
    @classmethod
    def state_data(cls) -> Mapped[Any]:
        return mapped_column(ExactJSON(), nullable=False)
