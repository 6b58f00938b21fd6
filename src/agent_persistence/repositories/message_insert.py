"""Appending messages: one statement locks the thread, moves its activity, numbers and inserts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic

from sqlalchemy import ARRAY, Integer, Text, bindparam, cast, column, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from agent_persistence.chat_format import MessageColumns, to_columns
from agent_persistence.errors import InvalidInput
from agent_persistence.ids import IdT, IdType
from agent_persistence.json_values import EncodedJSON
from agent_persistence.models.json_type import ExactJSON
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


def insert_messages(scope: Scope[IdT, Any], thread_id: IdT, messages: Sequence[PreparedMessage[IdT]]) -> Any:
    """Build the statement; it returns ``message_id, seq, created_at, updated_at`` of what was not there before.

    The messages either all have an id or none has: those without one get it from the database.
    """
    table = scope.messages
    locked = scope.locked_thread(thread_id)
    arrays = _arrays(scope.models.id_types.id, messages)
    rows = (
        func.unnest(*(bindparam(None, values, ARRAY(kind)) for _, kind, values in arrays))
        .table_valued(*(column(name, kind) for name, kind, _ in arrays), with_ordinality="place")
        .render_derived(name="new")
    )
    chosen = [cast(rows.c[name], table.c.role.type) if name == "role" else rows.c[name] for name, _, _ in arrays]
    values = select(locked.c.thread_id, *chosen).select_from(locked.join(rows, true())).order_by(rows.c.place)
    return (
        insert(table)
        .from_select(["thread_id", *(name for name, _, _ in arrays)], values, include_defaults=False)
        .add_cte(locked, scope.touched_thread(locked))
        .on_conflict_do_nothing(index_elements=[table.c.thread_id, table.c.message_id])
        .returning(table.c.message_id, table.c.seq, table.c.created_at, table.c.updated_at)
    )


def _arrays(
    kind: IdType[Any], messages: Sequence[PreparedMessage[Any]]
) -> list[tuple[str, TypeEngine[Any], list[Any]]]:
    """One array a column: the statement's text does not depend on how many messages there are."""
    json = ExactJSON()
    arrays: list[tuple[str, TypeEngine[Any], list[Any]]] = [
        ("role", Text(), [str(message.columns.role) for message in messages]),
        ("content", Text(), [message.columns.content for message in messages]),
        ("tool_calls", json, [message.encoded["tool_calls"] for message in messages]),
        ("tool_call_id", Text(), [message.columns.tool_call_id for message in messages]),
        ("reasoning", Text(), [message.columns.reasoning for message in messages]),
        ("total_tokens", Integer(), [message.total_tokens for message in messages]),
        ("usages", json, [message.encoded["usages"] for message in messages]),
        ("meta", json, [message.encoded["meta"] for message in messages]),
        ("extra", json, [message.encoded["extra"] for message in messages]),
    ]
    if messages[0].message_id is not None:
        arrays.insert(0, ("message_id", kind.array_type().item_type, [message.message_id for message in messages]))
    return arrays


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
