"""Messages of Agentflow and PyAgenity: all fields of their class, but for those that a row has columns for.

One message is one row. A message that says nothing, such as one of reasoning alone, is an aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import orjson

from agent_persistence.forms.base64_urls import base64_url, media_of
from agent_persistence.forms.form import Chat, Form, Item, Said

_ROLES: Final = {"developer": "system", "function": "tool"}
_KNOWN_ROLES: Final = ("user", "assistant", "system", "tool")
_DATA: Final = "data"
"""The hint of a message whose pictures are kept as their bytes, not as an address that holds them."""


class AgentflowForm(Form):
    """Messages of Agentflow and PyAgenity."""

    key: ClassVar[str] = "agentflow"

    def say(self, item: Item) -> Said:  # noqa: D102
        role, blocks = item.get("role"), item.get("content")
        if not isinstance(role, str) or not isinstance(blocks, list):
            return Said(())
        chat: Chat = {"role": role}
        match blocks:
            case [{"type": "tool_result", "call_id": call_id, "output": output}] if role == "tool":
                chat |= {"content": _said_output(output), "tool_call_id": call_id}
            case _:
                chat["content"] = _said(blocks)
        if item.get("tools_calls"):
            chat["tool_calls"] = item["tools_calls"]
        if item.get("reasoning") is not None:
            chat["reasoning_content"] = item["reasoning"]
        is_said = chat["content"] is not None or "tool_calls" in chat
        hint = _DATA if any(_is_data(block) for block in _blocks_in(blocks)) else None
        return Said([chat], hint) if is_said else Said((), shown=chat)

    def items(self, chat: Chat, hint: str | None = None) -> list[Item]:  # noqa: D102
        role = str(chat.get("role"))
        return [
            {
                # A label that a later version of the schema added is read as instructions: the frameworks know four.
                "role": _ROLES.get(role, role if role in _KNOWN_ROLES else "system"),
                "content": _blocks(chat, hint),
                "delta": False,
                "tools_calls": _tool_calls(chat.get("tool_calls")),
                "reasoning": _reasoning(chat),
                "raw": None,
                "parsed_content": None,
            }
        ]


def text_of_output(output: Any) -> str:
    """Return the output of a tool as a text."""
    if isinstance(output, str):
        return output
    try:
        return "" if output is None else orjson.dumps(output).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer of more than 64 bits
        return str(output)


def text_block(text: str) -> Item:
    """Return a block of text as the frameworks dump it."""
    return {"type": "text", "text": text, "annotations": []}


def _said(blocks: Sequence[Any]) -> str | list[Chat] | None:
    parts = [part for part in map(_part, blocks) if part is not None]
    if len(parts) == 1 and "text" in parts[0]:
        text: str = parts[0]["text"]
        return text
    return parts or None


def _said_output(output: Any) -> str | list[Chat]:
    if isinstance(output, list) and output:
        parts = [part for part in map(_part, output) if part is not None]
        if len(parts) == len(output):
            return parts
    return text_of_output(output)


def _part(block: Any) -> Chat | None:
    """Return the chat-completions part for a block, or ``None`` if there is no such part."""
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image", "media": {"kind": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "image", "media": {"kind": "data", "data_base64": str(data), "mime_type": str(mime_type)}}:
            return {"type": "image_url", "image_url": {"url": base64_url(mime_type, data)}}
    return None


def _blocks_in(blocks: Sequence[Any]) -> Sequence[Any]:
    """Return the blocks that hold pictures: of the answer of a tool, those of its output."""
    match blocks:
        case [{"type": "tool_result", "output": list(output)}]:
            return output
    return blocks


def _is_data(block: Any) -> bool:
    media = block.get("media") if isinstance(block, Mapping) else None
    return isinstance(media, Mapping) and media.get("kind") == _DATA


def _blocks(chat: Chat, hint: str | None) -> list[Item]:
    content = chat.get("content")
    if chat.get("role") == "tool" and isinstance(chat.get("tool_call_id"), str):
        output = [_block(part, hint) for part in content] if isinstance(content, list) else text_of_output(content)
        return [{"type": "tool_result", "call_id": chat["tool_call_id"], "output": output}]
    if isinstance(content, str):
        return [text_block(content)] if content else []
    if content is not None and not isinstance(content, list):
        return [text_block(text_of_output(content))]
    return [_block(part, hint) for part in content or ()]


def _block(part: Any, hint: str | None) -> Item:
    match part:
        case {"type": "text", "text": str(text)} | str(text):
            return text_block(text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            found = media_of(url) if hint == _DATA else None
            if found is None:
                return {"type": "image", "media": {"kind": "url", "url": url}}
            return {"type": "image", "media": {"kind": "data", "data_base64": found.data, "mime_type": found.mime_type}}
    return text_block(text_of_output(part))


def _reasoning(chat: Chat) -> str | None:
    for key in ("reasoning_content", "reasoning"):
        if isinstance(chat.get(key), str):
            return chat[key]  # type: ignore[no-any-return]
    return None


def _tool_calls(calls: Any) -> list[dict[str, Any]] | None:
    is_list = isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    return calls if is_list else None
