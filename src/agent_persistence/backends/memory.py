"""States in this process's memory, for tests and first steps.

    store = MemoryStore()
    checkpointer = MemoryCheckpointer(user_id="u-42", store=store)

It behaves as the others do: what it takes and gives are copies, versions count, states expire. All is gone with the
process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from threading import Lock
from typing import Any, ClassVar, Final, Self

from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.encoding.cursors import decode_cursor, encode_cursor
from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.encoding.timestamps import MICROSECONDS, moment, moment_or_none
from agent_persistence.errors import StateConflictError
from agent_persistence.ids import STRING
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_limit, check_namespace, check_version

_THREADS: Final = "memory threads"
_STATES: Final = "memory states"

_Place = tuple[str, str, str]
"""Namespace, owner and thread."""


@dataclass(frozen=True, slots=True)
class _State:
    version: int
    json: bytes  # a copy that nobody can change
    created: int
    expires: int | None

    def lives(self, now: int) -> bool:
        return self.expires is None or now < self.expires


@dataclass(slots=True)
class _Thread:
    created: int
    updated: int
    states: dict[int, _State] = field(default_factory=dict)  # in the order of their versions

    @property
    def latest(self) -> _State:
        return self.states[next(reversed(self.states))]


class MemoryStore:
    """What memory checkpointers share: those of several owners or namespaces, of one application.

    Args:
        clock: seconds since 1970; a test may pass one of its own, to let states expire.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.lock = Lock()
        self._clock = clock
        self._threads: dict[_Place, _Thread] = {}  # in the order of their latest saves
        self._due: list[tuple[int, _Place]] = []
        self._last = 0

    def __len__(self) -> int:
        """How many threads it holds."""
        return len(self._threads)

    def now(self) -> int:
        """Return the time in microseconds, and drop the threads that have expired by then."""
        now = int(self._clock() * MICROSECONDS)
        while self._due and self._due[0][0] <= now:
            place = heappop(self._due)[1]
            thread = self._threads.get(place)
            if thread is not None and not thread.latest.lives(now):
                del self._threads[place]
        return now

    def get(self, place: _Place) -> _Thread | None:
        """Return a thread that has not expired by ``now``."""
        return self._threads.get(place)

    def put(self, place: _Place, json: bytes, *, now: int, lifetime: float | None, keep: int) -> _State:
        """Add a state to a thread, which begins with it if it does not exist."""
        self._last = max(now, self._last + 1)  # no two saves have the same place in the list
        thread = self._threads.pop(place, None) or _Thread(self._last, self._last)
        # A first version is a time, so that a thread that begins anew repeats none.
        version = thread.latest.version + 1 if thread.states else self._last
        expires = None if lifetime is None else now + int(lifetime * MICROSECONDS)
        state = _State(version, json, now, expires)
        thread.updated, thread.states[version] = self._last, state
        while keep and len(thread.states) > keep:
            del thread.states[next(iter(thread.states))]
        self._threads[place] = thread
        if expires is not None:
            heappush(self._due, (expires, place))
        return state

    def delete(self, place: _Place) -> bool:
        """Delete a thread; say whether there was one."""
        return self._threads.pop(place, None) is not None

    def newest_first(self, namespace: str, owner: str) -> Iterator[tuple[str, _Thread]]:
        """Walk through the threads of an owner."""
        for place in reversed(self._threads):
            if place[:2] == (namespace, owner):
                yield place[2], self._threads[place]


class MemoryCheckpointer(Checkpointer):
    """Keeps the states of one owner in memory.

    Args:
        user_id: the owner.
        namespace: keeps applications apart that share a store.
        store: where to keep them; one of its own if left out.
        limits: how much to keep, and for how long.
    """

    capabilities: ClassVar = frozenset(Capability) - {Capability.SURVIVES_RESTART}

    def __init__(
        self,
        *,
        user_id: str,
        namespace: str = "agent_persistence",
        store: MemoryStore | None = None,
        limits: CheckpointLimits | None = None,
    ) -> None:
        self._owner = STRING.validate(user_id, "user_id")
        self._namespace = check_namespace(namespace, "namespace")
        self._store = MemoryStore() if store is None else store
        self._limits = limits or CheckpointLimits()

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str, store: MemoryStore | None = None) -> Self:
        """Make one with the namespace and the limits of the settings."""
        limits = CheckpointLimits.from_settings(settings)
        return cls(user_id=user_id, namespace=settings.namespace, store=store, limits=limits)

    @classmethod
    def from_env(cls, *, user_id: str) -> Self:
        """Make one from ``PERSISTENCE_*`` and ``.env``."""
        return cls.from_settings(PersistenceSettings(), user_id=user_id)

    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; see ``Checkpointer``."""
        place, lifetime = self._place(thread_id), self._limits.lifetime(ttl)
        if expected_version is not None:
            check_version(expected_version, "expected_version")
        cleaned = self._limits.clean(state)
        json = self._limits.encode(cleaned)
        with self._store.lock:
            now = self._store.now()
            thread = self._store.get(place)
            found = thread.latest.version if thread else 0
            if expected_version is not None and expected_version != found:
                raise StateConflictError(thread_id, expected_version, found)
            saved = self._store.put(place, json, now=now, lifetime=lifetime, keep=self._limits.max_history)
        return Checkpoint(thread_id, saved.version, cleaned, moment(saved.created), moment_or_none(saved.expires))

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or that of a version; see ``Checkpointer``."""
        place = self._place(thread_id)
        if version is not None:
            check_version(version, "version")
        with self._store.lock:
            now = self._store.now()
            thread = self._store.get(place)
            if thread is None:
                return None
            found = thread.latest if version is None else thread.states.get(version)
        return None if found is None or not found.lives(now) else _checkpoint(thread_id, found)

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states; see ``Checkpointer``."""
        place = self._place(thread_id)
        with self._store.lock:
            self._store.now()
            return self._store.delete(place)

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, that of the latest save first; see ``Checkpointer``."""
        check_limit(limit, "limit", 1000)
        before = None if after is None else decode_cursor(after, _THREADS, "after", int)
        with self._store.lock:
            self._store.now()
            found = (
                (thread_id, thread.created, thread.updated)
                for thread_id, thread in self._store.newest_first(self._namespace, self._owner)
                if before is None or thread.updated < before
            )
            rows = list(islice(found, limit + 1))
        items = tuple(ThreadSummary(name, moment(created), moment(updated)) for name, created, updated in rows[:limit])
        return Page(items, None, encode_cursor(_THREADS, rows[limit - 1][2]) if len(rows) > limit else None)

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        place = self._place(thread_id)
        check_limit(limit, "limit", 1000)
        before = None if after is None else decode_cursor(after, _STATES, "after", int)
        with self._store.lock:
            now = self._store.now()
            thread = self._store.get(place)
            states = reversed(list(thread.states.values())) if thread else iter(())
            found = (state for state in states if state.lives(now) and (before is None or state.version < before))
            rows = list(islice(found, limit + 1))
        items = tuple(_checkpoint(thread_id, state) for state in rows[:limit])
        return Page(items, None, encode_cursor(_STATES, items[-1].version) if len(rows) > limit else None)

    async def aclose(self) -> None:
        """Nothing is open."""

    def _place(self, thread_id: str) -> _Place:
        return self._namespace, self._owner, STRING.validate(thread_id, "thread_id")


def _checkpoint(thread_id: str, found: _State) -> Checkpoint:
    created, expires = moment(found.created), moment_or_none(found.expires)
    return Checkpoint(thread_id, found.version, decode_json(found.json), created, expires)
