"""The table ``states``: one row a version, stored whole or as a change of another version."""

from __future__ import annotations

from typing import Any, Final, Generic

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Identity, Index, event
from sqlalchemy.orm import Mapped, Mapper, declared_attr, mapped_column

from agent_persistence.ids import IdT
from agent_persistence.models.base import HasIdTypes, MetaMixin, TimestampMixin, table_of
from agent_persistence.models.json_type import ExactJSON
from agent_persistence.models.state_versions import create_state_versions
from agent_persistence.models.thread import OfThreadMixin

# ``base_id < state_id`` excludes circles, in which a reader that follows the bases would never end.
WHOLE_OR_PATCH: Final = (
    "CASE WHEN base_id IS NULL THEN state_data IS NOT NULL AND patch IS NULL "
    "ELSE state_data IS NULL AND patch IS NOT NULL AND base_id < state_id END"
)


class StateMixin(OfThreadMixin[IdT], TimestampMixin, MetaMixin, Generic[IdT]):
    """One saved state of a thread; the one with the greatest ``state_id`` is the latest.

    A large state may be stored as ``patch``, the change since the version ``base_id``. Its ``state_data`` is NULL then;
    ``StateRepository`` and the view ``state_versions`` read it whole. A streamed state has a ``stream_id``, and its
    ``state_data`` describes the stream. ``mark`` is a random number drawn by whoever saved it.
    """

    __tablename__ = "states"

    # Behind thread_id in the primary key: "latest state of a thread" is one probe of the only index.
    @declared_attr
    @classmethod
    def state_id(cls) -> Mapped[int]:
        return mapped_column(BigInteger, Identity(), primary_key=True, sort_order=-9)

    @declared_attr
    @classmethod
    def state_data(cls) -> Mapped[Any]:
        return mapped_column(ExactJSON(), nullable=True)

    @declared_attr
    @classmethod
    def base_id(cls) -> Mapped[int | None]:
        return mapped_column(BigInteger, sort_order=20)

    @declared_attr
    @classmethod
    def patch(cls) -> Mapped[dict[str, Any] | None]:
        return mapped_column(ExactJSON(), sort_order=21)

    @declared_attr
    @classmethod
    def stream_id(cls) -> Mapped[int | None]:
        return mapped_column(BigInteger, sort_order=22)

    # By it the writer finds its row if the reply is lost, and proves that the base of a change is as it was saved: a
    # trigger empties it when the contents change. Not xmin and ctid, which partitions and other engines do not return.
    @declared_attr
    @classmethod
    def mark(cls) -> Mapped[int | None]:
        return mapped_column(BigInteger, sort_order=23)


@event.listens_for(StateMixin, "instrument_class", propagate=True)
def _keep_bases(_mapper: Mapper[Any], model: type[HasIdTypes]) -> None:
    # Not in __table_args__, which belong to the host. No version can be deleted while another rests on it. The
    # key is checked at the end of a statement, so the cascade that deletes all states of a thread passes.
    states = table_of(model)
    columns = states.c
    bases = [columns.thread_id, columns.state_id]
    states.append_constraint(ForeignKeyConstraint([columns.thread_id, columns.base_id], bases))
    states.append_constraint(CheckConstraint(WHOLE_OR_PATCH, "whole_or_patch"))
    # For that check and the trigger. Partial, because whole versions, which are most, rest on nothing.
    Index(
        "ix_states_thread_id_base_id",
        *[columns.thread_id, columns.base_id],
        postgresql_where=columns.base_id.is_not(None),
    )
    create_state_versions(states)
