"""LangGraph's values as blobs, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import EXCLUDED_METADATA_KEYS
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agent_persistence.encoding.exact_json import encode_json, sanitize
from agent_persistence.errors import InvalidInputError
from agent_persistence.integrations.langgraph.surrogates import dump_blob, load_blob
from agent_persistence.repositories.checkpoints.packing import Blob
from agent_persistence.repositories.checkpoints.records import ChannelValue

_SEQUENCES: Final = (list, tuple)
_SNAPSHOT: Final[Blob] = ("delta-snapshot", b"")
"""In place of the first item: the list is a ``_DeltaSnapshot``."""
_NUMBERS: Final = frozenset({int, float, bool, type(None)})


def dump(serde: SerializerProtocol, value: Any) -> ChannelValue:
    """Serialise a value; the items of a list each by itself, so that each is stored once.

    So are those of the list that LangGraph writes from time to time for a channel that is kept as its changes.
    """
    items = value.value if isinstance(value, _DeltaSnapshot) else value
    if type(items) is list and _is_cut(serde, items):
        return [*([] if items is value else [_SNAPSHOT]), *(dump_blob(serde, item) for item in items)]
    return dump_blob(serde, value)


def load(serde: SerializerProtocol, value: ChannelValue) -> Any:
    """Read what ``dump`` wrote."""
    if not isinstance(value, list):
        return load_blob(serde, value)
    if value[:1] == [_SNAPSHOT]:
        return _DeltaSnapshot([load_blob(serde, item) for item in value[1:]])
    return [load_blob(serde, item) for item in value]


def _is_cut(serde: SerializerProtocol, items: list[Any]) -> bool:
    """Whether the items are worth it: a number is smaller than what is noted about an item.

    Encryption writes the same thing differently each time, so that no item would be found again.
    """
    return not isinstance(serde, EncryptedSerializer) and not (items and all(type(item) in _NUMBERS for item in items))


def merged_metadata(config: RunnableConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a checkpoint's metadata what the config says, as LangGraph's own checkpointers do, but change no text."""
    merged: dict[str, Any] = {key: _without_tuples(value) for key, value in metadata.items()}
    for given in (config.get("metadata"), config.get("configurable")):
        for key, value in (given or {}).items():
            known = key in merged or key in EXCLUDED_METADATA_KEYS or key.startswith("__")
            if not known and isinstance(value, str | int | float | bool):
                merged[key] = value
    return merged


def split_metadata(serde: SerializerProtocol, metadata: dict[str, Any]) -> tuple[dict[str, Any], Blob | None]:
    """Return what of the metadata can be filtered by, and all of it where that is not the same."""
    try:
        encode_json(metadata, "metadata")
    except InvalidInputError:
        return searchable(metadata), dump_blob(serde, metadata)
    return metadata, None


def _without_tuples(value: Any) -> Any:
    """A tuple comes back as a list, from LangGraph's serialiser as from JSON."""
    if type(value) is dict:
        return {key: _without_tuples(item) for key, item in value.items()}
    return [_without_tuples(item) for item in value] if type(value) in _SEQUENCES else value


def filter_of(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What metadata must contain, as ``searchable`` has written it; what JSON cannot hold the repository refuses."""
    found: dict[str, Any] = sanitize(_without_tuples(dict(wanted)), "filter")
    return found


def searchable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of metadata: NUL and half characters are replaced, and what has no word in it is left out."""
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        try:
            clean = sanitize({key: value}, "metadata")
            encode_json(clean, "metadata")
        except InvalidInputError:
            continue
        found.update(clean)
    return found
