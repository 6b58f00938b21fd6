"""The conversation of all frameworks as Agentflow and PyAgenity write and read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from integrations.agentflow.frameworks import framework
from integrations.conversations import ASTRONAUT, CAT, PNG, URL, Said, chat_call, without_nul

from agent_persistence.persistence import Persistence


def _conversation(words: Any) -> list[Any]:
    blocks = words.messages

    def said(role: str, *content: Any, **fields: Any) -> Any:
        return words.message(role=role, content=[*content], **fields)

    def text(given: str) -> Any:
        return blocks.TextBlock(text=given)

    def answer(call_id: str, output: Any, *, is_error: bool = False) -> Any:
        return said("tool", blocks.ToolResultBlock(call_id=call_id, output=output, is_error=is_error))

    media = blocks.MediaRef(kind="data", data_base64=PNG, mime_type="image/png")
    picture = blocks.ImageBlock(media=media)
    calls = [chat_call("call_1", city="Oslo"), chat_call("call_2", city="Rome")]
    return [
        said("user", text("Snow in Oslo and Rome?")),
        said("assistant", blocks.ReasoningBlock(summary="Two cities."), reasoning="Two cities."),
        said("assistant", text("I look.")),
        said("assistant", tools_calls=calls),
        answer("call_1", "Snow"),
        answer("call_2", "no such city", is_error=True),
        said("assistant", text("Only in Oslo.")),
        said("user", text("What is this?"), picture),
        said("assistant", text(CAT)),
        said("user", text(ASTRONAUT)),
        said("assistant", text("And this: \ue000?")),
        said("user", text("half\0half")),
        said("assistant", tools_calls=[chat_call("call_3")]),
        answer("call_3", [text("Map:").model_dump(mode="json"), picture.model_dump(mode="json")]),
        said("assistant", text("Bye.")),
    ]


class _Checkpointed:
    """A framework whose checkpointer keeps messages."""

    words: ClassVar[Any]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._checkpointer = self.words.ours(persistence=persistence)
        self._config = {"thread_id": thread_id, "user_id": user_id}

    async def write(self, items: list[Any]) -> None:
        await self._checkpointer.aput_messages(self._config, items)

    async def read(self) -> list[Said]:
        messages = await self._checkpointer.alist_messages(self._config)
        return [said for message in messages for said in _of_message(message.model_dump(mode="json"))]


class Agentflow(_Checkpointed):
    """Agentflow."""

    words: ClassVar = framework("agentflow")
    CONVERSATION: ClassVar = _conversation(words)
    MORE: ClassVar = [words.text("More?")]


class PyAgenity(_Checkpointed):
    """PyAgenity."""

    words: ClassVar = framework("pyagenity")
    CONVERSATION: ClassVar = _conversation(words)
    MORE: ClassVar = [words.text("More?")]


def _of_message(message: dict[str, Any]) -> Iterator[Said]:
    for block in message["content"]:
        match block:
            case {"type": "tool_result", "call_id": call_id, "output": output}:
                yield "tool", call_id, *(_of_block(one) for one in _blocks_of(output))
            case {"type": "reasoning"}:
                pass
            case _:
                yield message["role"], *_of_block(block)
    for call in message["tools_calls"] or ():
        function = call["function"]
        yield "assistant", "call", call["id"], function["name"], json.loads(function["arguments"])


def _blocks_of(output: Any) -> list[Any]:
    return [{"type": "text", "text": output}] if isinstance(output, str) else output


def _of_block(block: dict[str, Any]) -> tuple[str, str]:
    if block["type"] == "text":
        return "text", without_nul(block["text"])
    return "picture", block["media"]["url"] or URL
