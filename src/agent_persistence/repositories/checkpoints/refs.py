"""Where the values of a checkpoint's channels are: spans of stored items, which say a list's every version exactly."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.packing import Blob, pack_json, unpack_json
from agent_persistence.repositories.checkpoints.value_rows import Place, StoredItem


@frozen
class Span:
    """All items of a channel from one place to another, both included."""

    first: Place
    last: Place


@frozen
class ListRef:
    """A list: the items of its spans, one after the other; ``length`` shows whether all of them are there."""

    length: int
    spans: Sequence[Span]


@frozen
class WholeRef:
    """A value that is stored as one item."""

    place: Place


@frozen
class InlineRef:
    """A value that is small enough to stand here itself."""

    blob: Blob


Ref = ListRef | WholeRef | InlineRef


@frozen
class Handed:
    """A write to a channel that a checkpoint has from an ancestor that is gone."""

    task_id: str
    ref: Ref


@frozen
class History:
    """What a channel that is kept as its changes had before a checkpoint whose ancestors are gone.

    Attributes:
        seed: the value that the writes come on top of; ``None`` where there was none.
        writes: the oldest first.
    """

    seed: Ref | None
    writes: Sequence[Handed]


@frozen
class Refs:
    """Where the values of a checkpoint's channels are.

    Attributes:
        channels: those that have a value.
        history: see ``History``; empty unless ancestors were deleted.
    """

    channels: Mapping[str, Ref]
    history: Mapping[str, History]

    def all(self) -> Iterator[tuple[str, Ref]]:
        """Every reference, with its channel."""
        yield from self.channels.items()
        for channel, history in self.history.items():
            if history.seed is not None:
                yield channel, history.seed
            for handed in history.writes:
                yield channel, handed.ref


NO_REFS = Refs({}, {})


def write_refs(refs: Refs) -> bytes:
    """Write them for a column."""
    channels = {channel: _to_json(ref) for channel, ref in refs.channels.items()}
    if not refs.history:
        return pack_json([channels])
    history = {
        channel: [
            None if past.seed is None else _to_json(past.seed),
            [[handed.task_id, _to_json(handed.ref)] for handed in past.writes],
        ]
        for channel, past in refs.history.items()
    }
    return pack_json([channels, history])


def read_refs(packed: bytes) -> Refs:
    """Read what ``write_refs`` wrote."""
    channels, *rest = unpack_json(packed)
    history = {
        channel: History(
            None if seed is None else _from_json(seed), [Handed(task_id, _from_json(ref)) for task_id, ref in writes]
        )
        for channel, (seed, writes) in (rest[0] if rest else {}).items()
    }
    return Refs({channel: _from_json(ref) for channel, ref in channels.items()}, history)


def _to_json(ref: Ref) -> list[Any]:
    if isinstance(ref, InlineRef):
        kind, content = ref.blob
        return ["inline", kind, b64encode(content).decode()]
    if isinstance(ref, WholeRef):
        return ["whole", *ref.place]
    numbers, last = [], 0
    for span in ref.spans:  # as differences: of a list with many spans they are small, and compress well
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
    spans, last = [], 0
    for start in range(0, len(numbers), 4):
        first_no, first_item, rows, last_item = numbers[start : start + 4]
        first = (last + first_no, first_item)
        last = first[0] + rows
        spans.append(Span(first, (last, last_item)))
    return ListRef(length, spans)


@frozen
class Layout:
    """How a list is made of items that are known, and of others that have to be added behind them.

    Attributes:
        runs: pairs of positions among the known and the added items, both included.
        added: positions, within the list, of what has to be added.
    """

    runs: Sequence[tuple[int, int]]
    added: Sequence[int]

    def spans(self, places: Sequence[Place]) -> list[Span]:
        """The runs, where the places of all items are known."""
        return [Span(places[first], places[last]) for first, last in self.runs]


def lay_out(prints: Sequence[str], known: Sequence[StoredItem]) -> Layout:
    """Find the items of a list among those that are stored, which are all of its channel from some place on.

    Goes on behind the item before where that fits, so that a list that grew is one run, whatever was cut from it.
    """
    position_of = {item.print: position for position, item in enumerate(known)}
    positions: list[int] = []
    added: list[int] = []
    for place, wanted in enumerate(prints):
        following = positions[-1] + 1 if positions else 0
        if following < len(known) and known[following].print == wanted:
            positions.append(following)
        elif wanted in position_of:
            positions.append(position_of[wanted])
        else:
            positions.append(len(known) + len(added))
            added.append(place)
    return Layout(_runs(positions), added)


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    if not positions:
        return []
    breaks = [place for place, (before, after) in enumerate(pairwise(positions), 1) if after != before + 1]
    starts, ends = [0, *breaks], [*breaks, len(positions)]
    return [(positions[start], positions[end - 1]) for start, end in zip(starts, ends, strict=True)]
