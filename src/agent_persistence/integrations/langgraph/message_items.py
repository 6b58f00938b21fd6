"""LangChain's messages as items of ``LangGraphForm``, and back."""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from pydantic import BaseModel, ValidationError

from agent_persistence.encoding.exact_json import sanitize
from agent_persistence.forms.chats import text_of
from agent_persistence.forms.form import Chat, Found, Item, read
from agent_persistence.forms.langgraph import LangGraphForm
from agent_persistence.forms.token_counts import counts_in
from agent_persistence.records import MessageRecord

FORM: Final = LangGraphForm()
_CLASSES: Final[Mapping[str, type[BaseMessage]]] = {
    "human": HumanMessage,
    "ai": AIMessage,
    "system": SystemMessage,
    "tool": ToolMessage,
    "function": FunctionMessage,
    "chat": ChatMessage,
}
_ELSEWHERE: Final = frozenset({"artifact", "id", "type", "usage_metadata", "tool_call_chunks", "chunk_position"})
"""The fields of a message that no item has: an artifact may be of any class and size, and stays in the checkpoint."""
_DETAILS: Final = ("input_token_details", "output_token_details")
_DEFAULTS: Final[Mapping[str, Any]] = {"example": False, "status": "success"}
_DEEPEST: Final = 100  # far less than JSON may be nested, because a message is only a part of what is stored
_LARGEST_INT: Final = 2**63 - 1
_MOST_BITS: Final = 1024  # Python writes no int of more than 4,300 digits
_MOST_TOKENS: Final = 2**31 - 1


def messages_of(records: Iterable[MessageRecord[Any]]) -> list[AnyMessage]:
    """Return messages of a thread as LangChain's, whatever framework wrote them.

    A graph that is given them continues the conversation: ``add_messages`` knows those that it has by their ids.

    Args:
        records: messages in their order, such as a page.
    """
    return [_message(found) for found in read(FORM, [*records]) if found.item.get("type") in _CLASSES]


def message_of(given: Any) -> BaseMessage | None:
    """Return a message that a channel holds as LangChain's; ``None`` if it has no text to tell."""
    if isinstance(given, BaseMessage):
        return given
    try:
        [message] = convert_to_messages([given])
    except Exception:  # noqa: BLE001 - LangChain raises anything for what it does not know
        return _of_unknown_role(given)
    return message


def _of_unknown_role(given: Any) -> BaseMessage | None:
    if isinstance(given, tuple | list):
        given = dict(zip(("role", "content"), given, strict=False))
    if not isinstance(given, Mapping) or not isinstance(given.get("content"), str | list):
        return None
    own_id = given.get("id")
    try:
        return ChatMessage(
            role=str(given.get("role") or given.get("type") or "user"),
            content=given["content"],
            id=own_id if isinstance(own_id, str) else None,
        )
    except ValidationError:  # a content of other things than texts and parts
        return None


def item_of(message: BaseMessage) -> Item:
    """Return what a message says as JSON; its id and its usages are elsewhere in its row."""
    content = message.content
    item: Item = {"type": _type_of(message), "content": content if type(content) is str else _plain(content)}
    for name, value in {**message.__dict__, **(message.__pydantic_extra__ or {})}.items():
        if value and name not in item and name not in _ELSEWHERE and value != _DEFAULTS.get(name):
            item[name] = _plain(value)
    return item


def usage_of(message: BaseMessage) -> dict[str, Any]:
    """Return the fields ``total_tokens`` and ``usages`` of a message."""
    used: Mapping[str, Any] | None = message.usage_metadata if isinstance(message, AIMessage) else None
    if not used:
        return {}
    total = used.get("total_tokens")
    # Providers report sums that are wrong; ``usages`` keeps them.
    counted = min(max(total, 0), _MOST_TOKENS) if isinstance(total, int) else 0
    return {"total_tokens": counted, "usages": sanitize(_plain(dict(used)), "usages")}


def text_only(chat: Mapping[str, Any]) -> Chat:
    """Return a message with no more than its role and its text."""
    content = chat.get("content")
    texts = [content] if isinstance(content, str) else [_text_of(part) for part in content or ()]
    kept = {key: chat[key] for key in ("role", "tool_call_id") if key in chat}
    return {**kept, "content": "\n".join(filter(None, texts))}


def _message(found: Found) -> Any:
    record, item = found.records[0], found.item
    fields: dict[str, Any] = {"id": str(record.message_id), **item}
    kind = _CLASSES[fields.pop("type")]
    if kind is AIMessage:
        fields["usage_metadata"] = _usage_metadata(record.usages)
    elif kind is ToolMessage:
        fields.setdefault("tool_call_id", "")
    elif kind is FunctionMessage:
        fields.setdefault("name", "function")
    elif kind is ChatMessage:
        fields.setdefault("role", "")
    try:
        return kind(**fields)
    except ValidationError:  # a part or a call that LangChain's class has no place for
        kept = {name: fields[name] for name in ("id", "name", "role", "tool_call_id") if name in fields}
        return kind(**kept, content=text_of(record.message.get("content")))


def _usage_metadata(usages: Mapping[str, Any]) -> Mapping[str, Any] | None:
    counts = counts_in(usages)
    if counts is None:
        return None
    details = {name: usages[name] for name in _DETAILS if isinstance(usages.get(name), dict)}
    return {"input_tokens": counts.prompt, "output_tokens": counts.completion, "total_tokens": counts.total, **details}


def _type_of(message: BaseMessage) -> str:
    return next((kind for kind, known in _CLASSES.items() if isinstance(message, known)), message.type)


def _text_of(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""


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
