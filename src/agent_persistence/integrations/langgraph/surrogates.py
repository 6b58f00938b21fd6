"""Half characters (lone surrogates), which LangGraph's serialiser would replace by question marks."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from agent_persistence.repositories.checkpoints.blobs import Blob

_ESCAPE: Final = "\ufdd0"  # a character that Unicode keeps out of texts; where one holds it, it is doubled
_CONTAINERS: Final = (list, tuple, set, frozenset)
_ESCAPED: Final = "escaped+"
_HALF: Final = re.compile("[\ud800-\udfff]")
_SPECIAL: Final = re.compile(f"[{_ESCAPE}\ud800-\udfff]")
_WRITTEN: Final = re.compile(f"{_ESCAPE}({_ESCAPE}|d[89a-f][0-9a-f]{{2}})")


def dump_blob(serde: SerializerProtocol, value: Any) -> Blob:
    """Serialise a value, whatever its texts hold."""
    try:
        blob = serde.dumps_typed(value)
    except TypeError:  # a half character in the key of a dict
        if not _has_half(value):
            raise
    else:
        may_be_lost = b"?" in blob[1] or not isinstance(serde, JsonPlusSerializer)
        if not may_be_lost or not _has_half(value):
            return blob
    kind, content = serde.dumps_typed(_with_texts(value, _escape))
    return _ESCAPED + kind, content


def load_blob(serde: SerializerProtocol, blob: Blob) -> Any:
    """Read what ``dump_blob`` wrote."""
    kind, content = blob
    if kind.startswith(_ESCAPED):
        return _with_texts(serde.loads_typed((kind.removeprefix(_ESCAPED), content)), _unescape)
    return serde.loads_typed(blob)


def _has_half(value: Any) -> bool:
    """Whether there is one in it. Texts with a question mark are looked at, so this has to be quick."""
    if isinstance(value, str):
        return not value.isascii() and _HALF.search(value) is not None
    if isinstance(value, dict):
        return any(_has_half(key) or _has_half(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_has_half, value))
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and hasattr(value, "__dict__")):
        return any(map(_has_half, value.__dict__.values()))
    return False


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPE + (found[0] if found[0] == _ESCAPE else f"{ord(found[0]):04x}"), text)


def _unescape(text: str) -> str:
    return _WRITTEN.sub(lambda found: found[1] if found[1] == _ESCAPE else chr(int(found[1], 16)), text)


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Copy a value with every text in it changed: in containers, models and dataclasses."""
    kind = type(value)
    if kind is str:
        return change(value)
    if kind is dict:
        return {_with_texts(key, change): _with_texts(item, change) for key, item in value.items()}
    if kind in _CONTAINERS:
        return kind(_with_texts(item, change) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*(_with_texts(item, change) for item in value))
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _with_texts(item, change) for name, item in value})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(value, field.name, _with_texts(getattr(value, field.name), change))
    return value
