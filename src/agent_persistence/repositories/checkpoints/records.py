"""What the repository of checkpoints gives and takes. Values are blobs: only their serialiser can read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.compression import Blob

ChannelValue = Blob | list[Blob]
"""A value, or the items of a list, each serialised by itself."""


@frozen
class NewCheckpoint:
    """A checkpoint to be saved.

    Attributes:
        parent_id: the checkpoint that it follows, which need not exist any more.
        metadata: what can be filtered by.
        exact_metadata: the metadata as it was given, where JSON does not give it back.
        body: everything but the values of channels.
        changed: channels that have a new value; ``None`` where one has none any more.
        unchanged: channels whose value is that of the parent.
        dump: serialises the value of an unchanged channel, in case the parent does not have it.
        may_start_thread: whether the thread is made where there is none.
    """

    thread_id: Any
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    run_id: str | None
    metadata: Mapping[str, Any] = field(repr=False)
    exact_metadata: Blob | None = field(repr=False)
    body: Blob = field(repr=False)
    changed: Mapping[str, ChannelValue | None] = field(repr=False)
    unchanged: Sequence[str]
    dump: Callable[[str], ChannelValue | None] = field(repr=False)
    may_start_thread: bool = True


@frozen
class NewWrites:
    """What a task has written, before the checkpoint that takes it up.

    Attributes:
        checkpoint_id: the checkpoint that the task started from, which may not be saved yet.
        writes: the place among the task's writes, the channel, and the value.
    """

    thread_id: Any
    checkpoint_ns: str
    checkpoint_id: str
    task_id: str
    task_path: str
    writes: Sequence[tuple[int, str, ChannelValue]] = field(repr=False)
    may_start_thread: bool = False


@frozen
class PendingWrite:
    """One thing that a task has written."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    value: ChannelValue = field(repr=False)


@frozen
class CheckpointRecord:
    """A checkpoint as it is stored."""

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
    """What was written to a channel on the way to a checkpoint, the oldest first, and on top of what."""

    seed: ChannelValue | None
    writes: Sequence[tuple[str, ChannelValue]]


@frozen
class CheckpointQuery:
    """Which checkpoints to read, the latest first.

    Attributes:
        thread_id: ``None`` for all threads of the owner.
        checkpoint_ns: ``None`` for all namespaces.
        before: only those with a lesser id.
        metadata: what the metadata must contain (PostgreSQL's ``@>``).
    """

    thread_id: Any = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    before: str | None = None
    metadata: Mapping[str, Any] | None = None
