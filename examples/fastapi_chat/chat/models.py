"""The application's tables, and the tables of agent-persistence on the same base."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKeyConstraint, Identity, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from agent_persistence import BIGINT, STRING, IdTypes, MessageMixin, Models, StateMixin, ThreadMixin
from agent_persistence.models import NAMING_CONVENTION


class Base(DeclarativeBase):
    """The base of all tables: thread ids are strings, user ids are bigints."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    __id_types__ = IdTypes(STRING, BIGINT)


class User(Base):
    """A user."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    token_digest: Mapped[str] = mapped_column(String(64), unique=True)

    threads: Mapped[list[Thread]] = relationship(back_populates="user", lazy="raise", passive_deletes="all")


class Thread(ThreadMixin[str, int], Base):
    """A conversation. It is deleted with its user."""

    __table_args__ = (ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),)

    user: Mapped[User] = relationship(back_populates="threads", lazy="raise")


class State(StateMixin[str], Base):
    """The state from which an agent resumes."""


class Message(MessageMixin[str], Base):
    """A message of a conversation."""


models = Models(Thread, State, Message)
