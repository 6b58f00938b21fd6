"""Drafts: the state of a run between two checkpoints, which may be lost, and never hides what was saved since.

A draft names the version that it goes on from. It counts only while that is the latest one: a draft of a run that was
overtaken, or of a thread that was cleared or deleted meanwhile, is as good as none.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from agent_persistence.cache.circuit_breaker import CacheUnavailableError
from agent_persistence.cache.named_values import Name, NamedValues
from agent_persistence.frozen import frozen
from agent_persistence.integrations.checkpointing.places import Place
from agent_persistence.records import ANY_USER

NO_VERSION: Final = 0
_NAMESPACE: Final = "drafts"


@frozen
class Draft:
    """A state that goes on from a version."""

    base: int
    data: Any


class Drafts:
    """One draft a thread and user."""

    def __init__(self, values: NamedValues, ttl_seconds: int) -> None:
        self._values = values
        self._ttl_seconds = ttl_seconds

    async def put(self, place: Place, draft: Draft) -> bool:
        """Keep a draft; say whether that could be done."""
        try:
            await self._values.put(_name(place), orjson.dumps([draft.base, draft.data]), ttl_seconds=self._ttl_seconds)
        except CacheUnavailableError:
            return False
        return True

    async def get(self, place: Place) -> Draft | None:
        """Return the draft, if one can be had."""
        try:
            found = await self._values.get(_name(place))
        except CacheUnavailableError:
            return None
        return None if found is None else Draft(*orjson.loads(found))

    async def delete(self, place: Place) -> None:
        """Forget the draft, if there is one."""
        try:
            await self._values.delete(_name(place))
        except CacheUnavailableError:
            return  # once nothing is saved, only a draft that goes on from nothing could be taken for the latest


def _name(place: Place) -> Name:
    owner = [] if place.owner is ANY_USER else [str(place.owner)]
    return _NAMESPACE, orjson.dumps([str(place.thread_id), *owner]).decode()
