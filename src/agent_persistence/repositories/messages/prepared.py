"""Messages checked and encoded for the table, before any SQL runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Generic

from agent_persistence.encoding.chat_messages import MessageColumns, to_columns
from agent_persistence.encoding.exact_json import EncodedJSON
from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT
from agent_persistence.records import NewMessage
from agent_persistence.repositories.rows import json_object
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_namespace, check_text, text_refusal

_MAX_TOKENS: Final = 2**31 - 1
EMPTY_OBJECT: Final = EncodedJSON(b"{}")
_NO_JSON: Final[Mapping[str, EncodedJSON | None]] = {
    "tool_calls": None,
    "extra": None,
    "usages": EMPTY_OBJECT,
    "meta": EMPTY_OBJECT,
}
"""The JSON columns of most messages: of those that have a role and a text only."""


@frozen
class PreparedMessage(Generic[IdT]):
    """A checked and encoded message."""

    message_id: IdT | None
    message: dict[str, Any]
    columns: MessageColumns
    total_tokens: int
    usages: dict[str, Any]
    meta: dict[str, Any]
    aside: str | None
    encoded: Mapping[str, EncodedJSON | None]

    @property
    def size(self) -> int:
        """The approximate number of bytes to send."""
        json = 0 if self.encoded is _NO_JSON else sum(len(part.utf8) for part in self.encoded.values() if part)
        return len(self.columns.content) + json


def prepare(
    scope: Scope[IdT, Any], new: Mapping[str, Any] | NewMessage[IdT], field: str = "message"
) -> PreparedMessage[IdT]:
    """Check and encode a message.

    Raises:
        InvalidInputError: a part of it cannot be stored; ``field`` names it, and the error does not hold its value.
    """
    if isinstance(new, NewMessage):
        message, columns, encoded = _prepare_message(scope, new.message, field)
        usages, encoded_usages = _object(scope, new.usages, field, "usages")
        meta, encoded_meta = _object(scope, new.meta, field, "meta")
        message_id = scope.make_id() if new.message_id is None else scope.message_id(new.message_id)
        tokens = _tokens(new.total_tokens, field)
        json = {**encoded, "usages": encoded_usages, "meta": encoded_meta}
        aside = None if new.aside is None else check_namespace(new.aside, f"{field}.aside")
        return PreparedMessage(message_id, message, columns, tokens, usages, meta, aside, json)
    message, columns, encoded = _prepare_message(scope, new, field)
    return PreparedMessage(scope.make_id(), message, columns, 0, {}, {}, None, encoded)


def _prepare_message(
    scope: Scope[Any, Any], given: object, field: str
) -> tuple[dict[str, Any], MessageColumns, Mapping[str, EncodedJSON | None]]:
    message: dict[str, Any] = scope.clean(json_object(given, field), field)
    columns = to_columns(message, field)
    longest = scope.options.max_json_bytes
    if message.get("content"):  # text that comes from other fields is checked with them, by their names
        _check_text(columns.content, field, "content", longest)
    _check_text(columns.tool_call_id, field, "tool_call_id", longest)
    _check_text(columns.reasoning, field, "reasoning", longest)
    calls, extra = columns.tool_calls, columns.extra
    if calls is None and extra is None:
        return message, columns, _NO_JSON
    return (
        message,
        columns,
        {
            **_NO_JSON,
            "tool_calls": None if calls is None else scope.encoded(calls, f"{field}.tool_calls"),
            "extra": None if extra is None else _encoded_extra(scope, extra, field),
        },
    )


def _check_text(text: str | None, field: str, name: str, longest: int) -> None:
    if text is not None and (len(text) > longest or text_refusal(text)):
        check_text(text, f"{field}.{name}", max_length=longest)


def _object(scope: Scope[Any, Any], value: Any, field: str, name: str) -> tuple[dict[str, Any], EncodedJSON]:
    if value is None or (type(value) is dict and not value):  # most of them
        return {}, EMPTY_OBJECT
    checked: dict[str, Any] = scope.clean(json_object(value, f"{field}.{name}"), f"{field}.{name}")
    return checked, scope.encoded(checked, f"{field}.{name}")


def _encoded_extra(scope: Scope[Any, Any], extra: Any, field: str) -> EncodedJSON:
    try:
        return scope.encoded(extra, field)
    except InvalidInputError as refusal:  # "set" exists in the encoding only, not in the caller's message
        raise InvalidInputError(refusal.field.replace(f"{field}.set", field, 1), refusal.reason) from None


def _tokens(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TOKENS:
        raise InvalidInputError(f"{field}.total_tokens", f"must be an int from 0 to {_MAX_TOKENS}")
    return value


@frozen
class PreparedAppend(Generic[IdT]):
    """Checked and encoded messages, to be appended to a thread.

    Attributes:
        has_new_ids: whether all ids were drawn in this process, so that no message of the thread can have one.
    """

    thread_id: IdT
    owner: Any
    messages: Sequence[PreparedMessage[IdT]]
    has_new_ids: bool = False

    @property
    def size(self) -> int:
        """The approximate number of bytes to send."""
        return sum(message.size for message in self.messages)


def prepare_append(
    scope: Scope[IdT, Any],
    thread_id: IdT,
    messages: Sequence[Mapping[str, Any] | NewMessage[IdT]],
    field: str = "message",
) -> PreparedAppend[IdT]:
    """Check and encode messages of one thread.

    Raises:
        InvalidInputError: a part of one cannot be stored, or two have the same id.
    """
    prepared = prepare_messages(scope, messages, field)
    is_drawn = scope.options.draws_ids and not any(map(_has_id, messages))
    return PreparedAppend(scope.thread_id(thread_id), scope.owner, prepared, is_drawn)


def prepare_messages(
    scope: Scope[IdT, Any], messages: Sequence[Mapping[str, Any] | NewMessage[IdT]], field: str
) -> list[PreparedMessage[IdT]]:
    """Check and encode messages of one thread; ``field`` names them in errors."""
    prepared = []
    for index, message in enumerate(messages):
        name = field if field == "message" else f"{field}[{index}]"
        prepared.append(prepare(scope, message, name))
    _refuse_repeated_ids(prepared)
    return prepared


def with_id(
    message: Mapping[str, Any] | NewMessage[IdT], message_id: IdT | None
) -> Mapping[str, Any] | NewMessage[IdT]:
    """Return the message with this id, or unchanged if the id is ``None``."""
    if message_id is None:
        return message
    if isinstance(message, NewMessage):
        return replace(message, message_id=message_id)
    return NewMessage(message=message, message_id=message_id)


def _has_id(message: Mapping[str, Any] | NewMessage[Any]) -> bool:
    return isinstance(message, NewMessage) and message.message_id is not None


def _refuse_repeated_ids(messages: Sequence[PreparedMessage[Any]]) -> None:
    seen: set[Any] = set()
    for index, message in enumerate(messages):
        if message.message_id is not None and message.message_id in seen:
            raise InvalidInputError(f"messages[{index}].message_id", "is given twice")
        seen.add(message.message_id)
