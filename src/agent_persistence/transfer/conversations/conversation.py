"""One conversation, a line of a file."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from agent_persistence.encoding.chat_messages import check_shape, to_columns
from agent_persistence.encoding.exact_json import MAX_JSON_DEPTH, decode_json, sanitize
from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import IdType, IdValue
from agent_persistence.records import MessageRole
from agent_persistence.transfer.conversations.formats import LINE, format_of
from agent_persistence.validation import check_text

NAMESPACE: Final = uuid.UUID("e1a7a990-5066-5333-bb55-d511cdc1d0da")
"""What ids of conversations are hashed with where they cannot be ids of threads. Changing it would double imports."""

_NAME_LENGTH: Final = 80


class Turn(NamedTuple):
    """A part of a conversation that ends with an answer, or with the conversation.

    Attributes:
        number: counted from 1.
        messages: the number of messages up to its end.
        last_role: the role of its last message.
    """

    number: int
    messages: int
    last_role: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of the chat-completions API.

    Attributes:
        id: its ``id``; derived from its messages and fields if it has none.
        fields: the other fields of the line: ``id``, ``source`` and any others.
        messages: in the chat-completions shape.
    """

    id: str
    fields: dict[str, Any]
    messages: list[dict[str, Any]] = field(repr=False)

    @classmethod
    def parse(cls, line: bytes, *, replace_unstorable: bool = False) -> Self:
        """Parse a line.

        Args:
            line: the line.
            replace_unstorable: replace NUL and lone surrogates instead of refusing them.

        Raises:
            InvalidInputError: it is not a JSON object with ``messages``; the error names the field, not its value.
        """
        fields = _json_object(line)
        if replace_unstorable:
            fields = sanitize(fields, "line")
        messages = fields.pop("messages", None)
        try:
            if not isinstance(messages, list):
                raise InvalidInputError("messages", "must be a list of messages")
            for place, message in enumerate(messages):
                check_shape(message, f"messages[{place}]")
        except InvalidInputError as refusal:
            if found := format_of(fields):
                raise InvalidInputError(refusal.field, f"{refusal.reason}; the line is in {found}") from None
            raise
        if "id" not in fields:
            fields["id"] = _made_id(messages, fields)
        return cls(_checked_id(fields["id"]), fields, messages)

    @property
    def name(self) -> str | None:
        """The first message of the user, shortened to one line."""
        said = (to_columns(message).content for message in self.messages if message["role"] == MessageRole.USER)
        line = " ".join(str(sanitize(next(said, ""))).split())
        return line[:_NAME_LENGTH] or None

    def turns(self) -> Iterator[Turn]:
        """Split it into turns: each ends with an answer without tool calls, the last one with the conversation."""
        number = 0
        for count, message in enumerate(self.messages, 1):
            answers = message["role"] == MessageRole.ASSISTANT and not message.get("tool_calls")
            if answers or count == len(self.messages):
                number += 1
                yield Turn(number, count, message["role"])

    def thread_id(self, kind: IdType[Any]) -> IdValue | None:
        """Return the id of its thread, the same in every import; ``None`` where the database makes ids."""
        if kind.generated:
            return None
        try:
            own: IdValue = kind.parse(self.id, "id")
        except InvalidInputError:
            made = uuid.uuid5(NAMESPACE, self.id)
            return made if kind.python_type is uuid.UUID else str(made)
        return own


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        fields = _decoded(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError("JSON", f"{error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):
        raise InvalidInputError(
            "JSON", "cannot be read: no UTF-8, too deeply nested, or with an endless number"
        ) from None
    if not isinstance(fields, dict):
        raise InvalidInputError("JSON", f"must be an object: {LINE}")
    return fields


def _decoded(line: bytes) -> Any:
    try:
        return decode_json(line)
    except (
        ValueError
    ):  # the standard library also parses values that are refused or replaced later: NaN, lone surrogates
        return json.loads(line)


def _checked_id(value: object) -> str:
    if not check_text(value, "id"):
        raise InvalidInputError("id", "must not be empty; leave it out to have one made")
    return str(value)


def _made_id(messages: list[Any], fields: dict[str, Any]) -> str:
    # With the fields, where there are any: lines of a data set often have the same messages with different labels.
    content = [messages, fields] if fields else messages
    try:
        return f"sha256-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"
    except RecursionError:
        raise InvalidInputError("messages", f"are nested deeper than {MAX_JSON_DEPTH} levels") from None
