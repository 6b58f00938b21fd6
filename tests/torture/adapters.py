"""Conversations that several frameworks write and read at once, each through its own adapter."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any, Protocol, cast

from claude_agent_sdk.types import SessionKey
from pydantic_ai import ModelRequest, UserPromptPart
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict

from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.integrations.pydantic_ai import PersistenceConversationStore
from torture.calls import Caller
from torture.history import message_of
from torture.workload import Store

OWNER = "owner-0"
PREFIX = "spoken-"
NEW_THREAD_SECONDS = 3
"""So often all processes begin another thread, whatever fault is active then."""
WHOLE = 1 << 30
MOST_CONFLICTS = 30
"""So often others may be faster; a store with a planted defect may conflict with itself."""


class Framework(Protocol):
    """One thread, as a framework sees it."""

    async def say(self, tokens: Sequence[str]) -> object:
        """Append messages, all or none; begin the thread if it is new."""

    async def hear(self) -> Sequence[str]:
        """Return what all messages say."""


class OpenAI:
    def __init__(self, store: Store, thread: str) -> None:
        self._session = PersistenceSession(thread, persistence=store, user_id=OWNER)

    async def say(self, tokens: Sequence[str]) -> None:
        await self._session.add_items(cast("Any", [message_of(token) for token in tokens]))

    async def hear(self) -> list[str]:
        return [cast("Any", item)["content"] for item in await self._session.get_items()]


class Claude:
    def __init__(self, store: Store, thread: str) -> None:
        self._store = PersistenceSessionStore(persistence=store, user_id=OWNER, scoped=False)
        self._key: SessionKey = {"project_key": "torture", "session_id": thread}

    async def say(self, tokens: Sequence[str]) -> None:
        new = [{"type": "user", "uuid": str(uuid.uuid4()), "message": message_of(token)} for token in tokens]
        await self._store.append(self._key, cast("Any", new))

    async def hear(self) -> list[str]:
        return [cast("Any", entry)["message"]["content"] for entry in await self._store.load(self._key) or ()]


class PydanticAI:
    def __init__(self, store: Store, thread: str) -> None:
        self._store = PersistenceConversationStore(persistence=store, user_id=OWNER)
        self._thread = thread

    async def say(self, tokens: Sequence[str]) -> None:
        for _ in range(MOST_CONFLICTS):
            conversation = await self._store.load(self._thread, limit=1) or Conversation(conversation_id=self._thread)
            conversation.messages += [ModelRequest([UserPromptPart(token)]) for token in tokens]
            with suppress(ConversationConflict):  # somebody was faster
                await self._store.save(conversation)
                return
        raise ConversationConflict(self._thread)

    async def hear(self) -> list[str]:
        conversation = await self._store.load(self._thread) or Conversation()
        return [cast("Any", part).content for message in conversation.messages for part in message.parts]


FRAMEWORKS: tuple[type[OpenAI | Claude | PydanticAI], ...] = (OpenAI, Claude, PydanticAI)


class Adapters:
    """What one process says and hears, through one framework or another."""

    def __init__(self, store: Store, caller: Caller, random: Random) -> None:
        self._store = store
        self._caller = caller
        self._random = random

    async def step(self) -> None:
        """Say something in the newest thread, or in the one before, and hear what was said in it."""
        newest = int(time.monotonic()) // NEW_THREAD_SECONDS  # all processes share this clock
        thread = f"{PREFIX}{self._random.choice([newest, newest, newest - 1])}"
        await self._say(thread, self._framework(thread))
        await self._hear(thread, self._framework(thread))

    def _framework(self, thread: str) -> Framework:
        return self._random.choice(FRAMEWORKS)(self._store, thread)

    async def _say(self, thread: str, framework: Framework) -> None:
        tokens = [self._caller.name("message") for _ in range(self._random.choice([1, 1, 3]))]
        await self._caller.call(
            "say", lambda: framework.say(tokens), lambda _: {},
            thread=thread, tokens=tokens, framework=type(framework).__name__,
        )  # fmt: skip

    async def _hear(self, thread: str, framework: Framework) -> None:
        await self._caller.call(
            "hear", framework.hear, lambda heard: {"heard": [*heard]},
            thread=thread, after=0, limit=WHOLE, framework=type(framework).__name__,
        )  # fmt: skip
