"""The conversation as Pydantic AI writes it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, ClassVar

from integrations.conversations import ASTRONAUT, CAT, PNG, Said, without_nul
from pydantic_ai import (
    BinaryContent,
    BinaryImage,
    CachePoint,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.conversation import Conversation

from agent_persistence.integrations.pydantic_ai import PersistenceConversationStore
from agent_persistence.persistence import Persistence


def _png() -> BinaryContent:
    return BinaryImage(base64.b64decode(PNG), media_type="image/png")


class PydanticAI:
    """Pydantic AI: requests and responses of several parts."""

    CONVERSATION: ClassVar = [
        ModelRequest([UserPromptPart("Snow in Oslo and Rome?")], instructions="Be brief."),
        ModelResponse(
            [
                ThinkingPart("Two cities.", signature="c2ln"),
                TextPart("I look."),
                ToolCallPart("weather", {"city": "Oslo"}, "call_1"),
                ToolCallPart("weather", '{"city": "Rome"}', "call_2"),
            ]
        ),
        ModelRequest(
            [ToolReturnPart("weather", "Snow", "call_1"), ToolReturnPart("weather", "no such city", "call_2")],
        ),
        ModelResponse([ThinkingPart("", id="rs_1", signature="c2ln")]),
        ModelResponse([TextPart("Only in Oslo.")]),
        ModelRequest([UserPromptPart(["What is this?", _png(), CachePoint()])]),
        ModelResponse([TextPart(CAT)]),
        ModelRequest([UserPromptPart(ASTRONAUT)]),
        ModelResponse([TextPart("And this: \ue000?")]),
        ModelRequest([UserPromptPart("half\0half")]),
        ModelResponse([NativeToolCallPart("web_search", {"query": "map"}, "ws_1")]),
        ModelResponse([ToolCallPart("weather", None, "call_3")]),
        ModelRequest([ToolReturnPart("weather", ["Map:", _png()], "call_3")]),
        ModelResponse([TextPart("Bye.")]),
    ]
    MORE: ClassVar = [ModelRequest([UserPromptPart("More?")])]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._store, self._thread_id = PersistenceConversationStore(persistence=persistence, user_id=user_id), thread_id

    async def write(self, items: list[Any]) -> None:
        conversation = await self._store.load(self._thread_id) or Conversation(conversation_id=self._thread_id)
        conversation.messages += items
        await self._store.save(conversation)

    async def read(self) -> list[Said]:
        conversation = await self._store.load(self._thread_id) or Conversation()
        return [said for message in conversation.messages for part in message.parts for said in _of_model_part(part)]


def _of_model_part(part: Any) -> Iterator[Said]:
    match part:
        case UserPromptPart():
            for kind, value in map(_of_content, [part.content] if isinstance(part.content, str) else part.content):
                if kind:
                    yield "user", kind, value
        case TextPart():
            yield "assistant", "text", part.content
        case ToolCallPart():
            yield "assistant", "call", part.tool_call_id, part.tool_name, part.args_as_dict()
        case ToolReturnPart():
            answers = part.content if isinstance(part.content, list) else [part.content]
            yield "tool", part.tool_call_id, *map(_of_content, answers)


def _of_content(content: Any) -> tuple[str, str]:
    match content:
        case str():
            return "text", without_nul(content)
        case BinaryContent():
            return "picture", content.data_uri
    return "", ""
