"""What is stored, as LangGraph wants it; read in a thread beside the event loop where it is much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory
from langgraph.checkpoint.serde.base import SerializerProtocol

from agent_persistence.concurrency.offload import offload
from agent_persistence.integrations.langgraph.surrogates import load_blob
from agent_persistence.integrations.langgraph.values import load
from agent_persistence.repositories.checkpoints.packing import size_of
from agent_persistence.repositories.checkpoints.records import ChannelHistory, ChannelValue, CheckpointRecord


async def tuples_of(
    serde: SerializerProtocol, records: Sequence[CheckpointRecord], said: Mapping[str, Any] | None
) -> Sequence[CheckpointTuple]:
    """Read checkpoints.

    Args:
        said: what the configs that are handed back repeat; ``None`` where no config has named a thread.
    """

    def read() -> Sequence[CheckpointTuple]:
        return [_tuple_of(serde, one, _named(one) if said is None else said) for one in records]

    return await offload(read, size=sum(_size_of(value) for one in records for value in _values_of(one)))


async def histories_of(
    serde: SerializerProtocol, past: Mapping[str, ChannelHistory]
) -> Mapping[str, DeltaChannelHistory]:
    """Read what was written to channels."""

    def read() -> Mapping[str, DeltaChannelHistory]:
        return {channel: _history_of(serde, channel, one) for channel, one in past.items()}

    return await offload(read, size=sum(_size_of(value) for one in past.values() for value in _values_of(one)))


def _tuple_of(serde: SerializerProtocol, record: CheckpointRecord, said: Mapping[str, Any]) -> CheckpointTuple:
    exact = record.exact_metadata
    metadata: Any = record.metadata if exact is None else load_blob(serde, exact)
    checkpoint: Any = load_blob(serde, record.body)
    checkpoint["id"] = record.checkpoint_id
    checkpoint["channel_values"] = {name: load(serde, found) for name, found in record.channels.items()}

    def config(checkpoint_id: str) -> RunnableConfig:
        named = {"checkpoint_ns": record.checkpoint_ns, "checkpoint_id": checkpoint_id}
        return {"configurable": {**said, **named}}

    return CheckpointTuple(
        config=config(record.checkpoint_id),
        checkpoint=checkpoint,
        metadata=metadata,
        parent_config=None if record.parent_id is None else config(record.parent_id),
        pending_writes=[(one.task_id, one.channel, load(serde, one.value)) for one in record.writes],
    )


def _history_of(serde: SerializerProtocol, channel: str, past: ChannelHistory) -> DeltaChannelHistory:
    found: DeltaChannelHistory = {
        "writes": [(task_id, channel, load(serde, written)) for task_id, written in past.writes]
    }
    if past.seed is not None:
        found["seed"] = load(serde, past.seed)
    return found


def _values_of(stored: CheckpointRecord | ChannelHistory) -> Iterator[ChannelValue]:
    if isinstance(stored, CheckpointRecord):
        yield from stored.channels.values()
        yield from (one.value for one in stored.writes)
    else:
        yield from (written for _, written in stored.writes)
        if stored.seed is not None:
            yield stored.seed


def _size_of(value: ChannelValue) -> int:
    return size_of(value if isinstance(value, list) else [value])


def _named(record: CheckpointRecord) -> dict[str, Any]:
    """What the configs of a listed checkpoint say, where no config has named its thread."""
    thread_id = record.thread_id
    return {"thread_id": thread_id if isinstance(thread_id, str) else str(thread_id)}
