"""LangChain's messages in the chat-completions shape, as JSON: with their text, whatever else is in them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    ToolMessage,
    convert_to_messages,
    convert_to_openai_messages,
)
from pydantic import BaseModel

from agent_persistence.encoding.chat_messages import check_shape
from agent_persistence.encoding.exact_json import sanitize
from agent_persistence.errors import InvalidInputError

_ROLES: Final = {"human": "user", "ai": "assistant"}  # LangChain's other types are roles
_DEEPEST: Final = 100  # far less than JSON may be nested, because a message is only a part of what is stored
_LARGEST_INT: Final = 2**63 - 1
_MOST_BITS: Final = 1024  # Python writes no int of more than 4,300 digits
_MOST_TOKENS: Final = 2**31 - 1


def message_of(given: Any) -> BaseMessage | None:
    """Return a message that a channel holds as LangChain's; ``None`` if it has no text to tell."""
    try:
        [message] = convert_to_messages([given])
    except Exception:  # noqa: BLE001 - LangChain raises anything for what it does not know
        if isinstance(given, tuple | list):
            given = dict(zip(("role", "content"), given, strict=False))
        if not isinstance(given, Mapping) or not isinstance(given.get("content"), str | list):
            return None
        own_id = given.get("id")
        return ChatMessage(
            role=str(given.get("role") or given.get("type") or "user"),
            content=given["content"],
            id=own_id if isinstance(own_id, str) else None,
        )
    return message


def chat_messages_of(message: BaseMessage) -> list[dict[str, Any]]:
    """Convert a message; one with the results of tools becomes several."""
    try:
        chats: list[dict[str, Any]] = convert_to_openai_messages([message])
    except Exception:  # noqa: BLE001 - LangChain raises anything for a part that it does not know
        chats = _part_by_part(message)
    chats = [{**_told_apart(message, chats[0]), **chats[0]}, *chats[1:]]
    return [sanitize(_plain(_with_known_role(chat)), "message") for chat in chats]


def usage_of(message: BaseMessage) -> dict[str, Any]:
    """Return the fields ``total_tokens`` and ``usages`` of a message."""
    used: Mapping[str, Any] | None = message.usage_metadata if isinstance(message, AIMessage) else None
    if not used:
        return {}
    total = used.get("total_tokens")
    # Providers report sums that are wrong; ``usages`` keeps them.
    counted = min(max(total, 0), _MOST_TOKENS) if isinstance(total, int) else 0
    return {"total_tokens": counted, "usages": sanitize(_plain(dict(used)), "usages")}


def text_only(chat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with no more than its role and its text."""
    content = chat.get("content")
    texts = [content] if isinstance(content, str) else [_text_of(part) for part in content or ()]
    kept = {key: chat[key] for key in ("role", "tool_call_id") if key in chat}
    return {**kept, "content": "\n".join(filter(None, texts))}


def _part_by_part(message: BaseMessage) -> list[dict[str, Any]]:
    """Convert a message of which LangChain cannot convert a part: that part stays as it is."""
    chat = _without_content(message)
    if isinstance(message.content, str):
        return [{**chat, "content": message.content}]
    parts: list[Any] = []
    others: list[dict[str, Any]] = []
    calls = list(chat.get("tool_calls") or ())
    for part in message.content:
        alone = type(message).model_construct(**{**dict(message), "content": [part], "tool_calls": []})
        try:
            converted = convert_to_openai_messages([alone], text_format="block")
        except Exception:  # noqa: BLE001 - as above
            parts.append({"type": "text", "text": part} if isinstance(part, str) else part)
            continue
        for one in converted:
            if one["role"] != chat["role"]:
                others.append(one)
                continue
            parts += one["content"] or ()
            calls += [call for call in one.get("tool_calls") or () if call not in calls]
    return [{**chat, **({"tool_calls": calls} if calls else {}), "content": parts}, *others]


def _without_content(message: BaseMessage) -> dict[str, Any]:
    try:
        [bare] = convert_to_openai_messages([message.model_copy(update={"content": ""})])
        return dict(bare)
    except Exception:  # noqa: BLE001 - as above
        role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type, message.type)
        chat: dict[str, Any] = {"role": role}
        if isinstance(message, ToolMessage):
            chat["tool_call_id"] = message.tool_call_id
        if isinstance(message, AIMessage) and message.tool_calls:
            chat["tool_calls"] = [_call(call) for call in message.tool_calls]
    return chat


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(_plain(call.get("args")), ensure_ascii=False)
    return {"type": "function", "id": call.get("id"), "function": {"name": call.get("name"), "arguments": arguments}}


def _told_apart(message: BaseMessage, chat: Mapping[str, Any]) -> dict[str, Any]:
    """Return what LangChain's conversion leaves out: reasoning, calls that could not be read, a tool's failure."""
    found: dict[str, Any] = {}
    reasoning = message.additional_kwargs.get("reasoning_content") or "\n".join(_reasoning_in(chat.get("content")))
    if isinstance(reasoning, str) and reasoning:
        found["reasoning_content"] = reasoning
    if isinstance(message, AIMessage) and message.invalid_tool_calls:
        found["invalid_tool_calls"] = [dict(call) for call in message.invalid_tool_calls]
    if isinstance(message, ToolMessage) and message.status == "error":
        found["status"] = message.status
    return found


def _reasoning_in(content: Any) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("reasoning", "thinking") and isinstance(part.get(kind), str):
            yield part[kind]


def _text_of(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""


def _with_known_role(chat: dict[str, Any]) -> dict[str, Any]:
    try:
        check_shape(chat)
    except InvalidInputError:
        # A role that somebody made up is the name of a participant.
        return {**chat, "role": "user", "name": chat.get("name") or str(chat.get("role"))}
    return chat


def _plain(value: Any, depth: int = 0) -> Any:
    """Copy a value as JSON; what JSON has no word for becomes a text."""
    if value is None or isinstance(value, bool | float | str | int | bytes | bytearray):
        return _scalar(value)
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    is_listed = isinstance(value, list | tuple | set | frozenset | deque)
    return [_plain(item, depth + 1) for item in value] if is_listed else f"<{type(value).__name__}>"


def _scalar(value: Any) -> Any:
    # Subclasses, such as an enum of texts, become what JSON reads back.
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        in_words = str(int(value)) if value.bit_length() < _MOST_BITS else "<int>"
        return int(value) if abs(value) <= _LARGEST_INT else in_words
    return value
