"""Long lists of plain values, such as 100,000 texts: short items that follow one another are stored as one.

Each stored item costs some microseconds and 40 bytes at every save, so that a list of short ones would cost many times
what its values do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from operator import itemgetter
from struct import Struct
from typing import Any, Final
from zlib import crc32

from langgraph.checkpoint.serde.base import SerializerProtocol

from agent_persistence.concurrency.offload import offload
from agent_persistence.integrations.langgraph.plain_values import pack_plain, unpack_plain
from agent_persistence.integrations.langgraph.seen_messages import SeenMessages
from agent_persistence.integrations.langgraph.surrogates import dump_blob, load_blob
from agent_persistence.repositories.checkpoints.compression import Blob, fingerprint

_LONG: Final = 1000
"""The fewest items of a long list. Shorter ones are cheap, and so are the items that are added to a long one."""
_SHORT: Final = 256
"""The mean size in bytes of short items. A longer one is worth an item of its own."""
# A piece ends with an item whose checksum says so, on average after 192: so equal stretches of two versions are cut
# equally, wherever they begin.
_FEWEST: Final = 128
_LAST_ONE_OF: Final = 64
_MOST: Final = 1024
_ITEM_BYTES: Final = 32  # about what an item costs, counted in bytes to serialise
_SEVERAL: Final = "several+"
"""Precedes the name of the format of a piece: its bytes are a list of items."""
_PACKED: Final = "msgpack"
"""The format of most values of LangGraph's serialiser."""
_ARRAY: Final = Struct(">BI")  # begins a list in MessagePack: 0xDD, and the number of items
_UNCHANGEABLE: Final = frozenset({str, int, float, bool, bytes, type(None)})


class LongList:
    """A long list of plain values to store, as it was when this was made; its pieces are serialised by ``settle``.

    Args:
        items: the items, or what ``unpack`` makes them of.
        pack: returns the packed form of one of ``items``, or ``None``.
        unpack: returns the item of one of ``items``.
        first: the blobs to store before the items.
    """

    def __init__(
        self,
        serde: SerializerProtocol,
        items: Sequence[Any],
        first: Sequence[Blob],
        *,
        pack: Callable[[Any], bytes | None],
        unpack: Callable[[Any], Any],
    ) -> None:
        self._serde = serde
        self._items = items
        self._first = first
        self._pack = pack
        self._unpack = unpack
        self._blobs: list[Blob] = []
        self._fingerprints: list[str] = []

    @property
    def size(self) -> int:
        """About how many bytes the pieces have at most."""
        return len(self._items) * _SHORT

    async def settle(self) -> None:
        """Serialise the pieces, beside the event loop."""
        await offload(len(self._items) * _ITEM_BYTES, self._serialise)

    @property
    def fingerprints(self) -> Sequence[str]:
        """The fingerprints of the pieces."""
        self._serialise()
        return self._fingerprints

    def blob(self, index: int) -> Blob:
        """Return a piece, serialised."""
        self._serialise()
        return self._blobs[index]

    def _serialise(self) -> None:
        if not self._fingerprints:
            self._blobs = [*self._first, *self._pieces()]
            self._fingerprints = [fingerprint(blob) for blob in self._blobs]

    def _pieces(self) -> Iterator[Blob]:
        start = 0
        while (end := self._end_of_piece(start)) is not None:
            items = [*map(self._unpack, self._items[start:end])]
            kind, content = dump_blob(self._serde, items)
            if len(content) <= _SHORT * len(items):
                yield _SEVERAL + kind, content
            else:
                yield from (dump_blob(self._serde, item) for item in items)
            start = end
        # The last items one by one: those that tasks added are stored so, and a piece would be stored again at each
        # save.
        yield from (dump_blob(self._serde, self._unpack(item)) for item in self._items[start:])

    def _end_of_piece(self, start: int) -> int | None:
        """Return the index after a piece's last item; ``None`` if no piece that begins at ``start`` has ended."""
        most = start + _MOST
        for end in range(start + _FEWEST, min(most, len(self._items) + 1)):
            packed = self._pack(self._items[end - 1])
            if packed is not None and not crc32(packed) % _LAST_ONE_OF:
                return end
        return most if most <= len(self._items) else None


def long_list(serde: SerializerProtocol, items: list[Any], first: Sequence[Blob]) -> LongList | None:
    """Return a list as one to store in pieces; ``None`` if it is not long, or holds more than plain values.

    Args:
        first: the blobs to store before the items.
    """
    if len(items) < _LONG or not SeenMessages.serves(serde):
        return None
    if set(map(type, items)) <= _UNCHANGEABLE:
        return LongList(serde, [*items], first, pack=pack_plain, unpack=_itself)
    # Packed at once, because the running graph may change them; one by one, because unpacking all of them in one call
    # would stall every thread.
    packed = [*takewhile(_is_packed, map(pack_plain, items))]
    return LongList(serde, packed, first, pack=_itself, unpack=unpack_plain) if len(packed) == len(items) else None


def load_items(serde: SerializerProtocol, blobs: Iterable[Blob]) -> Iterator[Any]:
    """Deserialise the items of a list."""
    for kind, group in groupby(blobs, key=itemgetter(0)):
        contents = [content for _, content in group]
        if kind.startswith(_SEVERAL):
            for content in contents:
                yield from load_blob(serde, (kind.removeprefix(_SEVERAL), content))
        elif kind == _PACKED and SeenMessages.serves(serde):
            for start in range(0, len(contents), _FEWEST):
                # As a list, in one call: for messages it takes three fifths of the time that a call for each does.
                part = contents[start : start + _FEWEST]
                yield from serde.loads_typed((_PACKED, _ARRAY.pack(0xDD, len(part)) + b"".join(part)))
        else:
            yield from (load_blob(serde, (kind, content)) for content in contents)


def _itself(value: Any) -> Any:
    return value


def _is_packed(packed: bytes | None) -> bool:
    return packed is not None
