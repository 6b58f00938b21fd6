"""The frameworks' messages in the chat-completions shape, and back, equal.

A message is stored as others would store it: text, pictures by address, calls, and the answer to a call. What that
shape cannot say of a message (its time, other blocks, flags) is in its ``meta``, below one key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from agent_persistence.encoding.exact_json import sanitize
from agent_persistence.ids import IdType
from agent_persistence.integrations.checkpointing.json_escapes import from_storable, to_storable
from agent_persistence.integrations.checkpointing.places import message_key
from agent_persistence.records import MessageRecord, NewMessage

META_KEY: Final = "agentflow"
_MOST_TOKENS: Final = 2**31 - 1


def to_new_message(dump: dict[str, Any], kind: IdType[Any], call_metadata: Mapping[str, Any] | None) -> NewMessage[Any]:
    """Make a message to be stored of a message's dump.

    Args:
        call_metadata: what was given for all messages of the call.
    """
    chat, meta = _storable_chat(dump), _storable_meta(dump["metadata"])
    usages = dump["usages"] or {}
    key = message_key(dump["message_id"], kind)
    plain = _fields(key, chat, meta, usages)
    rest: dict[str, Any] = {
        "fields": {name: value for name, value in dump.items() if name not in plain or plain[name] != value}
    }
    if _differ_within_a_block(plain["content"], rest["fields"].get("content")):
        [block] = rest["fields"].pop("content")
        rest["block"] = {name: value for name, value in block.items() if plain["content"][0].get(name) != value}
    if call_metadata:
        rest["call_metadata"] = dict(call_metadata)
    return NewMessage(
        message=chat,
        message_id=key,
        total_tokens=_tokens(usages),
        usages=to_storable(usages),
        meta={**meta, META_KEY: to_storable(rest)},
    )


def to_fields(record: MessageRecord[Any]) -> dict[str, Any]:
    """Return the fields of the framework's message: those that it had, or what others have written, in its words."""
    meta = dict(record.meta)
    rest = from_storable(meta.pop(META_KEY, None))
    fields = _fields(record.message_id, record.message, meta, from_storable(record.usages))
    if not isinstance(rest, dict):
        return {**fields, "timestamp": record.created_at.timestamp()}
    for block in fields["content"][:1]:
        block.update(rest.get("block", {}))
    return {**fields, **rest["fields"]}


def _differ_within_a_block(plain: list[dict[str, Any]], blocks: Any) -> bool:
    """Whether both are one block of the same type: the answer of a tool, which may be long."""
    return isinstance(blocks, list) and len(blocks) == len(plain) == 1 and blocks[0].get("type") == plain[0].get("type")


def _storable_chat(dump: dict[str, Any]) -> dict[str, Any]:
    chat = _chat(dump)
    text = chat["content"] if isinstance(chat["content"], str) else None
    return chat if _is_storable(chat) else {"role": chat["role"], "content": sanitize(text)}


def _storable_meta(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata if META_KEY not in metadata and _is_storable(metadata) else {}


def _is_storable(value: object) -> bool:
    return to_storable(value) is value


def _tokens(usages: Mapping[str, Any]) -> int:
    total = usages.get("total_tokens")
    return total if type(total) is int and 0 <= total <= _MOST_TOKENS else 0


# --- As others would write it ---


def _chat(dump: dict[str, Any]) -> dict[str, Any]:
    blocks = dump["content"]
    chat: dict[str, Any] = {"role": dump["role"]}
    match blocks:
        case [{"type": "tool_result", "call_id": call_id, "output": output}] if dump["role"] == "tool":
            chat |= {"content": _output_text(output), "tool_call_id": call_id}
        case _:
            chat["content"] = _content(blocks)
    if dump.get("tools_calls"):
        chat["tool_calls"] = dump["tools_calls"]
    if dump.get("reasoning") is not None:
        chat["reasoning_content"] = dump["reasoning"]
    return chat


def _content(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]] | None:
    parts = [part for part in map(_part, blocks) if part is not None]
    if len(parts) == 1 and "text" in parts[0]:
        text: str = parts[0]["text"]
        return text
    return parts or None


def _part(block: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the chat-completions shape has for a block, or ``None``."""
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image", "media": {"kind": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
    return None


def _output_text(output: Any) -> str:
    if isinstance(output, str):
        return output
    try:
        return "" if output is None else orjson.dumps(output).decode()
    except orjson.JSONEncodeError:  # what is to be escaped
        return str(output)


# --- As the framework says it ---


def _fields(message_id: Any, chat: Mapping[str, Any], meta: dict[str, Any], usages: dict[str, Any]) -> dict[str, Any]:
    """The fields of the framework's message, as far as the chat-completions shape says them."""
    return {
        "message_id": message_id if isinstance(message_id, int) else str(message_id),
        "role": chat["role"],
        "content": _blocks(chat),
        "delta": False,
        "tools_calls": chat.get("tool_calls"),
        "reasoning": chat.get("reasoning_content"),
        "metadata": meta,
        "usages": usages or None,
        "raw": None,
        "parsed_content": None,
    }


def _blocks(chat: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = chat.get("content")
    if chat["role"] == "tool" and "tool_call_id" in chat:
        output = content if isinstance(content, str) else _output_text(content)
        return [{"type": "tool_result", "call_id": chat["tool_call_id"], "output": output}]
    if isinstance(content, str):
        return [_text(content)] if content else []
    return [_block(part) for part in content or ()]


def _block(part: Any) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)} | str(text):
            return _text(text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image", "media": {"kind": "url", "url": url}}
    return _text(_output_text(part))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "annotations": []}
