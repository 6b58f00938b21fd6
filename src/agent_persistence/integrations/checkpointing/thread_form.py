"""What the frameworks know of a thread as its ``meta``, and back, equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_persistence.integrations.checkpointing.json_escapes import from_storable, to_storable
from agent_persistence.integrations.checkpointing.message_form import META_KEY


def to_meta(metadata: dict[str, Any], run_id: str | None) -> dict[str, Any]:
    """Return the metadata as they are, and below one key what else the framework knows."""
    own: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
    if META_KEY in metadata or to_storable(metadata) is not metadata:
        return {META_KEY: {**own, "metadata": to_storable(metadata)}}
    return {**metadata, META_KEY: own} if own else metadata


def from_meta(meta: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the metadata and the id of the run."""
    metadata = dict(meta)
    own = metadata.pop(META_KEY, None)
    if not isinstance(own, dict):
        return metadata, None
    return from_storable(own.get("metadata", metadata)), own.get("run_id")
