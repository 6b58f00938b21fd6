"""The table ``messages``."""

from __future__ import annotations

from typing import Any, Generic

from sqlalchemy import BigInteger, Identity, Index, Integer, String, Text, event, text
from sqlalchemy.orm import Mapped, Mapper, declared_attr, mapped_column

from agent_persistence.ids import IdT
from agent_persistence.models.base import HasIdTypes, MetaMixin, TimestampMixin, table_of
from agent_persistence.models.json_type import ExactJSON
from agent_persistence.models.roles import RoleType
from agent_persistence.models.thread import OfThreadMixin, key_column
from agent_persistence.records import MessageRole


class MessageMixin(OfThreadMixin[IdT], TimestampMixin, MetaMixin, Generic[IdT]):
    """One message of a thread; ``seq`` is its position."""

    __tablename__ = "messages"

    # Unique within its thread, not in the table: a global key would reveal which ids other owners use, and an upsert by
    # it could overwrite a message of another thread. The price is 31 to 51 % more index.
    @declared_attr
    @classmethod
    def message_id(cls) -> Mapped[IdT]:
        return key_column(cls.__id_types__.id)

    @declared_attr
    @classmethod
    def seq(cls) -> Mapped[int]:
        # Drawn while the thread's row is locked, so its order is the order of commits.
        return mapped_column(BigInteger, Identity())

    @declared_attr
    @classmethod
    def role(cls) -> Mapped[MessageRole | str]:
        return mapped_column(RoleType(schema=cls.metadata.schema), nullable=False)

    content: Mapped[str] = mapped_column(Text)
    tool_calls: Mapped[Any | None] = mapped_column(ExactJSON())
    tool_call_id: Mapped[str | None] = mapped_column(String(255))
    reasoning: Mapped[str | None] = mapped_column(Text)
    total_tokens: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)

    @declared_attr
    @classmethod
    def usages(cls) -> Mapped[dict[str, Any]]:
        return mapped_column(ExactJSON(), server_default=text("'{}'::jsonb"), default=dict)

    # What the columns cannot carry of the message as it was given (content that is null or a list of parts,
    # provider fields), so that it comes back equal. NULL for most messages.
    extra: Mapped[Any | None] = mapped_column(ExactJSON())
    # Who keeps this row among the messages although it is none of the conversation; NULL for a message.
    aside: Mapped[str | None] = mapped_column(String(64))


@event.listens_for(MessageMixin, "instrument_class", propagate=True)
def _add_order_index(_mapper: Mapper[Any], model: type[HasIdTypes]) -> None:
    columns = table_of(model).c
    # The last 20 of 20,000 messages take 14 buffers; with an index on the thread alone they take 10,547.
    Index("ix_messages_thread_id_seq", columns.thread_id, columns.seq)
