"""Lone surrogates in texts, which LangGraph's serialiser would replace by question marks."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import PurePath
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import SendProtocol
from pydantic import BaseModel

from agent_persistence.integrations.langgraph.plain_values import pack_plain
from agent_persistence.repositories.checkpoints.compression import Blob

logger: Final = logging.getLogger("agent_persistence")

_ESCAPE: Final = "\ufdd0"  # a noncharacter of Unicode, not used in texts; if a text has it anyway, it is doubled
_CONTAINERS: Final = (list, tuple, set, frozenset, deque)
_LEAVES: Final = (int, float, bytes, bytearray, type(None), Enum)  # before str: an enum can be one, and stays as it is
_ESCAPED: Final = "escaped+"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SPECIAL: Final = re.compile(f"[{_ESCAPE}\ud800-\udfff]")
_WRITTEN: Final = re.compile(f"{_ESCAPE}({_ESCAPE}|d[89a-f][0-9a-f]{{2}})")


def dump_blob(serde: SerializerProtocol, value: Any) -> Blob:
    """Serialise a value; lone surrogates in its texts are escaped, which the name of the format says.

    Raises whatever the serialiser raises, and nothing else: a value that cannot be searched keeps its question marks.
    """
    try:
        blob = serde.dumps_typed(value)
    except TypeError:  # the serialiser's answer to a lone surrogate in the key of a dict
        if (escaped := _escaped(serde, value)) is None:
            raise
        return escaped
    # JsonPlusSerializer writes a question mark for each, so that most values are not searched. Of another serialiser,
    # such as one that encrypts, the bytes say nothing.
    may_be_lost = b"?" in blob[1] or not isinstance(serde, JsonPlusSerializer)
    return (_escaped(serde, value) if may_be_lost else None) or blob


def _escaped(serde: SerializerProtocol, value: Any) -> Blob | None:
    """Serialise a value with its lone surrogates escaped; return ``None`` if it has none, or cannot be searched."""
    try:
        # A plain value that can be packed has none, and is not searched: a list of 100,000 dicts would take 0.2 s.
        if pack_plain(value) is not None or not _has_surrogate(value):
            return None
        kind, content = serde.dumps_typed(_with_texts(value, _escape))
    except Exception as error:  # noqa: BLE001 - of the value's own class, which may do anything
        kind = type(error).__name__
        fields = {"event_name": "graph.not_searched", "error_type": kind}
        logger.debug("a value of a graph cannot be searched for lone surrogates: %s", kind, extra=fields)
        return None
    return _ESCAPED + kind, content


def load_blob(serde: SerializerProtocol, blob: Blob) -> Any:
    """Deserialise a value that ``dump_blob`` wrote."""
    kind, content = blob
    if kind.startswith(_ESCAPED):
        return _with_texts(serde.loads_typed((kind.removeprefix(_ESCAPED), content)), _unescape)
    return serde.loads_typed(blob)


def _has_surrogate(value: Any) -> bool:
    """Return whether a value has a lone surrogate. Called for each text with a question mark, so it must be fast."""
    if isinstance(value, _LEAVES):
        return False
    if isinstance(value, str):
        # isascii() reads a flag, whatever the length of the text.
        return not value.isascii() and _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(item) for key, item in value.items())
    if isinstance(value, _CONTAINERS):
        return any(map(_has_surrogate, value))
    if isinstance(value, PurePath):
        return _has_surrogate(str(value))
    return any(_has_surrogate(part) for _, part in _parts(value))


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """Return the fields of a model (extra ones too), of a dataclass, or of LangGraph's ``Send``; of others, none."""
    if isinstance(value, BaseModel):
        # Not by iterating it: a model of a list, for example, iterates over its items.
        return [*value.__dict__.items(), *(value.__pydantic_extra__ or {}).items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return [("arg", value.arg)] if isinstance(value, SendProtocol) else ()


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPE + (found[0] if found[0] == _ESCAPE else f"{ord(found[0]):04x}"), text)


def _unescape(text: str) -> str:
    return _WRITTEN.sub(lambda found: found[1] if found[1] == _ESCAPE else chr(int(found[1], 16)), text)


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of a value with every text replaced by ``change(text)``."""
    if isinstance(value, _LEAVES):
        return value
    if isinstance(value, str):
        return change(value)
    if isinstance(value, PurePath):
        return type(value)(change(str(value)))
    if isinstance(value, dict):
        return {_with_texts(key, change): _with_texts(item, change) for key, item in value.items()}
    return _with_items(value, change) if isinstance(value, _CONTAINERS) else _with_parts(value, change)


def _with_items(value: Any, change: Callable[[str], str]) -> Any:
    kind, items = type(value), [_with_texts(item, change) for item in value]
    if hasattr(value, "_fields"):  # a named tuple
        return kind(*items)
    # How to make another subclass is unknown: it stays, and loses its lone surrogates.
    return kind(items) if kind in _CONTAINERS else value


def _with_parts(value: Any, change: Callable[[str], str]) -> Any:
    changed = {name: _with_texts(part, change) for name, part in _parts(value)}
    if isinstance(value, BaseModel):
        return BaseModel.model_copy(value, update=changed)  # not a model's own
    if changed:
        value = copy.copy(value)
        for name, part in changed.items():
            object.__setattr__(value, name, part)  # past the check of a frozen dataclass
    return value
