"""One conversation of 14 turns as each framework writes it, and what each reads in words that they have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from agents import TResponseInputItem
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph

from agent_persistence.integrations.langgraph import PersistenceSaver, messages_of
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.persistence import Persistence
from agent_persistence.records import Page

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


def say(text: str) -> dict[str, Any]:
    """A part or a block of text, as nearly all write it."""
    return {"type": "text", "text": text}


def chat_call(call_id: str, **arguments: Any) -> dict[str, Any]:
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
            "tool_calls": [chat_call("call_1", city="Oslo"), chat_call("call_2", city="Rome")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Snow"},
        {"role": "tool", "tool_call_id": "call_2", "content": "no such city"},
        {"role": "assistant", "content": "Only in Oslo."},
        {"role": "user", "content": [say("What is this?"), _picture()]},
        {"role": "assistant", "content": CAT},
        {"role": "user", "content": ASTRONAUT},
        {"role": "assistant", "content": "And this: \ue000?"},
        {"role": "user", "content": "half\ufffdhalf"},  # it refuses NUL
        {"role": "assistant", "content": "", "tool_calls": [chat_call("call_3")]},
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
        yield ("text", without_nul(part["text"])) if "text" in part else ("picture", part["image_url"])


def without_nul(text: str) -> str:
    """Return a text as PostgreSQL keeps it, and so as all others read it."""
    return text.replace("\0", "\ufffd")


def _langchain_call(call_id: str, **arguments: Any) -> Any:
    return {"name": "weather", "args": arguments, "id": call_id, "type": "tool_call"}


_CALL_BLOCK = {"type": "tool_use", "id": "call_3", "name": "weather", "input": {}}


class LangGraph:
    """A graph of LangGraph, whose state is LangChain's messages."""

    CONVERSATION: ClassVar = [
        HumanMessage("Snow in Oslo and Rome?"),
        AIMessage([{"type": "thinking", "thinking": "Two cities.", "signature": "c2ln"}, say("I look.")]),
        AIMessage("", tool_calls=[_langchain_call("call_1", city="Oslo"), _langchain_call("call_2", city="Rome")]),
        ToolMessage("Snow", tool_call_id="call_1"),
        ToolMessage("no such city", tool_call_id="call_2", status="error"),
        AIMessage("Only in Oslo."),
        HumanMessage([say("What is this?"), {"type": "image", "base64": PNG, "mime_type": "image/png"}]),
        AIMessage(CAT),
        HumanMessage(ASTRONAUT),
        AIMessage("And this: \ue000?"),
        HumanMessage("half\0half"),
        AIMessage(
            [{"type": "tool_use", "id": "call_3", "name": "weather", "input": {}}],
            tool_calls=[_langchain_call("call_3")],
        ),
        ToolMessage([say("Map:"), _picture()], tool_call_id="call_3"),
        AIMessage("Bye."),
    ]
    MORE: ClassVar = [HumanMessage("More?")]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._persistence, self._user_id = persistence, user_id
        graph = StateGraph(MessagesState).add_node("listen", lambda _: {}).add_edge(START, "listen")
        self._graph = graph.compile(checkpointer=PersistenceSaver(persistence, user_id=user_id))
        self._config: Any = {"configurable": {"thread_id": thread_id}}

    async def write(self, items: list[Any]) -> None:
        others = messages_of(await self._page())
        said: Any = {"messages": [*others, *(item.model_copy() for item in items)]}  # the graph gives them ids
        await self._graph.ainvoke(said, self._config)

    async def read(self) -> list[Said]:
        return [said for message in messages_of(await self._page()) for said in _of_langchain(message)]

    async def _page(self) -> Page[Any]:
        thread_id = self._config["configurable"]["thread_id"]
        return await self._persistence.messages.page(thread_id, user_id=self._user_id, asides="langgraph")


def _of_langchain(message: BaseMessage) -> Iterator[Said]:
    role = {"human": "user", "ai": "assistant"}.get(message.type, message.type)
    parts = [part for block in message.content_blocks for part in _of_content_block(block)]
    if isinstance(message, ToolMessage):
        yield "tool", message.tool_call_id, *parts
        return
    for part in parts:
        yield role, *part
    for call in message.tool_calls if isinstance(message, AIMessage) else ():
        yield "assistant", "call", call["id"], call["name"], call["args"]


def _of_content_block(block: Any) -> Iterator[tuple[str, str]]:
    match block:
        case {"type": "text", "text": str(text)} if text:
            yield "text", without_nul(text)
        case {"type": "image", "base64": data, "mime_type": mime_type}:
            yield "picture", f"data:{mime_type};base64,{data}"
        case {"type": "image", "url": url}:
            yield "picture", url
