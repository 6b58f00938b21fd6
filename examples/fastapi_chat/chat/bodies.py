"""What requests and responses hold, where it is not a record of agent-persistence as it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class NewUser(BaseModel):
    """Somebody who signs up."""

    name: str = Field(min_length=1, max_length=255)


class SignedUp(BaseModel):
    """The one time that the token is shown."""

    user_id: int
    token: str
    thread_id: str


class NewThread(BaseModel):
    """A conversation to start."""

    name: str | None = None


class NewTurn(BaseModel):
    """What the user says."""

    content: str = Field(min_length=1)


class Thread(BaseModel):
    """A conversation."""

    model_config = ConfigDict(from_attributes=True)

    thread_id: str
    name: str | None
    created_at: datetime
    updated_at: datetime


class Message(BaseModel):
    """A message, in the chat-completions shape, and its place."""

    model_config = ConfigDict(from_attributes=True)

    message_id: str
    message: dict[str, Any]
    created_at: datetime


class State(BaseModel):
    """What the agent resumes from."""

    model_config = ConfigDict(from_attributes=True)

    version: int
    data: dict[str, Any]


class ThreadPage(BaseModel):
    """Some threads; ``after`` leads to the next ones."""

    model_config = ConfigDict(from_attributes=True)

    items: list[Thread]
    after: str | None


class MessagePage(BaseModel):
    """Some messages; ``before`` leads to earlier ones, ``after`` to what was said since."""

    model_config = ConfigDict(from_attributes=True)

    items: list[Message]
    before: str | None
    after: str | None
