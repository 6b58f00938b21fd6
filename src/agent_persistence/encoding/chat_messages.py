"""Chat-completions messages as columns, decoded exactly equal.

The columns hold what is searched and displayed. ``extra`` holds only the difference: fields to set and to remove so
that the message made from the columns equals the given one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.records import MessageRole

# The enum has no labels for the last two roles of the chat-completions API; ``extra`` keeps them.
_ROLES: Final[dict[str, MessageRole]] = {role.value: role for role in MessageRole} | {
    "developer": MessageRole.SYSTEM,
    "function": MessageRole.TOOL,
}
# The length of the column; ``extra`` keeps a longer id.
_MAX_TOOL_CALL_ID: Final = 255
_USUAL: Final = 2  # fields of most messages: a role and a text
_MAX_PARTS_DEPTH: Final = 8  # parts in parts in parts


@frozen
class MessageColumns:
    """A chat message as the columns of ``messages``."""

    role: MessageRole | str
    content: str
    tool_calls: Any
    tool_call_id: str | None
    reasoning: str | None
    extra: dict[str, Any] | None


def to_columns(message: Mapping[str, Any], field: str = "message") -> MessageColumns:
    """Encode a chat-completions message as columns.

    Raises:
        InvalidInputError: it is not a mapping, its role is unknown, or its content has no shape of the format.
    """
    role = check_shape(message, field)
    content = message.get("content")
    if len(message) == _USUAL and content and type(content) is str and role == message["role"]:
        return MessageColumns(role, content, None, None, None, None)
    call_id = message.get("tool_call_id")
    columns = MessageColumns(
        role,
        _plain_text(message),
        message.get("tool_calls"),
        call_id if isinstance(call_id, str) and len(call_id) <= _MAX_TOOL_CALL_ID else None,
        _reasoning(message),
        None,
    )
    return _with_extra(columns, message)


def check_shape(message: object, field: str = "message") -> MessageRole:
    """Check that a mapping is a chat-completions message; return its role.

    Raises:
        InvalidInputError: it is not a mapping, its role is unknown, or its content has no shape of the format.
    """
    # Nearly every message is a dict, for which the first test takes a fifth of the second's time.
    if type(message) is not dict and not isinstance(message, Mapping):
        raise InvalidInputError(field, f"must be a mapping in the chat-completions shape, not {type(message).__name__}")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise InvalidInputError(
            f"{field}.content", f"must be text, None or a list of parts, not {type(content).__name__}"
        )
    role = message.get("role")
    if isinstance(role, str) and role in _ROLES:
        return _ROLES[role]
    raise InvalidInputError(f"{field}.role", f"must be one of {', '.join(_ROLES)}")


def from_columns(columns: MessageColumns) -> dict[str, Any]:
    """Decode columns to a message that equals the encoded one."""
    return message_of(
        columns.role, columns.content, columns.tool_calls, columns.tool_call_id, columns.reasoning, columns.extra
    )


def message_of(  # noqa: PLR0917 - one argument a column, by position because it is called thousands of times
    role: MessageRole | str,
    content: str,
    tool_calls: Any,
    tool_call_id: str | None,
    reasoning: str | None,
    extra: dict[str, Any] | None,
) -> dict[str, Any]:
    """Decode a message from the values of its columns."""
    message: dict[str, Any] = {"role": str(role), "content": content}
    if tool_calls is not None:
        message["tool_calls"] = tool_calls
    if tool_call_id is not None:
        message["tool_call_id"] = tool_call_id
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    if extra:
        message.update(extra.get("set", {}))
        for key in extra.get("unset", ()):
            message.pop(key, None)
    return message


def _with_extra(columns: MessageColumns, message: Mapping[str, Any]) -> MessageColumns:
    # For most messages the columns say everything, and ``extra`` stays NULL.
    base = from_columns(columns)
    if base == message:
        return columns
    changed = {key: value for key, value in message.items() if key not in base or base[key] != value}
    absent = [key for key in base if key not in message]
    extra: dict[str, Any] = {}
    if changed:
        extra["set"] = changed
    if absent:
        extra["unset"] = absent
    return replace(columns, extra=extra) if extra else columns


def _plain_text(message: Mapping[str, Any]) -> str:
    """Return the text that a person would read."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content  # most messages; the column then holds all of it, and ``extra`` nothing
    audio = message.get("audio")
    # The content is elsewhere: ``parts`` in the AI SDK, ``refusal`` and ``audio`` of an answer in the API.
    found = [_text_of(content), _text_of(message.get("parts")), _text_of(message.get("refusal"))]
    found += [_text_of(audio.get("transcript"))] if isinstance(audio, Mapping) else []
    return "\n".join(filter(None, found))


def _text_of(part: Any, *outer: int) -> str:
    """Return the text of a part of a message, or of a list of parts; ``outer`` are the ids of those around it."""
    if isinstance(part, str):
        return part
    # A part that holds itself is refused by the encoder, which comes later.
    if id(part) in outer or len(outer) > _MAX_PARTS_DEPTH:
        return ""
    outer = (*outer, id(part))
    if isinstance(part, list):
        return "\n".join(filter(None, (_text_of(item, *outer) for item in part)))
    return _text_of_object(part, outer) if isinstance(part, Mapping) else ""


def _text_of_object(part: Mapping[str, Any], outer: tuple[int, ...]) -> str:
    # {"text": {"value": ...}} in the Assistants API; a tool's result has its text, or parts again, in ``content``.
    for key in ("text", "refusal", "transcript"):
        found = part.get(key)
        if isinstance(found, Mapping):
            found = found.get("value")
        if isinstance(found, str) and found:
            return found
    audio = part.get("input_audio") or part.get("audio")
    if isinstance(audio, Mapping):
        return _text_of(audio.get("transcript"), *outer)
    return _text_of(part.get("content"), *outer) if str(part.get("type")).endswith("tool_result") else ""


def _reasoning(message: Mapping[str, Any]) -> str | None:
    for key in ("reasoning_content", "reasoning"):
        if isinstance(message.get(key), str):
            return str(message[key])
    return None
