"""A memory of the namespaces that this process saved to or read last, so that the next save need not read them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agent_persistence.repositories.checkpoints.compression import Blob, size_of
from agent_persistence.repositories.checkpoints.records import CheckpointRecord
from agent_persistence.repositories.checkpoints.refs import NO_REFS, Refs, Span
from agent_persistence.repositories.checkpoints.statements import NO_ROW
from agent_persistence.repositories.checkpoints.value_rows import NewValueRow, Position, StoredItem, position_of

_MOST_THREADS: Final = 2000
_MOST_BYTES: Final = 64 * 1024 * 1024  # of all threads
_MOST_KEPT_BYTES: Final = 4 * 1024 * 1024  # of the contents of a namespace; reading more takes longer than a round trip
_ITEM_BYTES: Final = 250  # without its content
_KEPT_BYTES: Final = 250  # what it takes in addition to keep a content
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
        contents: by position, the items that the references lead to, and perhaps others; ``None`` if they are not kept.
        content_bytes: their size.
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
    contents: Mapping[Position, Blob] | None = None
    content_bytes: int = 0

    def knows(self, channel: str) -> bool:
        """Whether a list of the channel can be compared with ``items``."""
        return self.whole is None or channel in self.whole

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        kept = 0 if self.contents is None else self.content_bytes + _KEPT_BYTES * len(self.contents)
        return kept + _ITEM_BYTES * sum(map(len, self.items.values()))

    def items_of(self, channel: str, span: Span) -> Sequence[StoredItem]:
        """Return the items of a span."""
        items = self.items.get(channel, ())
        first = bisect_left(items, span.first, key=position_of)
        return items[first : bisect_right(items, span.last, first, key=position_of)]

    def keeping(self, used: Mapping[Position, Blob]) -> KnownNamespace:
        """Return the namespace with the contents that are used, unless they are too large to keep.

        It keeps what it has, if at least half of that is used: most reads find nothing new.
        """
        if self.contents is not None and len(self.contents) <= 2 * len(used):
            return self
        size = size_of(used.values())
        return replace(self, contents=used if size <= _MOST_KEPT_BYTES else None, content_bytes=size)

    def with_rows(self, rows: Sequence[NewValueRow], numbers: Sequence[int]) -> KnownNamespace:
        """Return the namespace with new rows."""
        if not rows:
            return self
        items = dict(self.items)
        added: dict[Position, Blob] = {}
        for number, row in zip(numbers, rows, strict=True):
            # New sequences: a save that is being prepared reads the old ones.
            items[row.channel] = [*items.get(row.channel, ()), *row.items(number)]
            added |= row.blobs(number)
        size = self.content_bytes + size_of(added.values())
        contents = None if self.contents is None or size > _MOST_KEPT_BYTES else {**self.contents, **added}
        return replace(self, items=items, last_no=numbers[-1], contents=contents, content_bytes=size)

    def with_next(self, rows: Sequence[NewValueRow]) -> KnownNamespace:
        """Return the namespace with rows that are yet to be saved, numbered from its last one on."""
        return self.with_rows(rows, range(self.last_no + 1, self.last_no + 1 + len(rows)))


NOTHING: Final = KnownNamespace(None, None, NO_REFS, {}, None, NO_ROW, None, contents={})
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
class Likely:
    """What is known of a namespace before it is read.

    Attributes:
        touched_at: the thread's ``updated_at``. If it, the latest checkpoint and the last row are the same, all is.
    """

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
        """About how many bytes it takes."""
        return sum(place.size for place in self.namespaces.values())


class KnownGraphs:
    """The known threads; the least recently saved ones are forgotten beyond 2,000 threads or 64 MB."""

    def __init__(self) -> None:
        self._threads: OrderedDict[Hashable, KnownThread] = OrderedDict()
        self._bytes = 0

    def get(self, thread_id: Hashable) -> KnownThread | None:
        """Return what is known of a thread."""
        return self._threads.get(thread_id)

    def forget(self, thread_id: Hashable) -> None:
        """Forget a thread: it was saved to in a way that cannot be followed."""
        found = self._threads.pop(thread_id, None)
        if found is not None:
            self._bytes -= found.size

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
        """Remember a namespace whose latest checkpoint was read; if this process saved it, only what it contains."""
        thread, place, touched_at = self._threads.get(thread_id), found.known, found.touched_at
        if thread is None or thread.touched_at < touched_at:
            self._replace(thread_id, KnownThread(touched_at, {namespace: place}, is_shared=True))
        elif thread.touched_at == touched_at:
            mine = None if thread.is_shared else thread.namespaces.get(namespace)
            if mine is not None:
                if mine is place or (mine.head, mine.last_no) != (place.head, place.last_no):
                    return  # nothing new, or saved since
                place = replace(mine, contents=place.contents, content_bytes=place.content_bytes)
            self._replace(thread_id, replace(thread, namespaces=_with(thread.namespaces, namespace, place)))

    def _replace(self, thread_id: Hashable, thread: KnownThread) -> None:
        self.forget(thread_id)
        self._threads[thread_id] = thread
        self._bytes += thread.size
        while self._bytes > _MOST_BYTES or len(self._threads) > _MOST_THREADS:
            _, oldest = self._threads.popitem(last=False)
            self._bytes -= oldest.size


def _with(
    namespaces: Mapping[str, KnownNamespace], name: str, place: KnownNamespace | None
) -> Mapping[str, KnownNamespace]:
    """Return the last namespaces of a thread and, unless it is ``None``, another one."""
    others = {other: one for other, one in namespaces.items() if other != name}
    return others if place is None else {**dict(list(others.items())[1 - _MOST_NAMESPACES :]), name: place}
