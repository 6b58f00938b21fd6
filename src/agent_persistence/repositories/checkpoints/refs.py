"""References of checkpoints to stored values. A list is referred to as spans of stored items, whatever was edited."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.compression import Blob, compress_json, decompress_json
from agent_persistence.repositories.checkpoints.value_rows import Position, StoredItem


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

    def all(self) -> Iterator[tuple[str, Ref]]:
        """Yield every reference, with its channel."""
        yield from self.channels.items()
        for channel, history in self.history.items():
            if history.seed is not None:
                yield channel, history.seed
            yield from ((channel, write.ref) for write in history.writes)


NO_REFS = Refs({}, {}, {})


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
    """Decode references that ``write_refs`` encoded."""
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

    def spans(self, positions: Sequence[Position]) -> list[Span]:
        """Return the spans of the list, given the positions of all stored and new items."""
        return [Span(positions[first], positions[last]) for first, last in self.runs]


def lay_out(fingerprints: Sequence[str], known: Sequence[StoredItem]) -> Layout:
    """Find the items of a list among stored ones.

    Args:
        fingerprints: of the list's items.
        known: all stored items of the channel from some row on, in their order.
    """
    index_of = {item.fingerprint: index for index, item in enumerate(known)}
    indexes: list[int] = []
    added: list[int] = []
    for index, wanted in enumerate(fingerprints):
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
    return Layout(_runs(indexes), added)


def _runs(indexes: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and index == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], index
        else:
            runs.append((index, index))
    return runs
