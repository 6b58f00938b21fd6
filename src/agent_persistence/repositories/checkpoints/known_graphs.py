"""A memory of the namespaces that this process saved to last, so that the next save need not read them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agent_persistence.repositories.checkpoints.refs import NO_REFS, Refs
from agent_persistence.repositories.checkpoints.statements import NO_ROW
from agent_persistence.repositories.checkpoints.value_rows import NewValueRow, StoredItem

_MOST_THREADS: Final = 2000
_MOST_ITEMS: Final = 200_000  # of all threads, each 250 bytes
_MOST_NAMESPACES: Final = 20  # of a thread; each call of a subgraph has one


@dataclass(frozen=True, slots=True)
class KnownNamespace:
    """A namespace as it is after this process saved to it.

    Attributes:
        head: the id of the checkpoint that was saved last; ``None`` if there is none.
        created_at: when it was saved.
        refs: its references.
        items: by channel, stored items in their order.
        whole: the channels of which ``items`` has all from the first one of the head's list on; ``None`` for all
            channels.
        last_no: the greatest number of a row.
        input: the number and content of the row with the run's input.
    """

    head: str | None
    created_at: datetime | None
    refs: Refs
    items: Mapping[str, Sequence[StoredItem]]
    whole: frozenset[str] | None
    last_no: int
    input: tuple[int, bytes] | None

    def knows(self, channel: str) -> bool:
        """Whether a list of the channel can be compared with ``items``."""
        return self.whole is None or channel in self.whole

    @property
    def size(self) -> int:
        """The number of items."""
        return sum(map(len, self.items.values()))

    def with_rows(self, rows: Sequence[NewValueRow], numbers: Sequence[int]) -> KnownNamespace:
        """Return the namespace with new rows."""
        items = dict(self.items)
        for number, row in zip(numbers, rows, strict=True):
            # New sequences: a save that is being prepared reads the old ones.
            items[row.channel] = [*items.get(row.channel, ()), *row.items(number)]
        return replace(self, items=items, last_no=numbers[-1] if numbers else self.last_no)

    def with_next(self, rows: Sequence[NewValueRow]) -> KnownNamespace:
        """Return the namespace with rows that are yet to be saved, numbered from its last one on."""
        return self.with_rows(rows, range(self.last_no + 1, self.last_no + 1 + len(rows)))


NOTHING: Final = KnownNamespace(None, None, NO_REFS, {}, None, NO_ROW, None)
"""A namespace that has no rows."""


@dataclass(frozen=True, slots=True)
class KnownThread:
    """A thread whose graph this process saved to last.

    Attributes:
        touched_at: its ``updated_at``, which every process sets that saves without knowing the thread.
        namespaces: by name, the last ones that were saved to.
    """

    touched_at: datetime
    namespaces: Mapping[str, KnownNamespace]

    @property
    def size(self) -> int:
        """The number of items."""
        return sum(place.size for place in self.namespaces.values())


class KnownGraphs:
    """The known threads; the least recently saved ones are forgotten beyond 2,000 threads or 200,000 items."""

    def __init__(self) -> None:
        self._threads: OrderedDict[Hashable, KnownThread] = OrderedDict()
        self._items = 0

    def get(self, thread_id: Hashable) -> KnownThread | None:
        """Return what is known of a thread."""
        return self._threads.get(thread_id)

    def forget(self, thread_id: Hashable) -> None:
        """Forget a thread: it was saved to in a way that cannot be followed."""
        found = self._threads.pop(thread_id, None)
        if found is not None:
            self._items -= found.size

    def put(
        self, thread_id: Hashable, namespace: str, place: KnownNamespace | None, *, before: datetime, after: datetime
    ) -> None:
        """Remember a namespace after a save; ``None`` if nothing is known of it any more.

        Args:
            before: the thread's ``updated_at`` when the save began. What is known of its other namespaces is kept if
                no other process had saved until then.
            after: the ``updated_at`` that the save left.
        """
        thread = self._threads.get(thread_id)
        kept: dict[str, KnownNamespace] = {}
        if thread is not None and thread.touched_at == before:
            kept = {name: one for name, one in thread.namespaces.items() if name != namespace}
        self.forget(thread_id)
        if place is not None:
            kept = {**dict(list(kept.items())[1 - _MOST_NAMESPACES :]), namespace: place}
        found = self._threads[thread_id] = KnownThread(after, kept)
        self._items += found.size
        while self._items > _MOST_ITEMS or len(self._threads) > _MOST_THREADS:
            _, oldest = self._threads.popitem(last=False)
            self._items -= oldest.size
