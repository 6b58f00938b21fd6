"""Messages to be added: checked and encoded before any SQL runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic

from agent_persistence.chat_format import MessageColumns, to_columns
from agent_persistence.errors import InvalidInput
from agent_persistence.ids import IdT
from agent_persistence.json_values import EncodedJSON
from agent_persistence.records import NewMessage
from agent_persistence.repositories.rows import json_object
from agent_persistence.repositories.scope import Scope
from agent_persistence.texts import check_text

_MAX_TOKENS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PreparedMessage(Generic[IdT]):
    """A message that was checked and encoded, ready for the table."""

    message_id: IdT | None
    message: dict[str, Any]
    columns: MessageColumns
    total_tokens: int
    usages: dict[str, Any]
    meta: dict[str, Any]
    encoded: dict[str, EncodedJSON | None]

    @property
    def size(self) -> int:
        """How many bytes are sent, about."""
        return len(self.columns.content) + sum(len(part.utf8) for part in self.encoded.values() if part)


def prepare(scope: Scope[IdT, Any], new: NewMessage[IdT], field: str) -> PreparedMessage[IdT]:
    """Check and encode a message before any SQL runs.

    Raises:
        InvalidInput: a part of it cannot be stored; the field is named, the value is not.
    """
    message = scope.clean(json_object(new.message, field), field)
    columns = to_columns(message, field)
    usages = scope.clean(json_object(new.usages, f"{field}.usages"), f"{field}.usages")
    meta = scope.clean(json_object(new.meta, f"{field}.meta"), f"{field}.meta")
    for name in ("content", "tool_call_id", "reasoning"):
        if (text := getattr(columns, name)) is not None:
            check_text(text, f"{field}.{name}", max_length=scope.limits.max_json_bytes)
    return PreparedMessage(
        message_id=scope.make_id() if new.message_id is None else scope.message_id(new.message_id),
        message=message,
        columns=columns,
        total_tokens=_tokens(new.total_tokens, f"{field}.total_tokens"),
        usages=usages,
        meta=meta,
        encoded={
            "tool_calls": _encoded(scope, columns.tool_calls, f"{field}.tool_calls"),
            "extra": _encoded_extra(scope, columns.extra, field),
            "usages": scope.json(usages, f"{field}.usages"),
            "meta": scope.json(meta, f"{field}.meta"),
        },
    )


def _encoded(scope: Scope[Any, Any], value: Any, field: str) -> EncodedJSON | None:
    return None if value is None else scope.json(value, field)


def _encoded_extra(scope: Scope[Any, Any], extra: Any, field: str) -> EncodedJSON | None:
    try:
        return _encoded(scope, extra, field)
    except InvalidInput as refusal:  # in the message there is no "set": its caller would look for it in vain
        raise InvalidInput(refusal.field.replace(f"{field}.set", field, 1), refusal.reason) from None


def _tokens(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TOKENS:
        raise InvalidInput(field, f"must be an int from 0 to {_MAX_TOKENS}")
    return value


@dataclass(frozen=True, slots=True)
class NewMessages(Generic[IdT]):
    """Messages that were checked and encoded, to be added to a thread."""

    thread_id: IdT
    owner: Any
    messages: Sequence[PreparedMessage[IdT]]

    @property
    def size(self) -> int:
        """How many bytes are sent, about."""
        return sum(message.size for message in self.messages)


def prepare_append(
    scope: Scope[IdT, Any],
    thread_id: IdT,
    messages: Sequence[Mapping[str, Any] | NewMessage[IdT]],
    field: str = "message",
) -> NewMessages[IdT]:
    """Check and encode messages before any SQL runs.

    Raises:
        InvalidInput: a part of one cannot be stored, or two have the same id.
    """
    prepared = []
    for place, message in enumerate(messages):
        name = field if field == "message" else f"{field}[{place}]"
        prepared.append(prepare(scope, as_new(message, name), name))
    _refuse_repeated_ids(prepared)
    return NewMessages(scope.thread_id(thread_id), scope.owner, prepared)


def with_id(
    message: Mapping[str, Any] | NewMessage[IdT], message_id: IdT | None
) -> Mapping[str, Any] | NewMessage[IdT]:
    """Give a message an id, unless there is none to give."""
    return message if message_id is None else replace(as_new(message, "message"), message_id=message_id)


def as_new(message: Mapping[str, Any] | NewMessage[IdT], field: str) -> NewMessage[IdT]:
    """Return a message as a ``NewMessage``."""
    if isinstance(message, NewMessage):
        return message
    if not isinstance(message, Mapping):
        raise InvalidInput(field, f"must be a mapping or a NewMessage, not {type(message).__name__}")
    return NewMessage(message=message)


def _refuse_repeated_ids(messages: Sequence[PreparedMessage[Any]]) -> None:
    seen: set[Any] = set()
    for place, message in enumerate(messages):
        if message.message_id is not None and message.message_id in seen:
            raise InvalidInput(f"messages[{place}].message_id", "is given twice")
        seen.add(message.message_id)
