"""References of checkpoints to stored values. A list is referred to as spans of stored items, whatever was edited."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.compression import Blob, compress_json, decompress_json
from agent_persistence.repositories.checkpoints.value_rows import Position, StoredItem, position_of

_NUMBERED: Final = b"\x03"
_HEAD: Final = struct.Struct(">cHq")
_NUMBER: Final = struct.Struct(">q")


@frozen
class Span:
    """All items of a channel between two positions, which are included."""

    first: Position
    last: Position


@frozen
class ListRef:
    """A list: the items of its spans, in their order; ``length`` tells whether one of them was deleted."""

    length: int
    spans: Sequence[Span]


@frozen
class WholeRef:
    """A value that is one stored item."""

    position: Position


@frozen
class InlineRef:
    """A value that is small enough to be stored in the reference."""

    blob: Blob


Ref = ListRef | WholeRef | InlineRef


@frozen
class InheritedWrite:
    """A write to a ``DeltaChannel`` at an ancestor that was deleted."""

    task_id: str
    ref: Ref


@frozen
class History:
    """The history of a ``DeltaChannel`` before a checkpoint whose ancestors were deleted.

    Attributes:
        seed: the value to which the writes are applied; ``None`` if there was none.
        writes: the oldest first.
    """

    seed: Ref | None
    writes: Sequence[InheritedWrite]


@frozen
class Refs:
    """The references of a checkpoint.

    Attributes:
        channels: one for each channel that has a value.
        history: by channel; empty unless ancestors were deleted.
        versions: LangGraph's versions of these values, by channel.
    """

    channels: Mapping[str, Ref]
    history: Mapping[str, History]
    versions: Mapping[str, Any]

    def renumbered(self, number: Callable[[int], int]) -> Refs:
        """Return the same references to rows that have other numbers; a checkpoint that is new has no history."""
        return replace(self, channels={channel: _renumbered(ref, number) for channel, ref in self.channels.items()})

    def stored(self) -> Iterator[tuple[str, ListRef | WholeRef]]:
        """Yield the references of channels to rows, with their channels."""
        for channel, ref in self.channels.items():
            if isinstance(ref, WholeRef) or (isinstance(ref, ListRef) and ref.spans):
                yield channel, ref

    def all(self) -> Iterator[tuple[str, Ref]]:
        """Yield every reference, with its channel."""
        yield from self.channels.items()
        for channel, history in self.history.items():
            if history.seed is not None:
                yield channel, history.seed
            yield from ((channel, write.ref) for write in history.writes)


NO_REFS = Refs({}, {}, {})


def _renumbered(ref: Ref, number: Callable[[int], int]) -> Ref:
    if isinstance(ref, WholeRef):
        return WholeRef((number(ref.position[0]), ref.position[1]))
    if isinstance(ref, InlineRef):
        return ref
    spans = [Span((number(one.first[0]), one.first[1]), (number(one.last[0]), one.last[1])) for one in ref.spans]
    return ListRef(ref.length, spans)


def numbers_after(last_no: int, numbers: Sequence[int]) -> Callable[[int], int]:
    """Return what gives rows their numbers that were counted from ``last_no`` while they were not stored yet."""
    return lambda number: number if number <= last_no else numbers[number - last_no - 1]


def last_number(refs: Refs, known: Mapping[str, Sequence[StoredItem]]) -> int:
    """Return the greatest number of a row that is referred to or known."""
    ends = [item.position[0] for items in known.values() for item in items[-1:]]
    for _, ref in refs.all():
        if isinstance(ref, WholeRef):
            ends.append(ref.position[0])
        elif isinstance(ref, ListRef):
            ends += [span.last[0] for span in ref.spans]
    return max(ends, default=0)


def head_of_refs(last_no: int, added: int) -> bytes:
    """Return what precedes references to rows that the same statement adds, whose numbers only the server knows.

    In the references they are counted from ``last_no``. The server appends their numbers to this head, eight bytes
    each, and then what ``write_refs`` returned.
    """
    return _HEAD.pack(_NUMBERED, added, last_no) if added else b""


def write_refs(refs: Refs) -> bytes:
    """Encode references for a column."""
    channels = {channel: _to_json(ref) for channel, ref in refs.channels.items()}
    history = {
        channel: [
            None if past.seed is None else _to_json(past.seed),
            [[write.task_id, _to_json(write.ref)] for write in past.writes],
        ]
        for channel, past in refs.history.items()
    }
    # Versions without their channels, which stand before them in the same order: most rows are a few hundred bytes.
    return compress_json([channels, history, [refs.versions.get(channel) for channel in channels]])


def read_refs(column: bytes) -> Refs:
    """Decode references that ``write_refs`` encoded, perhaps with a head and numbers before them."""
    if column[:1] == _NUMBERED:
        _, added, last_no = _HEAD.unpack_from(column)
        end = _HEAD.size + added * _NUMBER.size
        numbers = [number for (number,) in _NUMBER.iter_unpack(column[_HEAD.size : end])]
        return read_refs(column[end:]).renumbered(numbers_after(last_no, numbers))
    channels, *rest = decompress_json(column)
    # The first builds wrote neither of the two where it was not needed.
    past: dict[str, Any] = rest[0] if rest else {}
    versions: list[Any] = rest[1] if len(rest) > 1 else []
    history = {
        channel: History(
            None if seed is None else _from_json(seed),
            [InheritedWrite(task_id, _from_json(ref)) for task_id, ref in writes],
        )
        for channel, (seed, writes) in past.items()
    }
    return Refs(
        {channel: _from_json(ref) for channel, ref in channels.items()},
        history,
        dict(zip(channels, versions, strict=False)),
    )


def _to_json(ref: Ref) -> list[Any]:
    if isinstance(ref, InlineRef):
        kind, content = ref.blob
        return ["inline", kind, b64encode(content).decode()]
    if isinstance(ref, WholeRef):
        return ["whole", *ref.position]
    numbers, last = [], 0
    # As differences, which are small numbers and compress well: an edited list can have many spans.
    for span in ref.spans:
        numbers += [span.first[0] - last, span.first[1], span.last[0] - span.first[0], span.last[1]]
        last = span.last[0]
    return ["list", ref.length, numbers]


def _from_json(written: list[Any]) -> Ref:
    kind, *rest = written
    if kind == "inline":
        return InlineRef((rest[0], b64decode(rest[1])))
    if kind == "whole":
        return WholeRef((rest[0], rest[1]))
    length, numbers = rest
    spans, last = [], 0  # four numbers a span, the first and the third relative to the row before
    for start in range(0, len(numbers), 4):
        first_no, first_item, rows, last_item = numbers[start : start + 4]
        first = (last + first_no, first_item)
        last = first[0] + rows
        spans.append(Span(first, (last, last_item)))
    return ListRef(length, spans)


@frozen
class Layout:
    """A list in terms of the stored items of its channel and of new items, which are stored after them.

    Attributes:
        runs: first and last indexes of consecutive items, counted over the stored and then the new items.
        added: the indexes, in the list, of the new items.
    """

    runs: Sequence[tuple[int, int]]
    added: Sequence[int]

    def spans(self, known: Sequence[StoredItem], new: Sequence[Position]) -> list[Span]:
        """Return the spans of the list, given the stored items and the positions of the new ones."""

        def position(index: int) -> Position:
            return known[index].position if index < len(known) else new[index - len(known)]

        return [Span(position(first), position(last)) for first, last in self.runs]


def lay_out(fingerprints: Sequence[str], known: Sequence[StoredItem], seam: int = 0) -> Layout:
    """Find the items of a list among stored ones.

    Args:
        fingerprints: of the list's items.
        known: all stored items of the channel from some row on, in their order.
        seam: the number of a row behind which there may be others that are not in ``known``: no run crosses it.
    """
    start = _length_in_common(fingerprints, known)
    indexes = [*range(start)]
    added: list[int] = []
    rest = set(fingerprints[start:])
    index_of = {item.fingerprint: index for index, item in enumerate(known) if item.fingerprint in rest} if rest else {}
    for index, wanted in enumerate(fingerprints[start:], start):
        # First the item after the last one found: so equal items do not tear a run apart, and a list that grew is one
        # run, whatever was cut from its beginning.
        following = indexes[-1] + 1 if indexes else 0
        if following < len(known) and known[following].fingerprint == wanted:
            indexes.append(following)
        elif wanted in index_of:
            indexes.append(index_of[wanted])
        else:
            indexes.append(len(known) + len(added))
            added.append(index)
    return Layout(_runs(indexes, bisect_left(known, (seam + 1, 0), key=position_of)), added)


def _length_in_common(fingerprints: Sequence[str], known: Sequence[StoredItem]) -> int:
    """Return how many items the beginnings of both have in common."""
    for index, (wanted, item) in enumerate(zip(fingerprints, known, strict=False)):
        if wanted != item.fingerprint:
            return index
    return min(len(fingerprints), len(known))


def _runs(indexes: Sequence[int], border: int) -> list[tuple[int, int]]:
    """Return the runs of consecutive indexes; none goes from below the border to it."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and index == runs[-1][1] + 1 and index != border:
            runs[-1] = runs[-1][0], index
        else:
            runs.append((index, index))
    return runs
