"""Bodies of requests and responses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class NewUser(BaseModel):
    """A user who signs up."""

    name: str = Field(min_length=1, max_length=255)


class SignedUp(BaseModel):
    """The new user; the token is never shown again."""

    user_id: int
    token: str
    thread_id: str


class NewThread(BaseModel):
    """A thread to create."""

    name: str | None = None


class NewTurn(BaseModel):
    """A user's message."""

    content: str = Field(min_length=1)


class Thread(BaseModel):
    """A conversation."""

    model_config = ConfigDict(from_attributes=True)

    thread_id: str
    name: str | None
    created_at: datetime
    updated_at: datetime


class Message(BaseModel):
    """A message in the chat-completions shape, with its id and time."""

    model_config = ConfigDict(from_attributes=True)

    message_id: str
    message: dict[str, Any]
    created_at: datetime


class State(BaseModel):
    """The state from which the agent resumes."""

    model_config = ConfigDict(from_attributes=True)

    version: int
    data: dict[str, Any]


class ThreadPage(BaseModel):
    """A page of threads; ``after`` is the cursor of the next page."""

    model_config = ConfigDict(from_attributes=True)

    items: list[Thread]
    after: str | None


class MessagePage(BaseModel):
    """A page of messages; ``before`` is the cursor of earlier ones, ``after`` of later ones."""

    model_config = ConfigDict(from_attributes=True)

    items: list[Message]
    before: str | None
    after: str | None
