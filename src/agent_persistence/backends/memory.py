"""A checkpointer that keeps states in this process's memory, for tests and first steps.

    store = MemoryStore()
    checkpointer = MemoryCheckpointer(user_id="u-42", store=store)

It keeps the same contract as the others: states are copied, versions grow, states expire. When the process ends, the
states are lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import ClassVar, Self

from agent_persistence.backends.base import BaseCheckpointer, StateToSave, ThreadRow, checkpoint, is_alive
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Capability, Checkpoint
from agent_persistence.concurrency.process_lock import ProcessLock
from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.encoding.timestamps import MICROSECONDS
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings

_Key = tuple[str, str, str]
"""Namespace, owner and thread."""


@dataclass(frozen=True, slots=True)
class _State:
    version: int
    json: bytes  # encoded, so that no caller can change it
    created: int
    expires: int | None

    def checkpoint(self, thread_id: str) -> Checkpoint:
        return checkpoint(thread_id, self.version, decode_json(self.json), self.created, self.expires)


@dataclass(slots=True)
class _Thread:
    created: int
    updated: int
    states: dict[int, _State] = field(default_factory=dict)  # ordered by version

    @property
    def latest(self) -> _State:
        return self.states[next(reversed(self.states))]


class MemoryStore:
    """The states that several memory checkpointers share, of any owners and namespaces.

    Every thread may use it.

    Args:
        clock: returns seconds since 1970; a test passes its own to let states expire.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.lock = ProcessLock()
        self._clock = clock
        self._threads: dict[_Key, _Thread] = {}  # ordered by the last save
        self._due: list[tuple[int, _Key]] = []
        self._last = 0

    def __len__(self) -> int:
        """Return the number of threads."""
        return len(self._threads)

    def now(self) -> int:
        """Return the time in microseconds since 1970, and drop the threads that have expired by then."""
        now = int(self._clock() * MICROSECONDS)
        # Only as much work as threads have expired. A later save leaves its thread's older entries in the heap, so an
        # entry that is due does not prove that the thread has expired.
        while self._due and self._due[0][0] <= now:
            key = heappop(self._due)[1]
            thread = self._threads.get(key)
            if thread is not None and not is_alive(thread.latest.expires, now):
                del self._threads[key]
        return now

    def get(self, key: _Key) -> _Thread | None:
        """Return a thread that has not expired by the last ``now``, or ``None``."""
        return self._threads.get(key)

    def put(self, key: _Key, new: StateToSave, *, now: int, keep: int) -> _State:
        """Add a state to a thread, which is created if it does not exist.

        Args:
            keep: the number of versions to keep; 0 for all.
        """
        self._last = max(now, self._last + 1)  # distinct even if the clock stands still: lists are ordered by it
        thread = self._threads.pop(key, None) or _Thread(self._last, self._last)
        # The first version is the time, so that a thread created again after a deletion repeats no version.
        version = thread.latest.version + 1 if thread.states else self._last
        state = _State(version, new.json, now, new.expiry(now))
        thread.updated, thread.states[version] = self._last, state
        while keep and len(thread.states) > keep:
            del thread.states[next(iter(thread.states))]
        self._threads[key] = thread  # popped above, and now the last one of the dict
        if state.expires is not None:
            heappush(self._due, (state.expires, key))
        return state

    def delete(self, key: _Key) -> bool:
        """Delete a thread; return whether it existed."""
        return self._threads.pop(key, None) is not None

    def newest_first(self, namespace: str, owner: str) -> Iterator[tuple[str, _Thread]]:
        """Iterate over the threads of an owner, the last saved first."""
        for key in reversed(self._threads):
            if key[:2] == (namespace, owner):
                yield key[2], self._threads[key]


class MemoryCheckpointer(BaseCheckpointer):
    """A checkpointer that keeps the states of one owner in memory.

    Args:
        user_id: the owner.
        namespace: keeps applications apart that share a store.
        store: the store to share; by default the checkpointer has a separate one.
        limits: how much to keep, and for how long.
    """

    capabilities: ClassVar = frozenset(Capability) - {Capability.SURVIVES_RESTART}
    _store_name: ClassVar = "memory"

    def __init__(
        self,
        *,
        user_id: str,
        namespace: str = "agent_persistence",
        store: MemoryStore | None = None,
        limits: CheckpointLimits | None = None,
    ) -> None:
        super().__init__(user_id, namespace, limits)
        self._store = MemoryStore() if store is None else store

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str, store: MemoryStore | None = None) -> Self:
        """Create a checkpointer with the namespace and the limits of the settings."""
        limits = CheckpointLimits.from_settings(settings)
        return cls(user_id=user_id, namespace=settings.namespace, store=store, limits=limits)

    async def aclose(self) -> None:
        """Do nothing: the store stays usable."""

    async def _save(self, new: StateToSave) -> Checkpoint:
        key = self._key(new.thread_id)
        with self._store.lock:
            now = self._store.now()
            thread = self._store.get(key)
            new.check_version(thread.latest.version if thread else 0)
            saved = self._store.put(key, new, now=now, keep=self._limits.max_history)
        return checkpoint(new.thread_id, saved.version, new.state, saved.created, saved.expires)

    async def _load(self, thread_id: str, version: int | None) -> Checkpoint | None:
        with self._store.lock:
            now = self._store.now()
            thread = self._store.get(self._key(thread_id))
            if thread is None:
                return None
            found = thread.latest if version is None else thread.states.get(version)
        return None if found is None or not is_alive(found.expires, now) else found.checkpoint(thread_id)

    async def _delete(self, thread_id: str) -> bool:
        with self._store.lock:
            self._store.now()  # an expired thread does not exist, so it must not count as deleted
            return self._store.delete(self._key(thread_id))

    async def _list(self, count: int, start: int | None) -> list[ThreadRow]:
        with self._store.lock:
            self._store.now()
            found = (
                ThreadRow(thread.updated, thread_id, thread.created)
                for thread_id, thread in self._store.newest_first(self._namespace, self._owner)
                if start is None or thread.updated < start
            )
            return list(islice(found, count))

    async def _history(self, thread_id: str, limit: int, before: int | None) -> Page[Checkpoint]:
        with self._store.lock:
            now = self._store.now()
            thread = self._store.get(self._key(thread_id))
            states = reversed(thread.states.values()) if thread else iter(())
            older = (state for state in states if before is None or state.version < before)
            found = list(islice((state for state in older if is_alive(state.expires, now)), limit + 1))
        items = tuple(state.checkpoint(thread_id) for state in found[:limit])
        return Page(items, None, self._states_cursor([state.version for state in found], limit))

    def _key(self, thread_id: str) -> _Key:
        return self._namespace, self._owner, thread_id
