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

from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.forms.agentflow import AgentflowForm, text_block
from agent_persistence.forms.differences import is_same
from agent_persistence.forms.form import own_item, rest_of, written
from agent_persistence.forms.token_counts import counts_in
from agent_persistence.ids import IdType
from agent_persistence.integrations.checkpointing.run_config import message_key
from agent_persistence.integrations.json_values import json_errors, jsonable
from agent_persistence.records import MessageRecord, NewMessage

_FORM: Final = AgentflowForm()
META_KEY: Final = _FORM.key
_ORIGINAL: Final = "agent_persistence"
"""The key of a framework's ``raw`` that holds another program's message."""
_CHAT_FIELDS: Final = {"role", "content", "tool_calls", "tool_call_id", "reasoning_content"}
_MORE_USAGES: Final = ("reasoning_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_OPTIONAL_USAGES: Final = ("image_tokens", "audio_tokens")
_USAGES: Final = {"prompt_tokens", "completion_tokens", "total_tokens", *_MORE_USAGES, *_OPTIONAL_USAGES}
_NOT_THERE: Final = object()
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
    meta = _storable_meta(dump["metadata"])
    usages: dict[str, Any] = dump["usages"] or {}
    if original is not None:
        usages = _restored_usages(usages, original["usages"])
    key = message_key(dump["message_id"], id_type)
    of_columns = _fields_of_columns(key, meta, usages)
    item = {name: value for name, value in dump.items() if not is_same(value, of_columns.get(name, _NOT_THERE))}
    [row] = written(_FORM, item, f"messages[{dump['message_id']}]")
    message, own, aside = row.message, dict(row.meta.get(META_KEY, {})), row.aside
    if original is not None:
        said = dict(_restored(dict(message), original["message"]))
        message, own, aside = said, rest_of(_FORM, [said], _FORM.say(item).hint, item), None
    if call_metadata:
        own["call_metadata"] = to_storable(dict(call_metadata))
    return NewMessage(
        message=message,
        message_id=key,
        total_tokens=_tokens(usages),
        usages=to_storable(usages),
        meta={**meta, META_KEY: own},
        aside=aside,
    )


def thread_meta(metadata: dict[str, Any], run_id: str | None) -> dict[str, Any]:
    """Return the ``meta`` of a thread with this metadata; the run's id is stored under ``META_KEY``."""
    extra: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
    if META_KEY in metadata or not _is_storable(metadata):
        return {META_KEY: {**extra, "metadata": to_storable(metadata)}}
    return {**metadata, META_KEY: extra} if extra else metadata


def _storable_meta(metadata: dict[str, Any]) -> dict[str, Any]:
    # Metadata that cannot stand beside META_KEY are one of the fields under it.
    beside = {key: value for key, value in metadata.items() if key != META_KEY}
    return beside if _is_storable(beside) else {}


def _is_storable(value: object) -> bool:
    return to_storable(value) is value


def _tokens(usages: Mapping[str, Any]) -> int:
    total = usages.get("total_tokens")
    return total if type(total) is int and 0 <= total <= _MAX_TOKENS else 0


# --- To the frameworks ---


def to_fields(record: MessageRecord[Any]) -> dict[str, Any]:
    """Return the fields of a framework's message: the original ones, or ones derived from another program's message."""
    meta = dict(record.meta)
    own = _decoded(meta.pop(META_KEY, None))
    if _is_older(own):
        return _older_fields(record, meta, own)
    item = own_item(_FORM, [record])
    # Every message of a framework has a timestamp; without one it is the application's own value under this key.
    if item is None or "timestamp" not in item:
        return to_foreign_fields(record)
    return {**_fields_of_columns(record.message_id, meta, _decoded(record.usages)), **item}


def to_foreign_fields(record: MessageRecord[Any]) -> dict[str, Any]:
    """Return the fields of a framework's message for one that another program has written."""
    # The row's time: the frameworks need a timestamp, and another program's message has no other.
    fields = _fields(record.message_id, record.message, dict(record.meta), record.usages)
    return {**fields, "timestamp": record.created_at.timestamp()}


def _is_older(own: Any) -> bool:
    """Whether a version of this package without forms has written a message."""
    return isinstance(own, dict) and isinstance(own.get("fields"), dict) and "timestamp" in own["fields"]


def _older_fields(record: MessageRecord[Any], meta: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    fields = _fields(record.message_id, record.message, meta, _decoded(record.usages))
    for block in fields["content"][:1]:
        block.update(own.get("block", {}))
    return {**fields, **own["fields"]}


def with_original(fields: dict[str, Any], record: MessageRecord[Any]) -> dict[str, Any]:
    """Return fields that a framework's class accepts; what has no place there is in ``raw``.

    Args:
        fields: what ``to_fields`` returned for the record.
        record: the stored message.
    """
    if _is_only_text(fields, record):
        return fields
    usages = fitting_usages(fields["usages"])
    if record.message == _chat_of(fields) and usages == (_decoded(record.usages) or None):
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
        and fields["content"] == [text_block(text)]
        and not (fields["tools_calls"] or record.usages or fields["usages"])
        and fields["reasoning"] is None
    )


def fitting_usages(usages: Any) -> dict[str, Any] | None:
    """Return usages in the frameworks' words; ``None`` if they do not say how many tokens were used."""
    if not isinstance(usages, Mapping):
        return None
    found = counts_in(usages)
    if found is None:
        return None
    counts = {"completion_tokens": found.completion, "prompt_tokens": found.prompt, "total_tokens": found.total}
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
    [item] = _FORM.items(dict(chat))
    return {**_fields_of_columns(message_id, meta, usages), **item}


def _fields_of_columns(message_id: Any, meta: dict[str, Any], usages: dict[str, Any]) -> dict[str, Any]:
    return {"message_id": framework_id(message_id), "metadata": meta, "usages": usages or None}


def _chat_of(fields: dict[str, Any]) -> Mapping[str, Any]:
    """Return the message that fields are stored as."""
    [row] = written(_FORM, fields)
    return row.message


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
    as_read = _chat_of(_fields(None, original, {}, {}))
    if chat == as_read:
        return original
    changed = {key for key in _CHAT_FIELDS if chat.get(key) != as_read.get(key)}
    kept = {key: value for key, value in original.items() if key not in changed}
    return {**kept, **{key: chat[key] for key in changed if key in chat}}


def _restored_usages(usages: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    as_read = fitting_usages(original) or {}
    return original if all(usages.get(name) == count for name, count in as_read.items()) else usages


def _is_count(value: Any) -> bool:
    return type(value) is int


def _fits(usages: Mapping[str, Any], name: str) -> bool:
    return _is_count(usages[name]) or (usages[name] is None and name in _OPTIONAL_USAGES)
