"""Saves made while the database was down, in their order, and the states that this process knows."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from agent_persistence.checkpointer import Checkpoint
from agent_persistence.encoding.exact_json import decode_json

FIRST_PROVISIONAL: Final = 2**52  # above every version of the database, and still exact in JavaScript
_MOST_SETTLED: Final = 10_000


class StateKey(NamedTuple):
    """A thread and its owner."""

    user_id: str
    thread_id: str


@dataclass(slots=True, repr=False)  # a repr would show a user's state
class PendingState:
    """A state that waits for the database.

    Attributes:
        key: its thread and owner.
        json: the state.
        version: a provisional version.
        expected: the version that it is to replace, if its caller named one.
        created_at: when it was saved, by this process's clock.
        in_doubt: whether it may be in the database: the reply to COMMIT was lost.
        timeouts: how often the database took too long to save it.
    """

    key: StateKey
    json: bytes
    version: int
    expected: int | None
    created_at: datetime
    in_doubt: bool = False
    timeouts: int = 0

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that its caller got."""
        state = decode_json(self.json)
        return Checkpoint(self.key.thread_id, self.version, state, self.created_at, durable=False)


@dataclass(slots=True)
class Journal:
    """The states that wait for the database, those of a thread in their order.

    Attributes:
        size: their size as JSON, in bytes.
    """

    size: int = 0
    _waiting: deque[PendingState] = field(default_factory=deque)
    _latest: dict[StateKey, PendingState] = field(default_factory=dict)
    _settled: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _last_version: int = FIRST_PROVISIONAL

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[PendingState]:
        return iter(self._waiting)

    @property
    def first(self) -> PendingState:
        """The state that has waited longest."""
        return self._waiting[0]

    def latest(self, key: StateKey) -> PendingState | None:
        """Return the last waiting state of a thread, or ``None``."""
        return self._latest.get(key)

    def find(self, key: StateKey, version: int) -> PendingState | None:
        """Return a waiting state by its provisional version, or ``None``."""
        return next((state for state in self._waiting if state.key == key and state.version == version), None)

    def add(self, key: StateKey, json: bytes, expected: int | None) -> PendingState:
        """Append a state, and give it a provisional version."""
        # By the clock, so that a later process does not repeat one.
        self._last_version = max(self._last_version + 1, FIRST_PROVISIONAL + time.time_ns() // 1000)
        state = PendingState(key, json, self._last_version, expected, datetime.now(UTC))
        self._waiting.append(state)
        self._latest[key] = state
        self.size += len(json)
        return state

    def settle(self, version: int) -> None:
        """Remove the first state, which the database has saved with this version."""
        state = self._waiting.popleft()
        self._left(state)
        self._settled[state.version] = version
        if len(self._settled) > _MOST_SETTLED:
            self._settled.popitem(last=False)

    def settled(self, version: int) -> int:
        """Return the version in the database for a provisional one; any other version unchanged."""
        return self._settled.get(version, version)

    def take(self, key: StateKey) -> list[PendingState]:
        """Remove and return all states of a thread."""
        taken = [state for state in self._waiting if state.key == key]
        self._waiting = deque(state for state in self._waiting if state.key != key)
        for state in taken:
            self._left(state)
        return taken

    def _left(self, state: PendingState) -> None:
        self.size -= len(state.json)
        if self._latest.get(state.key) is state:
            del self._latest[state.key]


class KnownStates:
    """The latest states that this process saw, up to a size; the least recently saved or loaded are evicted first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: OrderedDict[Hashable, tuple[int, bytes, datetime]] = OrderedDict()

    def put(self, key: StateKey, version: int, json: bytes, created_at: datetime) -> None:
        """Remember a state, unless a newer one of the thread is known."""
        former = self._known.get(key)
        if former is None or former[0] <= version:
            self.forget(key)
            self._known[key] = version, json, created_at
            self._bytes += len(json)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._known.popitem(last=False)[1][1])

    def forget(self, key: StateKey) -> None:
        """Forget the state of a thread."""
        if (former := self._known.pop(key, None)) is not None:
            self._bytes -= len(former[1])

    def version(self, key: StateKey) -> int:
        """Return the known version of a thread, or 0."""
        known: Any = self._known.get(key, (0,))
        return int(known[0])

    def get(self, key: StateKey) -> Checkpoint | None:
        """Return the known state of a thread, which may no longer be the latest; or ``None``."""
        if (known := self._known.get(key)) is None:
            return None
        version, json, created_at = known
        return Checkpoint(key.thread_id, version, decode_json(json), created_at, durable=False)
