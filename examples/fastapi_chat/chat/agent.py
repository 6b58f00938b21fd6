"""The agent: everything about it that a database does not care about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends

ChatMessage = dict[str, Any]
Reply = Callable[[Sequence[ChatMessage]], Awaitable[ChatMessage]]


async def echo(messages: Sequence[ChatMessage]) -> ChatMessage:
    """Answer like a very small model."""
    return {"role": "assistant", "content": f"You said: {messages[-1]['content']}"}


async def get_reply() -> Reply:
    """Return what answers a conversation; return a call of your model here."""
    return echo


ReplyDep = Annotated[Reply, Depends(get_reply)]
