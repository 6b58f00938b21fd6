"""The changes that a checkpoint makes, compared with the values that are stored already."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agent_persistence.repositories.checkpoints.compression import Blob, fingerprint
from agent_persistence.repositories.checkpoints.records import NewChannelValue, NewCheckpoint, NewItems
from agent_persistence.repositories.checkpoints.refs import InlineRef, Layout, ListRef, Ref, Refs, WholeRef, lay_out
from agent_persistence.repositories.checkpoints.value_rows import SMALL, NewValue, NewValueRow, Position, StoredItem

Known = Mapping[str, Sequence[StoredItem]]
"""Stored items by channel, in the order of their positions."""


class Changes:
    """The values of a checkpoint that its parent does not have.

    Attributes:
        first_rows: by list, the number of the first row whose items it is compared with.
        large: the channels with a large value that is no list; writes of tasks at the parent may hold them.
        values: the values that are not stored yet, after ``compare``.
    """

    def __init__(self, new: NewCheckpoint, parent: Refs) -> None:
        self._parent = parent.channels
        self._versions = new.versions
        self._unchanged: dict[str, Ref] = {}
        self._lists: dict[str, NewItems] = {}
        self._wholes: dict[str, Blob] = {}
        for name, version in new.versions.items():
            if name in new.changed:
                self._add(name, new.changed[name])
            # By name alone, a copy would get its parent's values: LangGraph saves it beside its original, and names no
            # channel as changed.
            elif name in self._parent and parent.versions.get(name) == version:
                self._unchanged[name] = self._parent[name]
            else:
                # The parent may also lack the value: it was deleted, or not saved (durability "exit").
                self._add(name, new.dump(name))
        for name in new.changed.keys() - new.versions.keys():
            self._add(name, new.changed[name])
        self.large = sorted(name for name, blob in self._wholes.items() if len(blob[1]) > SMALL)
        self.first_rows = {
            name: _first_row(self._parent.get(name)) for name, one in self._lists.items() if one.fingerprints
        }
        # Of a value that is no list, the parent's and later ones: it often returns to one that it had.
        self.first_rows |= {
            name: ref.position[0] for name in self.large if isinstance(ref := self._parent.get(name), WholeRef)
        }
        self._known: Known = {}
        self._layouts: dict[str, Layout] = {}
        self._found: dict[str, Position] = {}
        self.values: list[NewValue] = []

    @property
    def lists(self) -> Iterable[str]:
        """The channels whose items are compared."""
        return (name for name, one in self._lists.items() if one.fingerprints)

    def _add(self, name: str, value: NewChannelValue | None) -> None:
        if isinstance(value, tuple):
            self._wholes[name] = value
        elif value is not None:
            self._lists[name] = value

    def compare(self, known: Known, seam: int = 0) -> None:
        """Find values among stored ones: all items of each list's channel from its first row on.

        Args:
            seam: see ``KnownNamespace``.
        """
        self._known = known
        for name, items in self._lists.items():
            layout = self._layouts[name] = lay_out(items.fingerprints, known.get(name, ()), seam)
            if layout.added:
                added = [items.blob(index) for index in layout.added]
                self.values.append(NewValue(name, None, is_list=True, items=added))
        for name in self.large:
            wanted = fingerprint(self._wholes[name])
            # The latest one, so that older rows can be pruned.
            stored = reversed(known.get(name, ()))
            found = next((item.position for item in stored if item.fingerprint == wanted), None)
            if found is None:
                self.values.append(NewValue(name, None, is_list=False, items=[self._wholes[name]]))
            else:
                self._found[name] = found

    def refs(self, rows: Sequence[NewValueRow], last_no: int) -> Refs:
        """Return references to all values; ``rows``, those of ``values``, are numbered from ``last_no`` + 1 on."""
        positions: dict[str, list[Position]] = {}
        for number, row in enumerate(rows, last_no + 1):
            for value in row.values:
                positions.setdefault(value.channel, []).extend((number, item.position[1]) for item in value.items)
        channels = dict(self._unchanged)
        for name, blob in self._wholes.items():
            channels[name] = InlineRef(blob)
        for name in self.large:
            channels[name] = WholeRef(self._found[name] if name in self._found else positions[name][0])
        for name, layout in self._layouts.items():
            spans = layout.spans(self._known.get(name, ()), positions.get(name, ()))
            channels[name] = ListRef(len(self._lists[name].fingerprints), spans)
        versions = {name: one for name, one in self._versions.items() if name in channels}
        return Refs(channels, {}, versions)

    def new_indexes(self, name: str) -> list[int] | None:
        """Return the indexes of a list's items that the parent's list does not have; ``None`` if it did not change."""
        if name not in self._layouts:
            return None
        before = _fingerprints_of(self._parent.get(name), self._known.get(name, ()))
        found: list[int] = []
        for index, one in enumerate(self._lists[name].fingerprints):
            if before[one]:
                before[one] -= 1
            else:
                found.append(index)
        return found


def _first_row(ref: Ref | None) -> int:
    """Return the first row of a list's items; 0, that is all rows of the channel, if the parent has no list."""
    return min((span.first[0] for span in ref.spans), default=0) if isinstance(ref, ListRef) else 0


def _fingerprints_of(ref: Ref | None, known: Sequence[StoredItem]) -> Counter[str]:
    """Count the fingerprints of the items of the parent's list."""
    positions = [item.position for item in known]
    return Counter(
        item.fingerprint
        for span in (ref.spans if isinstance(ref, ListRef) else ())
        for item in known[bisect_left(positions, span.first) : bisect_right(positions, span.last)]
    )
