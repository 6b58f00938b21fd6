"""Bodies of requests and responses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Title(BaseModel):
    """The title of a thread; without one, the first message becomes it."""

    name: str | None = Field(None, min_length=1, max_length=255)


class Thread(BaseModel):
    """A line of the sidebar."""

    model_config = ConfigDict(from_attributes=True)

    thread_id: str
    name: str | None
    updated_at: datetime


class Sidebar(BaseModel):
    """A page of threads; ``after`` is the cursor of the next page."""

    model_config = ConfigDict(from_attributes=True)

    items: list[Thread]
    after: str | None


class Message(BaseModel):
    """A message of a branch.

    Attributes:
        branches: the last messages of all branches from here on, this one's included: ask for one with ``last``.
        branch: the place of this branch among them.
    """

    message_id: str
    role: str
    text: str
    branches: list[str]
    branch: int


class History(BaseModel):
    """A branch of a conversation; ``before`` is the cursor of earlier messages, ``last`` the one they end with."""

    messages: list[Message]
    before: str | None
    last: str | None


class Pause(BaseModel):
    """A question of the graph, which ``resume`` answers."""

    interrupt_id: str
    value: Any


class Turn(BaseModel):
    """A user's message.

    Attributes:
        after: the message that it follows, where that is not the latest one: it continues an older branch.
    """

    content: str = Field(min_length=1)
    after: str | None = None


class Decision(BaseModel):
    """The answer to an interrupt."""

    value: Any


class Again(BaseModel):
    """The user's message that is answered once more.

    Attributes:
        content: what the user says in its place, where the message was edited.
    """

    message_id: str
    content: str | None = Field(None, min_length=1)
