"""Checkpoints that the tests put by hand."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint
from langgraph.checkpoint.base.id import uuid6

_steps = count()


def config_of(thread_id: Any, *, checkpoint_id: str | None = None, **more: Any) -> Any:
    named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **named, **more}}


def checkpoint_with(values: Mapping[str, Any], versions: Mapping[str, int] | None = None) -> Checkpoint:
    return Checkpoint(
        v=4,
        id=str(uuid6(clock_seq=next(_steps))),
        ts="2026-11-21T00:00:00+00:00",
        channel_values=dict(values),
        channel_versions=dict(versions if versions is not None else dict.fromkeys(values, 1)),
        versions_seen={},
        updated_channels=None,
    )


async def put(
    saver: BaseCheckpointSaver[Any],
    config: Any,
    values: Mapping[str, Any],
    *,
    metadata: Any = None,
    new: Mapping[str, int] | None = None,
    versions: Mapping[str, int] | None = None,
) -> Any:
    """Put a checkpoint with these values, as a child of the one that the config names; return its config."""
    checkpoint = checkpoint_with(values, versions)
    return await saver.aput(
        config, checkpoint, metadata or {}, dict(checkpoint["channel_versions"] if new is None else new)
    )


async def values_of(saver: BaseCheckpointSaver[Any], config: Any) -> Any:
    found = await saver.aget_tuple(config)
    return None if found is None else found.checkpoint["channel_values"]
