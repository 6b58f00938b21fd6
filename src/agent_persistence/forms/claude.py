"""Entries of a transcript, as the Claude Agent SDK keeps them.

A ``user`` or ``assistant`` entry is a message, or several if it answers several tool calls. All other entries are
asides, and so are those that the CLI adds to the conversation on its own: nobody has said them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Final

from agent_persistence.forms.base64_urls import base64_url, media_of
from agent_persistence.forms.chats import calls_of, function_of, text_of
from agent_persistence.forms.form import Chat, Form, Item, Said

_TEXT: Final = "text"
"""The hint of an entry whose content is a text."""
_BLOCKS: Final = "blocks"
"""The hint of an entry whose content is a list of blocks."""
_MARKS: Final = ("isMeta", "isCompactSummary", "isVisibleInTranscriptOnly", "isApiErrorMessage")
"""Of entries that the CLI adds: context, the summary of a compaction, and errors of the API."""


class ClaudeForm(Form):
    """Entries of the Claude Agent SDK, with messages in the shape of Anthropic's API."""

    key: ClassVar[str] = "claude"

    def say(self, item: Item) -> Said:  # noqa: D102
        role, message = item.get("type"), item.get("message")
        if role not in ("user", "assistant") or not isinstance(message, Mapping) or message.get("role") != role:
            return Said(())
        content = message.get("content")
        if isinstance(content, str):
            chats, hint = [{"role": role, "content": content}] if content else [], _TEXT
        else:
            blocks = [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []
            chats, hint = _say_request(blocks) if role == "user" else _say_reply(blocks), _BLOCKS
            if not chats:
                return Said((), shown=_shown_thinking(blocks))
        if any(item.get(mark) for mark in _MARKS):
            return Said((), shown=chats[0] if len(chats) == 1 else None)
        return Said(chats, hint)

    def items(self, chat: Chat, hint: str | None = None) -> list[Item]:  # noqa: D102
        role, content = chat.get("role"), chat.get("content")
        if role in ("tool", "function"):
            return [_entry("user", [_result(chat)])]
        if role not in ("user", "assistant"):
            return []  # instructions are an option of the SDK, and not in its transcripts
        calls = [_tool_use(call) for call in calls_of(chat)]
        if isinstance(content, str) and content and not calls and (hint or _default_hint(role)) == _TEXT:
            return [_entry(role, content)]
        blocks = [*_blocks(content), *calls]
        return [_entry(role, blocks)] if blocks else []

    def joined(self, items: Sequence[Item]) -> Item | None:  # noqa: D102
        if len(items) <= 1:
            return items[0] if items else None
        contents = [item["message"]["content"] for item in items]
        if any(item["type"] != "user" for item in items) or not all(isinstance(one, list) for one in contents):
            return None
        return _entry("user", [block for content in contents for block in content])


def _default_hint(role: str) -> str:
    return _TEXT if role == "user" else _BLOCKS  # as the CLI writes them


def _entry(role: str, content: Any) -> Item:
    return {"type": role, "message": {"role": role, "content": content}}


def _say_request(blocks: Sequence[Mapping[str, Any]]) -> list[Chat]:
    """Return the answers of tools and the messages of the user in their order."""
    chats: list[Chat] = []
    for is_answer, group in groupby(blocks, key=_is_answer):
        if is_answer:
            chats += [_answer(block) for block in group]
        elif content := _content_of(list(group)):
            chats.append({"role": "user", "content": content})
    return chats


def _is_answer(block: Mapping[str, Any]) -> bool:
    return block.get("type") == "tool_result" and isinstance(block.get("tool_use_id"), str)


def _answer(block: Mapping[str, Any]) -> Chat:
    content = block.get("content")
    if isinstance(content, list):
        content = [part for part in map(_to_part, content) if part is not None]
    elif not isinstance(content, str):
        content = text_of(content)
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}


def _say_reply(blocks: Sequence[Mapping[str, Any]]) -> list[Chat]:
    content, calls = _content_of(blocks), [call for call in map(_call, blocks) if call is not None]
    if calls:
        return [{"role": "assistant", "content": content, "tool_calls": calls}]
    return [{"role": "assistant", "content": content}] if content else []


def _call(block: Mapping[str, Any]) -> Chat | None:
    match block:
        case {"type": "tool_use", "id": str(call_id), "name": str(name), "input": arguments}:
            function = {"name": name, "arguments": text_of(arguments)}
            return {"id": call_id, "type": "function", "function": function}
    return None


def _content_of(blocks: Sequence[Mapping[str, Any]]) -> str | list[Chat] | None:
    """Return a plain text if the blocks are one, their parts if they are more, and ``None`` if they say nothing."""
    parts = [part for part in map(_to_part, blocks) if part is not None]
    match parts:
        case []:
            return None
        case [{"type": "text", "text": str(text)}]:
            return text
    return parts


def _shown_thinking(blocks: Sequence[Mapping[str, Any]]) -> Chat | None:
    text = "\n\n".join(block["thinking"] for block in blocks if isinstance(block.get("thinking"), str))
    return {"role": "assistant", "content": "", "reasoning_content": text} if text else None


def _to_part(block: Any) -> Chat | None:
    """Return the chat-completions part for a block; ``None`` if there is none."""
    match block:
        case {"type": "text", "text": str(text)} if text:
            return {"type": "text", "text": text}
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            return {"type": "image_url", "image_url": {"url": base64_url(kind, data)}}
        case {"type": "document", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            named = {"filename": block["title"]} if isinstance(block.get("title"), str) else {}
            return {"type": "file", "file": {"file_data": base64_url(kind, data), **named}}
    return None


def _blocks(content: Any) -> list[Item]:
    parts = [content] if isinstance(content, str) else content or ()
    return [block for block in map(_from_part, parts) if block is not None]


def _from_part(part: Any) -> Item | None:
    """Return the block for a part of a message; ``None`` for a kind that Anthropic's API does not take."""
    match part:
        case str(text) | {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text} if text else None
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image", "source": _base64_source(url) or {"type": "url", "url": url}}
        case {"type": "file", "file": {"file_data": str(url), **file}} if source := _base64_source(url):
            named = {"title": file["filename"]} if isinstance(file.get("filename"), str) else {}
            return {"type": "document", "source": source, **named}
    return None


def _base64_source(url: str) -> Item | None:
    found = media_of(url)
    return found and {"type": "base64", "media_type": found.mime_type, "data": found.data}


def _result(chat: Chat) -> Item:
    content = chat.get("content")
    result: Any = _blocks(content) if isinstance(content, list) else content or ""
    return {"type": "tool_result", "tool_use_id": str(chat.get("tool_call_id")), "content": result}


def _tool_use(call: Mapping[str, Any]) -> Item:
    function = function_of(call)
    arguments = _object_of(function.get("arguments"))
    return {"type": "tool_use", "id": str(call.get("id")), "name": str(function.get("name")), "input": arguments}


def _object_of(arguments: Any) -> Any:
    """Return the arguments of a call as an object, as Anthropic's API demands; a text that is none in an object."""
    if not arguments:
        return {}
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}
