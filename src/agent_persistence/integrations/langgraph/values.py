"""Serialises LangGraph's values as blobs, and reads them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import EXCLUDED_METADATA_KEYS
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agent_persistence.encoding.exact_json import encode_json, sanitize
from agent_persistence.errors import InvalidInputError
from agent_persistence.integrations.langgraph.long_lists import LongList, load_items, long_list
from agent_persistence.integrations.langgraph.seen_messages import SeenMessages
from agent_persistence.integrations.langgraph.surrogates import dump_blob, load_blob
from agent_persistence.repositories.checkpoints.compression import Blob, fingerprint, size_of
from agent_persistence.repositories.checkpoints.records import ChannelValue

_SEQUENCES: Final = (list, tuple)
_SNAPSHOT: Final[Blob] = ("delta-snapshot", b"")
"""Precedes the items of a list that is the value of a ``_DeltaSnapshot``."""
_NUMBERS: Final = frozenset({int, float, bool, type(None)})


class _ListItems:
    """The items of a list to store, each serialised when it is needed, and those that were not seen before at once.

    The running graph may change a value while it is saved; what was serialised is kept.
    """

    def __init__(
        self, serde: SerializerProtocol, items: Sequence[Any], seen: SeenMessages, first: Sequence[Blob]
    ) -> None:
        self._serde = serde
        self._items = items
        self._first = len(first)
        self._blobs: dict[int, Blob] = dict(enumerate(first))
        self.fingerprints = [fingerprint(blob) for blob in first]
        is_known = seen.serves(serde)
        for index, item in enumerate(items, self._first):
            key = seen.key(item) if is_known else None
            found = None if key is None else seen.fingerprint(key)
            if found is None:
                blob = self._blobs[index] = dump_blob(serde, item)
                found = fingerprint(blob)
                if key is not None:
                    seen.note(key, found)
            self.fingerprints.append(found)

    @property
    def size(self) -> int:
        """The number of bytes that are serialised."""
        return size_of(self._blobs.values())

    async def settle(self) -> None:
        """Do nothing: all new items are serialised."""

    def blob(self, index: int) -> Blob:
        """Return the item at an index, serialised."""
        if index not in self._blobs:
            self._blobs[index] = dump_blob(self._serde, self._items[index - self._first])
        return self._blobs[index]


def dump(
    serde: SerializerProtocol, value: Any, seen: SeenMessages, *, one_by_one: bool = False
) -> _ListItems | LongList | Blob:
    """Serialise a value; a list item by item, so that each item is stored once.

    The snapshots that LangGraph takes of a ``DeltaChannel`` are lists too.

    Args:
        seen: the messages that were serialised before.
        one_by_one: whether each item of a long list is stored by itself, too.
    """
    items = value.value if isinstance(value, _DeltaSnapshot) else value
    # An instance of a subclass, or a tuple, would come back as a plain list.
    if type(items) is list and _is_cut(serde, items):
        first = [] if items is value else [_SNAPSHOT]
        found = None if one_by_one else long_list(serde, items, first)
        return found or _ListItems(serde, [*items], seen, first)
    return dump_blob(serde, value)


def dump_all(
    serde: SerializerProtocol, value: Any, seen: SeenMessages, *, one_by_one: bool = False
) -> ChannelValue | LongList:
    """Serialise a value like ``dump``, and all items of a list that is not long at once."""
    dumped = dump(serde, value, seen, one_by_one=one_by_one)
    if isinstance(dumped, tuple | LongList):
        return dumped
    return [dumped.blob(index) for index in range(len(dumped.fingerprints))]


def load(serde: SerializerProtocol, value: ChannelValue) -> Any:
    """Deserialise a value that ``dump`` wrote."""
    if not isinstance(value, list):
        return load_blob(serde, value)
    if value[:1] == [_SNAPSHOT]:
        return _DeltaSnapshot([*load_items(serde, value[1:])])
    return [*load_items(serde, value)]


def _is_cut(serde: SerializerProtocol, items: list[Any]) -> bool:
    # A number is smaller than the record of an item (about 40 bytes). Encrypted items never have the same bytes twice,
    # so none would be found again.
    return not isinstance(serde, EncryptedSerializer) and not (items and all(type(item) in _NUMBERS for item in items))


def merged_metadata(config: RunnableConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Add keys of the config to a checkpoint's metadata, as LangGraph's own checkpointers do, but change no text."""
    merged: dict[str, Any] = {key: _without_tuples(value) for key, value in metadata.items()}
    for given in (config.get("metadata"), config.get("configurable")):
        for key, value in (given or {}).items():
            known = key in merged or key in EXCLUDED_METADATA_KEYS or key.startswith("__")
            if not known and isinstance(value, str | int | float | bool):
                merged[key] = value
    return merged


def split_metadata(serde: SerializerProtocol, metadata: dict[str, Any]) -> tuple[dict[str, Any], Blob | None]:
    """Return the metadata that can be filtered by, and a blob of all of it if JSON cannot hold it exactly."""
    try:
        encode_json(metadata, "metadata")
    except InvalidInputError:
        return searchable(metadata), dump_blob(serde, metadata)
    return metadata, None


def _without_tuples(value: Any) -> Any:
    # LangGraph's serialiser and JSON both return a list for a tuple.
    if type(value) is dict:
        return {key: _without_tuples(item) for key, item in value.items()}
    return [_without_tuples(item) for item in value] if type(value) in _SEQUENCES else value


def filter_of(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filter in the form in which ``searchable`` writes metadata; the repository refuses all but JSON."""
    found: dict[str, Any] = sanitize(_without_tuples(dict(wanted)), "filter")
    return found


def searchable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that JSON can hold: NUL and lone surrogates are replaced, other values are left out."""
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        try:
            clean = sanitize({key: value}, "metadata")
            encode_json(clean, "metadata")
        except InvalidInputError:
            continue
        found.update(clean)
    return found
