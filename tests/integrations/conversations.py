"""One conversation of 14 turns as each framework writes it, and what each reads in words that they have in common."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from agents import TResponseInputItem
from integrations.claude_agent.entries import Transcript, result, say, use
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

from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.integrations.pydantic_ai import PersistenceConversationStore
from agent_persistence.persistence import Persistence

PNG = "iVBORw0KGgo="
URL = f"data:image/png;base64,{PNG}"
CAT, ASTRONAUT = "A cat 🐈‍⬛.", "👩‍🚀 Thanks!"

Said = tuple[Any, ...]
"""Who, what, and how: ``("user", "text", "Hi")``."""

SAID: list[Said] = [
    ("user", "text", "Snow in Oslo and Rome?"),
    ("assistant", "text", "I look."),
    ("assistant", "call", "call_1", "weather", {"city": "Oslo"}),
    ("assistant", "call", "call_2", "weather", {"city": "Rome"}),
    ("tool", "call_1", ("text", "Snow")),
    ("tool", "call_2", ("text", "no such city")),
    ("assistant", "text", "Only in Oslo."),
    ("user", "text", "What is this?"),
    ("user", "picture", URL),
    ("assistant", "text", CAT),
    ("user", "text", ASTRONAUT),
    ("assistant", "text", "And this: \ue000?"),
    ("user", "text", "half\ufffdhalf"),
    ("assistant", "call", "call_3", "weather", {}),
    ("tool", "call_3", ("text", "Map:"), ("picture", URL)),
    ("assistant", "text", "Bye."),
]


class Program(Protocol):
    """A framework whose thread others read.

    Attributes:
        CONVERSATION: the 14 turns, as it writes them.
        MORE: what it appends to a conversation of others.
    """

    CONVERSATION: ClassVar[list[Any]]
    MORE: ClassVar[list[Any]]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        """Open a thread."""

    async def write(self, items: list[Any]) -> None:
        """Append items."""

    async def read(self) -> list[Said]:
        """Return what the framework reads."""


def _chat_call(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": json.dumps(arguments)}}


def _picture() -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": URL}}


class Core:
    """The core: messages in the chat-completions shape."""

    CONVERSATION: ClassVar = [
        {"role": "user", "content": "Snow in Oslo and Rome?"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Two cities."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [_chat_call("call_1", city="Oslo"), _chat_call("call_2", city="Rome")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Snow"},
        {"role": "tool", "tool_call_id": "call_2", "content": "no such city"},
        {"role": "assistant", "content": "Only in Oslo."},
        {"role": "user", "content": [say("What is this?"), _picture()]},
        {"role": "assistant", "content": CAT},
        {"role": "user", "content": ASTRONAUT},
        {"role": "assistant", "content": "And this: \ue000?"},
        {"role": "user", "content": "half\ufffdhalf"},  # it refuses NUL
        {"role": "assistant", "content": "", "tool_calls": [_chat_call("call_3")]},
        {"role": "tool", "tool_call_id": "call_3", "content": [say("Map:"), _picture()]},
        {"role": "assistant", "content": "Bye."},
    ]
    MORE: ClassVar = [{"role": "user", "content": "More?"}]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._persistence, self._thread_id, self._user_id = persistence, thread_id, user_id

    async def write(self, items: list[Any]) -> None:
        if await self._persistence.threads.get(self._thread_id, user_id=self._user_id) is None:
            await self._persistence.threads.create(thread_id=self._thread_id, user_id=self._user_id)
        await self._persistence.messages.append_many(self._thread_id, items, user_id=self._user_id)

    async def read(self) -> list[Said]:
        page = await self._persistence.messages.page(self._thread_id, user_id=self._user_id)
        return [said for message in page for said in _of_chat(message.message)]


def _of_chat(chat: dict[str, Any]) -> Iterator[Said]:
    content = chat["content"]
    parts = [("text", content)] if isinstance(content, str) and content else []
    if isinstance(content, list):
        parts = [("text", one["text"]) if "text" in one else ("picture", one["image_url"]["url"]) for one in content]
    if chat["role"] == "tool":
        yield "tool", chat["tool_call_id"], *parts
        return
    for kind, value in parts:
        yield chat["role"], kind, value
    for call in chat.get("tool_calls") or ():
        function = call["function"]
        yield "assistant", "call", call["id"], function["name"], json.loads(function["arguments"])


def _output(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _function_call(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {
        "id": f"fc_{call_id}",
        "type": "function_call",
        "call_id": call_id,
        "name": "weather",
        "arguments": json.dumps(arguments),
        "status": "completed",
    }


class OpenAI:
    """The OpenAI Agents SDK: items of the Responses API."""

    CONVERSATION: ClassVar = [
        {"role": "user", "content": "Snow in Oslo and Rome?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Two cities."}]},
        _output("I look."),
        _function_call("call_1", city="Oslo"),
        _function_call("call_2", city="Rome"),
        {"type": "function_call_output", "call_id": "call_1", "output": "Snow"},
        {"type": "function_call_output", "call_id": "call_2", "output": "no such city"},
        _output("Only in Oslo."),
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": URL, "detail": "auto"},
            ],
        },
        _output(CAT),
        {"role": "user", "content": ASTRONAUT},
        _output("And this: \ue000?"),
        {"role": "user", "content": "half\0half"},
        _function_call("call_3"),
        {
            "type": "function_call_output",
            "call_id": "call_3",
            "output": [{"type": "input_text", "text": "Map:"}, {"type": "input_image", "image_url": URL}],
        },
        _output("Bye."),
    ]
    MORE: ClassVar = [{"role": "user", "content": "More?"}]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._session = PersistenceSession(thread_id, persistence=persistence, user_id=user_id)

    async def write(self, items: list[TResponseInputItem]) -> None:
        await self._session.add_items(items)

    async def read(self) -> list[Said]:
        items: list[Any] = await self._session.get_items()
        return [said for item in items for said in _of_item(item)]


def _of_item(item: dict[str, Any]) -> Iterator[Said]:
    match item:
        case {"type": "reasoning"}:
            return
        case {"type": "function_call"}:
            yield "assistant", "call", item["call_id"], item["name"], json.loads(item["arguments"])
        case {"type": "function_call_output"}:
            yield "tool", item["call_id"], *_of_parts(item["output"])
        case _:
            for kind, value in _of_parts(item["content"]):
                yield item["role"], kind, value


def _of_parts(content: Any) -> Iterator[tuple[str, str]]:
    for part in [{"text": content}] if isinstance(content, str) else content:
        yield ("text", _without_nul(part["text"])) if "text" in part else ("picture", part["image_url"])


def _without_nul(text: str) -> str:
    """Return a text as PostgreSQL keeps it, and so as all others read it."""
    return text.replace("\0", "\ufffd")


def _claude_conversation() -> list[dict[str, Any]]:
    made = Transcript()
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    return [
        made.entry("user", "Snow in Oslo and Rome?"),
        made.entry("assistant", [{"type": "thinking", "thinking": "Two cities.", "signature": "c2ln"}]),
        made.entry("assistant", [say("I look.")]),
        made.entry("assistant", [use("call_1", city="Oslo")]),
        made.entry("assistant", [use("call_2", city="Rome")]),
        made.entry("user", [result("call_1", "Snow"), result("call_2", "no such city", is_error=True)]),
        made.entry("assistant", [say("Only in Oslo.")]),
        made.entry("user", [say("What is this?"), png]),
        made.linked({"type": "system", "subtype": "turn_duration"}),
        made.entry("assistant", [say(CAT)]),
        made.entry("user", [say(ASTRONAUT)]),
        made.entry("assistant", [say("And this: \ue000?")]),
        made.entry("user", "half\0half"),
        made.entry("assistant", [use("call_3")]),
        made.entry("user", [result("call_3", [say("Map:"), png])]),
        made.entry("assistant", [say("Bye.")]),
        {"type": "custom-title", "customTitle": "Weather"},
    ]


class Claude:
    """The Claude Agent SDK: entries of a transcript."""

    CONVERSATION: ClassVar = _claude_conversation()
    MORE: ClassVar = [Transcript().entry("user", "More?")]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._store = PersistenceSessionStore(persistence=persistence, user_id=user_id, scoped=False)
        self._key: Any = {"project_key": "p", "session_id": thread_id}

    async def write(self, items: list[Any]) -> None:
        await self._store.append(self._key, items)

    async def read(self) -> list[Said]:
        entries: list[Any] = await self._store.load(self._key) or []
        return [said for entry in entries if "message" in entry for said in _of_message(**entry["message"])]


def _of_message(role: str, content: Any, **_: Any) -> Iterator[Said]:
    for block in [say(content)] if isinstance(content, str) else content:
        match block["type"]:
            case "text" | "image":
                yield role, *_of_block(block)
            case "tool_use":
                yield role, "call", block["id"], block["name"], block["input"]
            case "tool_result":
                answer = block["content"]
                parts = [say(answer)] if isinstance(answer, str) else answer
                yield "tool", block["tool_use_id"], *map(_of_block, parts)


def _of_block(block: dict[str, Any]) -> tuple[str, str]:
    if block["type"] == "text":
        return "text", _without_nul(block["text"])
    source = block["source"]
    return "picture", f"data:{source['media_type']};base64,{source['data']}"


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
            return "text", _without_nul(content)
        case BinaryContent():
            return "picture", content.data_uri
    return "", ""


PROGRAMS: list[type[Program]] = [Core, OpenAI, Claude, PydanticAI]
