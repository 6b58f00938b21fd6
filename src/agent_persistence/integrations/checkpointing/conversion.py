"""Converts the frameworks' messages and threads to rows and back, without loss.

A message is stored in the chat-completions shape, which other programs read: text, image URLs, tool calls, and the
result of a tool call. Fields that this shape lacks (the timestamp, other blocks, flags) are in ``meta``, under
``META_KEY``.

Another program's message may hold what a framework's class has no place for: other roles, fields, usages. It is then
read with the original in ``raw``, from which it is written back unchanged, unless the framework has changed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from agent_persistence.encoding.exact_json import sanitize
from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.ids import IdType
from agent_persistence.integrations.checkpointing.run_config import message_key
from agent_persistence.integrations.json_values import json_errors, jsonable
from agent_persistence.records import MessageRecord, NewMessage

META_KEY: Final = "agentflow"
_ORIGINAL: Final = "agent_persistence"
"""The key of a framework's ``raw`` that holds another program's message."""
_ROLES: Final = {"developer": "system", "function": "tool"}
_KNOWN_ROLES: Final = ("user", "assistant", "system", "tool")
_CHAT_FIELDS: Final = {"role", "content", "tool_calls", "tool_call_id", "reasoning_content"}
# In the words of OpenAI, then of Anthropic and LangChain, then of Gemini.
_PROMPT: Final = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count")
_COMPLETION: Final = ("completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count")
_TOTAL: Final = ("total_tokens", "totalTokenCount", "total_token_count")
_MORE_USAGES: Final = ("reasoning_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_OPTIONAL_USAGES: Final = ("image_tokens", "audio_tokens")
_USAGES: Final = {"prompt_tokens", "completion_tokens", "total_tokens", *_MORE_USAGES, *_OPTIONAL_USAGES}
_MAX_TOKENS: Final = 2**31 - 1  # the column is an int


def storable(value: Any, field: str) -> Any:
    """Convert a value to JSON types that JSONB can hold; ``from_storable`` returns them.

    Raises:
        InvalidInputError: a part of it has no JSON form; ``field`` names the value.
    """
    with json_errors(field):
        return to_storable(jsonable(value, field))


# --- From the frameworks ---


def new_messages(
    messages: Sequence[Any], metadata: dict[str, Any] | None, id_type: IdType[Any]
) -> list[NewMessage[Any]]:
    """Convert messages of a framework to new rows; of several with the same id, the last one counts.

    Args:
        messages: pydantic models.
        metadata: of the call, stored with each of the messages.
        id_type: the type of message ids in this database.

    Raises:
        InvalidInputError: a message or the metadata have no JSON form, or an id is not of this type.
    """
    call_metadata = jsonable(metadata or {}, "metadata")
    rows: dict[Any, NewMessage[Any]] = {}
    for index, message in enumerate(messages):
        with json_errors(f"messages[{index}]"):
            row = to_new_message(message.model_dump(mode="json"), id_type, call_metadata)
        rows[row.message_id] = row
    return list(rows.values())


def to_new_message(
    dump: dict[str, Any], id_type: IdType[Any], call_metadata: Mapping[str, Any] | None
) -> NewMessage[Any]:
    """Convert the dump of a message to a new row.

    Args:
        dump: all fields of a framework's message, as JSON types.
        id_type: the type of message ids in this database.
        call_metadata: the metadata of the call, stored with the message.

    Raises:
        InvalidInputError: the message's id is not of this type.
    """
    dump, original = _without_original(dump)
    chat, meta = _storable_chat(dump), _storable_meta(dump["metadata"])
    usages: dict[str, Any] = dump["usages"] or {}
    if original is not None:
        chat, usages = dict(_restored(chat, original["message"])), _restored_usages(usages, original["usages"])
    key = message_key(dump["message_id"], id_type)
    derived = _fields(key, chat, meta, usages)
    # Only the fields that to_fields() cannot derive from the row: a message's text is not stored twice.
    rest: dict[str, Any] = {
        "fields": {name: value for name, value in dump.items() if name not in derived or derived[name] != value}
    }
    if _differ_within_a_block(derived["content"], rest["fields"].get("content")):
        [block] = rest["fields"].pop("content")
        rest["block"] = {name: value for name, value in block.items() if derived["content"][0].get(name) != value}
    if call_metadata:
        rest["call_metadata"] = dict(call_metadata)
    return NewMessage(
        message=chat,
        message_id=key,
        total_tokens=_tokens(usages),
        usages=to_storable(usages),
        meta={**meta, META_KEY: to_storable(rest)},
    )


def thread_meta(metadata: dict[str, Any], run_id: str | None) -> dict[str, Any]:
    """Return the ``meta`` of a thread with this metadata; the run's id is stored under ``META_KEY``."""
    extra: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
    if META_KEY in metadata or not _is_storable(metadata):
        return {META_KEY: {**extra, "metadata": to_storable(metadata)}}
    return {**metadata, META_KEY: extra} if extra else metadata


def _differ_within_a_block(derived: list[dict[str, Any]], blocks: Any) -> bool:
    """Whether both are one block of the same type, such as the result of a tool, which may be long."""
    return (
        isinstance(blocks, list)
        and len(blocks) == len(derived) == 1
        and blocks[0].get("type") == derived[0].get("type")
    )


def _storable_chat(dump: dict[str, Any]) -> dict[str, Any]:
    # JSONB refuses a NUL or a lone surrogate: other programs read U+FFFD in its place, and to_fields() the original.
    chat = _chat(dump)
    text = chat["content"] if isinstance(chat["content"], str) else None
    return chat if _is_storable(chat) else {"role": chat["role"], "content": sanitize(text)}


def _storable_meta(metadata: dict[str, Any]) -> dict[str, Any]:
    # Metadata that cannot stand beside META_KEY are one of the fields under it.
    beside = {key: value for key, value in metadata.items() if key != META_KEY}
    return beside if _is_storable(beside) else {}


def _is_storable(value: object) -> bool:
    return to_storable(value) is value


def _tokens(usages: Mapping[str, Any]) -> int:
    total = usages.get("total_tokens")
    return total if type(total) is int and 0 <= total <= _MAX_TOKENS else 0


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
    """Return the chat-completions part for a block, or ``None`` if there is no such part."""
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
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer of more than 64 bits
        return str(output)


# --- To the frameworks ---


def to_fields(record: MessageRecord[Any]) -> dict[str, Any]:
    """Return the fields of a framework's message: the original ones, or ones derived from another program's message."""
    meta = dict(record.meta)
    rest = _decoded(meta.pop(META_KEY, None))
    # Every message of a framework has a timestamp there; anything else is the application's own value under this key.
    if not isinstance(rest, dict) or not isinstance(rest.get("fields"), dict) or "timestamp" not in rest["fields"]:
        return to_foreign_fields(record)
    fields = _fields(record.message_id, record.message, meta, _decoded(record.usages))
    for block in fields["content"][:1]:
        block.update(rest.get("block", {}))
    return {**fields, **rest["fields"]}


def to_foreign_fields(record: MessageRecord[Any]) -> dict[str, Any]:
    """Return the fields of a framework's message for one that another program has written."""
    # The row's time: the frameworks need a timestamp, and another program's message has no other.
    fields = _fields(record.message_id, record.message, dict(record.meta), record.usages)
    return {**fields, "timestamp": record.created_at.timestamp()}


def with_original(fields: dict[str, Any], record: MessageRecord[Any]) -> dict[str, Any]:
    """Return fields that a framework's class accepts; what has no place there is in ``raw``.

    Args:
        fields: what ``to_fields`` returned for the record.
        record: the stored message.
    """
    if _is_only_text(fields, record):
        return fields
    usages = fitting_usages(fields["usages"])
    if record.message == _storable_chat(fields) and usages == (_decoded(record.usages) or None):
        return fields
    raw = fields["raw"] if isinstance(fields["raw"], dict) else {}
    original = {"message": record.message, "usages": record.usages}
    return {**fields, "usages": usages, "raw": {**raw, _ORIGINAL: original}}


def _is_only_text(fields: dict[str, Any], record: MessageRecord[Any]) -> bool:
    """Whether a message is a text and nothing else, for which a framework's class has a place."""
    # Most messages are, and the comparison of with_original costs them five times this one.
    text = record.content
    return (
        text is not None
        and record.message == {"role": fields["role"], "content": text}
        and fields["content"] == [_text(text)]
        and not (fields["tools_calls"] or record.usages or fields["usages"])
        and fields["reasoning"] is None
    )


def fitting_usages(usages: Any) -> dict[str, Any] | None:
    """Return usages in the frameworks' words; ``None`` if they do not say how many tokens were used."""
    if not isinstance(usages, Mapping):
        return None
    prompt, completion = _first_count(usages, _PROMPT), _first_count(usages, _COMPLETION)
    if prompt is None or completion is None:
        return None
    total = _first_count(usages, _TOTAL)
    counts = {
        "completion_tokens": completion,
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion if total is None else total,
    }
    if counts.keys() <= usages.keys() <= _USAGES and all(_fits(usages, name) for name in usages):
        return dict(usages)
    return counts | {name: usages[name] for name in _MORE_USAGES if _is_count(usages.get(name))}


def from_thread_meta(meta: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the metadata of a thread, and the id of its run."""
    metadata = dict(meta)
    extra = metadata.pop(META_KEY, None)
    if not isinstance(extra, dict) or not extra or not extra.keys() <= {"run_id", "metadata"}:
        return dict(meta), None
    metadata, run_id = _decoded(extra.get("metadata", metadata)), extra.get("run_id")
    if not isinstance(metadata, dict) or not isinstance(run_id, str | None):
        return dict(meta), None  # the application's own value under this key
    return metadata, run_id


def framework_id(value: Any) -> int | str:
    """Return an id in a type that the frameworks' classes take: a UUID as a string."""
    return value if isinstance(value, int) else str(value)


def _fields(message_id: Any, chat: Mapping[str, Any], meta: dict[str, Any], usages: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a framework's message that the chat-completions shape has a place for."""
    return {
        "message_id": framework_id(message_id),
        "role": _role(chat),
        "content": _blocks(chat),
        "delta": False,
        "tools_calls": _tool_calls(chat.get("tool_calls")),
        "reasoning": _reasoning(chat),
        "metadata": meta,
        "usages": usages or None,
        "raw": None,
        "parsed_content": None,
    }


def _blocks(chat: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = chat.get("content")
    if chat["role"] == "tool" and _is_text(chat.get("tool_call_id")):
        output = content if isinstance(content, str) else _output_text(content)
        return [{"type": "tool_result", "call_id": chat["tool_call_id"], "output": output}]
    if isinstance(content, str):
        return [_text(content)] if content else []
    if content is not None and not isinstance(content, list):
        return [_text(_output_text(content))]
    return [_block(part) for part in content or ()]


def _role(chat: Mapping[str, Any]) -> str:
    role = str(chat["role"])
    # A label that a later version of the schema added is read as instructions: the frameworks know four roles.
    return _ROLES.get(role, role if role in _KNOWN_ROLES else "system")


def _reasoning(chat: Mapping[str, Any]) -> str | None:
    for key in ("reasoning_content", "reasoning"):
        if _is_text(chat.get(key)):
            return chat[key]  # type: ignore[no-any-return]
    return None


def _tool_calls(calls: Any) -> list[dict[str, Any]] | None:
    is_list = isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    return calls if is_list else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _block(part: Any) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)} | str(text):
            return _text(text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image", "media": {"kind": "url", "url": url}}
    return _text(_output_text(part))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "annotations": []}


# --- Messages of other programs ---


def _decoded(stored: Any) -> Any:
    try:
        return from_storable(stored)
    except (ValueError, RecursionError):  # another program's value that only looks escaped
        return stored


def _without_original(dump: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a dump without the original that ``with_original`` has added, and that original."""
    match dump.get("raw"):
        case {"agent_persistence": {"message": {"role": str()}, "usages": dict()} as original, **rest}:
            return {**dump, "raw": rest or None}, original
    return dump, None


def _restored(chat: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    """Return the original message, with the fields that the framework has changed."""
    as_read = _storable_chat(_fields(None, original, {}, {}))
    if chat == as_read:
        return original
    changed = {key for key in _CHAT_FIELDS if chat.get(key) != as_read.get(key)}
    kept = {key: value for key, value in original.items() if key not in changed}
    return {**kept, **{key: chat[key] for key in changed if key in chat}}


def _restored_usages(usages: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    as_read = fitting_usages(original) or {}
    return original if all(usages.get(name) == count for name, count in as_read.items()) else usages


def _first_count(usages: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next((usages[name] for name in names if _is_count(usages.get(name))), None)


def _is_count(value: Any) -> bool:
    return type(value) is int


def _fits(usages: Mapping[str, Any], name: str) -> bool:
    return _is_count(usages[name]) or (usages[name] is None and name in _OPTIONAL_USAGES)
