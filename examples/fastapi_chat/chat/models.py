"""The application's tables, and those of agent-persistence mapped beside them."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKeyConstraint, Identity, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from agent_persistence import BIGINT, STRING, IdTypes, MessageMixin, Models, StateMixin, ThreadMixin
from agent_persistence.models import NAMING_CONVENTION


class Base(DeclarativeBase):
    """What every table of this database shares: thread ids are strings, user ids are bigints."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    __id_types__ = IdTypes(STRING, BIGINT)


class User(Base):
    """Somebody who chats."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    token_digest: Mapped[str] = mapped_column(String(64), unique=True)

    threads: Mapped[list[Thread]] = relationship(back_populates="user", lazy="raise", passive_deletes="all")


class Thread(ThreadMixin[str, int], Base):
    """A conversation. It goes when its user goes."""

    __table_args__ = (ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),)

    user: Mapped[User] = relationship(back_populates="threads", lazy="raise")


class State(StateMixin[str], Base):
    """What the agent resumes from."""


class Message(MessageMixin[str], Base):
    """What was said."""


models = Models(Thread, State, Message)
