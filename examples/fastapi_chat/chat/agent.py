"""The agent, which knows nothing of the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends

ChatMessage = dict[str, Any]
Reply = Callable[[Sequence[ChatMessage]], Awaitable[ChatMessage]]


async def echo(messages: Sequence[ChatMessage]) -> ChatMessage:
    """Repeat the last message; a placeholder for a model."""
    return {"role": "assistant", "content": f"You said: {messages[-1]['content']}"}


async def get_reply() -> Reply:
    """Return the function that answers a conversation; return one that calls your model here."""
    return echo


ReplyDep = Annotated[Reply, Depends(get_reply)]
