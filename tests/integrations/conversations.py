"""One conversation of 14 turns as each framework writes it, and what each reads in words that they have in common."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from agents import TResponseInputItem
from google.adk.events.event import Event
from google.genai.types import Content
from integrations.claude_agent.entries import Transcript, result, say, use

from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.integrations.openai_agents import PersistenceSession
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


def _model(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"author": "helper", "invocation_id": "i1", "content": {"role": "model", "parts": list(parts)}}


def _user(*parts: dict[str, Any], author: str = "user") -> dict[str, Any]:
    return {"author": author, "invocation_id": "i1", "content": {"role": "user", "parts": list(parts)}}


def _function(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"function_call": {"id": call_id, "name": "weather", "args": arguments}}


def _function_response(call_id: str, response: Any, **more: Any) -> dict[str, Any]:
    return {"function_response": {"id": call_id, "name": "weather", "response": response, **more}}


def _inline_png() -> dict[str, Any]:
    return {"inline_data": {"mime_type": "image/png", "data": PNG}}


class ADK:
    """Google ADK: events of a session."""

    CONVERSATION: ClassVar = [
        _user({"text": "Snow in Oslo and Rome?"}),
        _model({"text": "Two cities.", "thought": True, "thought_signature": "c2ln"}),
        _model({"text": "I look."}, _function("call_1", city="Oslo"), _function("call_2", city="Rome")),
        _user(
            _function_response("call_1", {"result": "Snow"}),
            _function_response("call_2", {"result": "no such city"}),
            author="helper",
        ),
        _model({"text": "Only in Oslo."}),
        {"author": "helper", "actions": {"state_delta": {"city": "Oslo"}}},
        _user({"text": "What is this?"}, _inline_png()),
        _model({"text": CAT}),
        _user({"text": ASTRONAUT}),
        _model({"text": "And this: \ue000?"}),
        _user({"text": "half\0half"}),
        _model(_function("call_3")),
        _user(_function_response("call_3", {"result": "Map:"}, parts=[_inline_png()]), author="helper"),
        _model({"text": "Bye."}),
    ]
    MORE: ClassVar = [_user({"text": "More?"})]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._service = PersistenceSessionService(persistence=persistence, scoped=False)
        self._key = {"app_name": "app", "user_id": user_id, "session_id": thread_id}

    async def write(self, items: list[Any]) -> None:
        session = await self._service.get_session(**self._key) or await self._service.create_session(**self._key)
        for item in items:
            await self._service.append_event(session, Event.model_validate(item))

    async def read(self) -> list[Said]:
        session = await self._service.get_session(**self._key)
        contents = [event.content for event in session.events] if session else []
        return [said for content in contents if content for said in _of_content(content)]


def _of_content(content: Content) -> Iterator[Said]:
    who = "assistant" if content.role == "model" else "user"
    for part in content.parts or ():
        if part.function_call:
            call = part.function_call
            yield "assistant", "call", call.id, call.name, call.args
        elif part.function_response:
            answer = part.function_response
            pictures = [("picture", _url(one.inline_data)) for one in answer.parts or ()]
            yield "tool", answer.id, ("text", (answer.response or {})["result"]), *pictures
        elif part.inline_data:
            yield who, "picture", _url(part.inline_data)
        elif not part.thought:
            yield who, "text", _without_nul(part.text or "")


def _url(blob: Any) -> str:
    return f"data:{blob.mime_type};base64,{base64.b64encode(blob.data).decode()}"


PROGRAMS: list[type[Program]] = [Core, OpenAI, Claude, ADK]
