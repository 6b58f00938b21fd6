"""A memory of the namespaces that this process saved to or read last, so that the next save need not read them."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agent_persistence.repositories.checkpoints.records import CheckpointRecord
from agent_persistence.repositories.checkpoints.refs import NO_REFS, Refs
from agent_persistence.repositories.checkpoints.statements import NO_ROW
from agent_persistence.repositories.checkpoints.value_rows import NewValueRow, StoredItem, position_of

_MOST_THREADS: Final = 2000
_MOST_ITEMS: Final = 200_000  # of all threads, each 250 bytes
_MOST_NAMESPACES: Final = 20  # of a thread; each call of a subgraph has one


@dataclass(frozen=True, slots=True)
class KnownNamespace:
    """A namespace as it is after this process saved to it, or read its latest checkpoint.

    Attributes:
        head: the id of that checkpoint; ``None`` if there is none.
        created_at: when it was saved.
        refs: its references.
        items: by channel, stored items in their order.
        whole: the channels of which ``items`` has all from the first one of the head's list on; ``None`` for all
            channels.
        last_no: the greatest number of a row.
        input: the number and content of the row with the run's input.
        seam: the number of the last row that was read, not saved. Between it and later rows there may be rows that are
            not known: another process can save between a read and the first save after it.
    """

    head: str | None
    created_at: datetime | None
    refs: Refs
    items: Mapping[str, Sequence[StoredItem]]
    whole: frozenset[str] | None
    last_no: int
    input: tuple[int, bytes] | None
    seam: int = NO_ROW

    def knows(self, channel: str) -> bool:
        """Whether a list of the channel can be compared with ``items``."""
        return self.whole is None or channel in self.whole

    def may_have_rows(self, channel: str, first: int, last: int) -> bool:
        """Whether a channel has rows with these numbers, or that is not known."""
        items = self.items.get(channel, ())
        following = bisect_left(items, (first, 0), key=position_of)
        return not self.knows(channel) or (following < len(items) and items[following].position[0] <= last)

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
class ReadNamespace:
    """A namespace that was read.

    Attributes:
        record: the checkpoint that was asked for; ``None`` if there is only the thread.
        touched_at: the thread's ``updated_at``.
        known: the namespace as it is, if that checkpoint is the latest.
    """

    record: CheckpointRecord | None
    touched_at: datetime
    known: KnownNamespace


@dataclass(frozen=True, slots=True)
class KnownThread:
    """A thread whose graph this process saved to or read last.

    Attributes:
        touched_at: its ``updated_at``, which every process sets that saves without knowing the thread.
        namespaces: by name, the last ones that were saved to or read.
        is_shared: whether it was only read: the process that set ``touched_at`` may save without setting it again, so
            the first save of this one has to set it.
    """

    touched_at: datetime
    namespaces: Mapping[str, KnownNamespace]
    is_shared: bool = False

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
        kept = thread.namespaces if thread is not None and thread.touched_at == before else {}
        self._replace(thread_id, KnownThread(after, _with(kept, namespace, place)))

    def learn(self, thread_id: Hashable, namespace: str, found: ReadNamespace) -> None:
        """Remember a namespace whose latest checkpoint was read, unless this process has saved to it since."""
        thread, place, touched_at = self._threads.get(thread_id), found.known, found.touched_at
        if thread is None or thread.touched_at < touched_at:
            self._replace(thread_id, KnownThread(touched_at, {namespace: place}, is_shared=True))
        elif thread.touched_at == touched_at and (thread.is_shared or namespace not in thread.namespaces):
            self._replace(thread_id, replace(thread, namespaces=_with(thread.namespaces, namespace, place)))

    def _replace(self, thread_id: Hashable, thread: KnownThread) -> None:
        self.forget(thread_id)
        self._threads[thread_id] = thread
        self._items += thread.size
        while self._items > _MOST_ITEMS or len(self._threads) > _MOST_THREADS:
            _, oldest = self._threads.popitem(last=False)
            self._items -= oldest.size


def _with(
    namespaces: Mapping[str, KnownNamespace], name: str, place: KnownNamespace | None
) -> Mapping[str, KnownNamespace]:
    """Return the last namespaces of a thread and, unless it is ``None``, another one."""
    others = {other: one for other, one in namespaces.items() if other != name}
    return others if place is None else {**dict(list(others.items())[1 - _MOST_NAMESPACES :]), name: place}
