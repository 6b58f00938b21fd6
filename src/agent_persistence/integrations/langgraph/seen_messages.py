"""The messages that a checkpointer serialised before: a conversation is saved again and again, and hardly changes."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agent_persistence.integrations.langgraph.plain_values import pack_plain

Key = tuple[type[Any], bytes]
"""The class of a message, and a hash of all that it holds."""

_MODULE: Final = "langchain_core.messages."
_MOST: Final = 50_000  # twice, each 200 bytes; messages of any size


class SeenMessages:
    """Remembers the fingerprints of serialised messages by what they hold.

    Not by their identity, since a node may change a message in place. To pack the fields takes a microsecond;
    LangGraph's serialiser takes ten for a message.
    """

    def __init__(self) -> None:
        self._recent: dict[Key, str] = {}
        self._older: dict[Key, str] = {}

    @staticmethod
    def serves(serde: SerializerProtocol) -> bool:
        """Whether a serialiser is known to write equal messages as equal bytes."""
        return type(serde) is JsonPlusSerializer

    @staticmethod
    def key(item: Any) -> Key | None:
        """Return the key of a message; ``None`` for other items, and for one that holds more than plain values."""
        kind = type(item)
        # Only LangChain's own classes: another one may serialise more than its fields.
        if not isinstance(item, BaseMessage) or not kind.__module__.startswith(_MODULE):
            return None
        packed = pack_plain([item.__dict__, item.__pydantic_extra__, item.__pydantic_private__])
        return None if packed is None else (kind, blake2b(packed, digest_size=16).digest())

    def fingerprint(self, key: Key) -> str | None:
        """Return the fingerprint of a message; ``None`` if it was not seen, or long ago."""
        found = self._recent.get(key)
        if found is None and (found := self._older.get(key)) is not None:
            self.note(key, found)
        return found

    def note(self, key: Key, fingerprint: str) -> None:
        """Remember the fingerprint of a message."""
        if len(self._recent) >= _MOST:
            self._recent, self._older = {}, self._recent
        self._recent[key] = fingerprint
