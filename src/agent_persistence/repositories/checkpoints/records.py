"""The arguments and results of the repository of checkpoints. Values are blobs: only their serialiser reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.compression import Blob, fingerprint, size_of

# Not decoded here: the layers below the integration do not import LangGraph.
ChannelValue = Blob | list[Blob]
"""A serialised value, or the items of a list, each serialised separately."""


class NewItems(Protocol):
    """The items of a list to store. Most of them are stored already, and need not be serialised."""

    @property
    def fingerprints(self) -> Sequence[str]:
        """The fingerprints of all items, in their order."""
        ...

    @property
    def size(self) -> int:
        """About how many bytes are new."""
        ...

    async def settle(self) -> None:
        """Serialise many items, beside the event loop."""
        ...

    def blob(self, index: int) -> Blob:
        """Return the item at an index, serialised."""
        ...


class SerialisedItems:
    """Items that are serialised anyway."""

    def __init__(self, blobs: Sequence[Blob]) -> None:
        self._blobs = blobs
        self.fingerprints = [fingerprint(blob) for blob in blobs]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return size_of(self._blobs)

    async def settle(self) -> None:
        """Do nothing."""

    def blob(self, index: int) -> Blob:
        """Return the item at an index."""
        return self._blobs[index]


NewChannelValue = Blob | NewItems
"""A value to store: serialised, or a list."""


def new_value(value: ChannelValue) -> NewChannelValue:
    """Return a value that is serialised already as one to store."""
    return SerialisedItems(value) if isinstance(value, list) else value


@frozen
class NewCheckpoint:
    """A checkpoint to save.

    Attributes:
        parent_id: the id of the checkpoint that it follows, which may have been deleted.
        metadata: metadata as JSON, which queries can filter by.
        exact_metadata: the metadata as they were given, if JSON cannot hold them exactly.
        body: the checkpoint without its id and the values of its channels.
        changed: the new values by channel; ``None`` for a channel that no longer has one.
        versions: the versions of all channels. One that is not in ``changed`` has the value of the parent if it has the
            version of the parent.
        dump: serialises the value of a channel that is not in ``changed``, for the case that the parent does not have
            it.
        may_start_thread: tells whether the thread is created; asked when it turns out not to exist.
    """

    thread_id: Any
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    run_id: str | None
    metadata: Mapping[str, Any] = field(repr=False)
    exact_metadata: Blob | None = field(repr=False)
    body: Blob = field(repr=False)
    changed: Mapping[str, NewChannelValue | None] = field(repr=False)
    versions: Mapping[str, Any] = field(repr=False)
    dump: Callable[[str], NewChannelValue | None] = field(repr=False)
    may_start_thread: Callable[[], bool] = field(default=lambda: True, repr=False)

    @property
    def size(self) -> int:
        """About how many bytes are to be sent."""
        return len(self.body[1]) + sum(map(_size_of, self.changed.values()))

    async def settle(self) -> None:
        """Serialise what was left for the moment at which it is saved."""
        await _settle(self.changed.values())


@frozen
class NewWrites:
    """The writes of a task, which the next checkpoint will include.

    Attributes:
        checkpoint_id: the id of the checkpoint that the task started from, which may not be saved yet.
        task_path: LangGraph's path of the task, by which the writes of several tasks are ordered.
        writes: for each write LangGraph's index, the channel and the value.
        may_start_thread: tells whether the thread is created; asked when it turns out not to exist.
    """

    thread_id: Any
    checkpoint_ns: str
    checkpoint_id: str
    task_id: str
    task_path: str
    writes: Sequence[tuple[int, str, ChannelValue | NewItems]] = field(repr=False)
    may_start_thread: Callable[[], bool] = field(default=lambda: False, repr=False)

    @property
    def size(self) -> int:
        """About how many bytes are to be sent."""
        return sum(_size_of(value) for *_, value in self.writes)

    async def settle(self) -> None:
        """Serialise what was left for the moment at which it is saved."""
        await _settle(value for *_, value in self.writes)


def all_items(value: list[Blob] | NewItems) -> list[Blob]:
    """Return the items of a list, serialised."""
    return value if isinstance(value, list) else [value.blob(index) for index in range(len(value.fingerprints))]


def _size_of(value: ChannelValue | NewItems | None) -> int:
    if value is None:
        return 0
    if isinstance(value, list):
        return size_of(value)
    return len(value[1]) if isinstance(value, tuple) else value.size


async def _settle(values: Iterable[ChannelValue | NewItems | None]) -> None:
    for value in values:
        if value is not None and not isinstance(value, list | tuple):
            await value.settle()


@frozen
class PendingWrite:
    """A stored write of a task."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    value: ChannelValue = field(repr=False)


@frozen
class CheckpointRecord:
    """A stored checkpoint; see ``NewCheckpoint`` for its attributes."""

    thread_id: Any
    user_id: Any
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    metadata: Mapping[str, Any] = field(repr=False)
    exact_metadata: Blob | None = field(repr=False)
    body: Blob = field(repr=False)
    channels: Mapping[str, ChannelValue] = field(repr=False)
    writes: Sequence[PendingWrite] = field(repr=False)


@frozen
class ChannelHistory:
    """The history of a ``DeltaChannel`` before a checkpoint.

    Attributes:
        seed: the value to which the writes are applied; ``None`` if no ancestor had one.
        writes: pairs of task id and value, the oldest first.
    """

    seed: ChannelValue | None
    writes: Sequence[tuple[str, ChannelValue]]


@frozen
class CheckpointQuery:
    """A selection of checkpoints.

    Attributes:
        thread_id: the thread; ``None`` for all threads of the owner.
        checkpoint_ns: the namespace; ``None`` for all namespaces.
        checkpoint_id: the only checkpoint; ``None`` for all checkpoints.
        before: an id that all selected ids are less than.
        metadata: keys and values that the metadata must contain (PostgreSQL's ``@>``).
    """

    thread_id: Any = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    before: str | None = None
    metadata: Mapping[str, Any] | None = None
