"""Any sequence of calls of Pydantic AI's interface against its own store in memory."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_ai import ModelMessage, ModelRequest, ModelResponse, TextPart, ThinkingPart, ToolReturnPart
from pydantic_ai import conversation_store as interface
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationRecord, ConversationStore, InMemoryConversationStore
from pydantic_ai.exceptions import UserError
from pydantic_ai.usage import RunUsage

from agent_persistence.integrations.pydantic_ai import PersistenceConversationStore
from agent_persistence.persistence import Persistence

CHATS = ["c0", "c1", "c2"]
NUMBERS = st.integers(0, 5)
STEP = st.tuples(
    st.sampled_from(["load", "save", "save", "rewrite", "branch", "back", "fork", "delete", "window"]),
    st.sampled_from(CHATS),
    st.integers(0, 1),  # the writer: each has what it read of a conversation, stale or not
    NUMBERS,
)


def message(number: int) -> ModelMessage:
    time = datetime(2026, 11, 30, tzinfo=UTC) + timedelta(seconds=number)
    match number % 4:
        case 0:
            return ModelResponse([TextPart(f"t{number}")], timestamp=time)
        case 1:
            return ModelResponse([ThinkingPart(f"k{number}", signature="s")], timestamp=time)
        case 2:
            return ModelRequest([ToolReturnPart("f", number, f"c{part}", timestamp=time) for part in range(3)])
    return ModelRequest([])


def timeless(record: ConversationRecord) -> ConversationRecord:
    return replace(record, updated_at=datetime(2026, 11, 30, tzinfo=UTC))


class Player:
    """Plays steps on a store, and says what came of each.

    Attributes:
        store: the store.
        prefix: of its conversations' ids.
    """

    def __init__(self, store: ConversationStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix
        self._held: dict[tuple[str, int], Conversation] = {}
        self._entries: dict[str, list[str]] = {chat: [] for chat in CHATS}

    async def play(self, step: tuple[str, str, int, int], number: int) -> Any:
        what, chat, writer, where = step
        try:
            said = await getattr(self, f"_{what}")(chat, writer, where, number)
        except UserError as error:  # a conflict is one as well
            said = type(error)
        return said, [await self._told(chat) for chat in CHATS], await self._listed()

    async def _told(self, chat: str) -> Any:
        record = await self.store.read_record(self.prefix + chat)
        if record is None:
            return None
        lines = [await self.store.read_history(tip) for tip in [record.head_id, *record.branches]]
        return timeless(record), lines

    async def _listed(self) -> Any:
        found = await self.store.list_conversations()
        return [timeless(record) for record in found]

    def _mine(self, chat: str, writer: int) -> Conversation:
        return self._held.setdefault((chat, writer), Conversation(conversation_id=self.prefix + chat))

    async def _load(self, chat: str, writer: int, *_: int) -> Any:
        found = await self.store.load(self.prefix + chat)
        if found is not None:
            self._held[chat, writer] = found
        return found

    async def _window(self, chat: str, writer: int, where: int, _: int) -> Any:
        found = await self.store.load(self.prefix + chat, limit=where)
        if found is not None:
            self._held[chat, writer] = found
        return found

    async def _save(self, chat: str, writer: int, where: int, number: int) -> Any:
        mine = self._mine(chat, writer)
        mine.messages += [message(number * 10 + place) for place in range(where % 4)]
        mine.usage = RunUsage(requests=number)
        entries = await self.store.save(mine)
        self._entries[chat] += [entry.id for entry in entries]
        return entries

    async def _rewrite(self, chat: str, writer: int, where: int, number: int) -> Any:
        mine = self._mine(chat, writer)
        mine.messages[where:] = [message(number * 10)]
        return await self._save(chat, writer, 0, number)

    async def _branch(self, chat: str, writer: int, where: int, _: int) -> Any:
        mine = self._mine(chat, writer)
        branch = self.store.branch(self.prefix + chat, at=where, expected_revision=mine.revision)
        self._held[chat, writer] = await branch
        return self._held[chat, writer]

    async def _back(self, chat: str, writer: int, where: int, _: int) -> Any:
        mine = self._mine(chat, writer)
        entry = self._entries[chat][where % len(self._entries[chat])] if self._entries[chat] else "none"
        branch = self.store.branch(self.prefix + chat, from_entry=entry, expected_revision=mine.revision)
        self._held[chat, writer] = await branch
        return self._held[chat, writer]

    async def _fork(self, chat: str, writer: int, where: int, _: int) -> Any:
        new = CHATS[(CHATS.index(chat) + 1 + writer) % len(CHATS)]
        place: dict[str, Any] = {"at": where}
        if where > 3 and self._entries[chat]:
            place = {"from_entry": self._entries[chat][where % len(self._entries[chat])]}
        found = await self.store.fork(self.prefix + chat, **place, new_conversation_id=self.prefix + new)
        self._held[new, writer] = found
        self._entries[new] += self._entries[chat]
        return found

    async def _delete(self, chat: str, *_: int) -> None:
        await self.store.delete(self.prefix + chat)


@pytest.fixture
def same_ids(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let two stores draw the same ids in the same step."""
    numbers: Iterator[int] = count()

    def begin(step: int) -> None:
        nonlocal numbers
        numbers = count(step * 1000)

    monkeypatch.setattr(interface, "uuid7", lambda: uuid.UUID(int=next(numbers)))
    return begin


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=4, max_size=14))
async def test_any_calls_have_the_results_that_they_have_in_memory(
    steps: list[tuple[str, str, int, int]], persistence: Persistence, same_ids: Any
) -> None:
    prefix = f"{uuid.uuid4().hex}-"
    ours = Player(PersistenceConversationStore(persistence=persistence, user_id=prefix), prefix)
    theirs = Player(InMemoryConversationStore(), prefix)

    for number, step in enumerate(steps):
        same_ids(number)
        expected = copy.deepcopy(await theirs.play(step, number))
        same_ids(number)
        assert await ours.play(step, number) == expected
