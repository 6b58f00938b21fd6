"""Stored checkpoints as LangGraph's tuples. Large ones are read in a worker thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory
from langgraph.checkpoint.serde.base import SerializerProtocol

from agent_persistence.concurrency.offload import offload
from agent_persistence.integrations.langgraph.surrogates import load_blob
from agent_persistence.integrations.langgraph.values import load
from agent_persistence.repositories.checkpoints.compression import size_of
from agent_persistence.repositories.checkpoints.records import ChannelHistory, ChannelValue, CheckpointRecord


async def tuples_of(
    serde: SerializerProtocol, records: Sequence[CheckpointRecord], echoed: Mapping[str, Any] | None
) -> Sequence[CheckpointTuple]:
    """Deserialise checkpoints.

    Args:
        echoed: the keys that the returned configs repeat from the caller's; ``None`` if the caller named no thread.
    """
    values = [value for one in records for value in (*one.channels.values(), *(write.value for write in one.writes))]
    return await offload(_size_of(values), lambda: [_tuple_of(serde, one, echoed) for one in records])


async def histories_of(
    serde: SerializerProtocol, past: Mapping[str, ChannelHistory]
) -> Mapping[str, DeltaChannelHistory]:
    """Deserialise the writes to channels, by channel."""
    values = [value for one in past.values() for value in (one.seed or [], *(written for _, written in one.writes))]
    return await offload(
        _size_of(values), lambda: {channel: _history_of(serde, channel, one) for channel, one in past.items()}
    )


def _tuple_of(serde: SerializerProtocol, record: CheckpointRecord, echoed: Mapping[str, Any] | None) -> CheckpointTuple:
    exact = record.exact_metadata
    metadata: Any = record.metadata if exact is None else load_blob(serde, exact)
    checkpoint: Any = load_blob(serde, record.body)
    checkpoint["id"] = record.checkpoint_id
    checkpoint["channel_values"] = {name: load(serde, value) for name, value in record.channels.items()}
    # LangGraph's thread ids are text, whatever their type in the database; ``thread_id_of`` parses them.
    named = {"thread_id": str(record.thread_id)} if echoed is None else echoed

    def config(checkpoint_id: str) -> RunnableConfig:
        return {"configurable": {**named, "checkpoint_ns": record.checkpoint_ns, "checkpoint_id": checkpoint_id}}

    return CheckpointTuple(
        config=config(record.checkpoint_id),
        checkpoint=checkpoint,
        metadata=metadata,
        parent_config=None if record.parent_id is None else config(record.parent_id),
        pending_writes=[(one.task_id, one.channel, load(serde, one.value)) for one in record.writes],
    )


def _history_of(serde: SerializerProtocol, channel: str, past: ChannelHistory) -> DeltaChannelHistory:
    found: DeltaChannelHistory = {"writes": [(task_id, channel, load(serde, value)) for task_id, value in past.writes]}
    if past.seed is not None:  # an absent key means that no ancestor had a value: None would be one
        found["seed"] = load(serde, past.seed)
    return found


def _size_of(values: Iterable[ChannelValue]) -> int:
    return sum(size_of(value if isinstance(value, list) else [value]) for value in values)
