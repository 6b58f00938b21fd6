"""The states of an outage: those that wait for the database, and those that this process knows.

The first are the journal: each thread's states in the order of their saves, in which the recovery writes them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

from agent_persistence.checkpointer import Checkpoint
from agent_persistence.encoding.exact_json import decode_json

FIRST_PROVISIONAL: Final = 2**52  # above every version of the database, and still exact in JavaScript
_ENTRY_BYTES: Final = 900  # that a state takes beside its JSON; measured with Python 3.11
_NOT_COUNTED: Final = 16  # states, so that a small limit still means what it says
_MOST_SETTLED: Final = 10_000  # callers may use a provisional version at any later time, but memory is bounded


class StateKey(NamedTuple):
    """A thread and its owner."""

    user_id: str
    thread_id: str


@dataclass(slots=True, repr=False)  # a repr would show a user's state
class PendingState:
    """A state that waits for the database.

    Attributes:
        key: its thread and owner.
        json: the state, encoded, so that its caller cannot change it while it waits.
        version: a provisional version.
        expected: the ``expected_version`` of its caller, which may be provisional; ``None`` for any.
        created_at: when it was saved, by this process's clock.
        in_doubt: whether the database may have it already, because the reply to COMMIT was lost.
        timeouts: the number of attempts to write it that exceeded a time limit.
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
        """The checkpoint that ``save_state`` returned for it."""
        state = decode_json(self.json)
        return Checkpoint(self.key.thread_id, self.version, state, self.created_at, durable=False)


@dataclass(slots=True)
class Journal:
    """The states that wait for the database, each thread's in the order of their saves.

    Attributes:
        size: the size of all of them, as JSON in bytes.
    """

    size: int = 0
    _waiting: dict[StateKey, list[PendingState]] = field(default_factory=dict)
    _count: int = 0
    _settled: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _last_version: int = FIRST_PROVISIONAL

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PendingState]:
        return iter(sorted(chain.from_iterable(self._waiting.values()), key=attrgetter("version")))

    @property
    def memory(self) -> int:
        """The memory that they take, in bytes."""
        return _memory(self.size, len(self))

    @property
    def threads(self) -> list[StateKey]:
        """The threads with waiting states; first those that have waited longest."""
        return list(self._waiting)

    def first(self, key: StateKey) -> PendingState | None:
        """Return the state of a thread that is written next, or ``None``."""
        waiting = self._waiting.get(key)
        return waiting[0] if waiting else None

    def latest(self, key: StateKey) -> PendingState | None:
        """Return the last waiting state of a thread, or ``None``."""
        waiting = self._waiting.get(key)
        return waiting[-1] if waiting else None

    def find(self, key: StateKey, version: int) -> PendingState | None:
        """Return a waiting state by its provisional version, or ``None``."""
        # A scan, because earlier versions are rarely loaded, least of all during an outage.
        return next((state for state in self._waiting.get(key, ()) if state.version == version), None)

    def add(self, key: StateKey, json: bytes, expected: int | None, *, in_doubt: bool = False) -> PendingState:
        """Append a state to those of its thread, and give it a provisional version."""
        # By the clock, so that a later process does not repeat the versions of this one.
        self._last_version = max(self._last_version + 1, FIRST_PROVISIONAL + time.time_ns() // 1000)
        # A copy: the bytes of an encoder keep kilobytes of room behind them.
        state = PendingState(key, bytes(memoryview(json)), self._last_version, expected, datetime.now(UTC), in_doubt)
        self._waiting.setdefault(key, []).append(state)
        self._count += 1
        self.size += len(json)
        return state

    def settle(self, key: StateKey, version: int) -> None:
        """Remove the first state of a thread, and remember the version with which the database has saved it."""
        waiting = self._waiting[key]
        state = waiting.pop(0)
        if not waiting:
            del self._waiting[key]
        self._left(state)
        self._settled[state.version] = version
        if len(self._settled) > _MOST_SETTLED:
            self._settled.popitem(last=False)

    def settled(self, version: int) -> int:
        """Return the version in the database for a provisional one of a saved state; any other version unchanged."""
        return self._settled.get(version, version)

    def take(self, key: StateKey) -> list[PendingState]:
        """Remove all states of a thread, and return them."""
        taken = self._waiting.pop(key, [])
        for state in taken:
            self._left(state)
        return taken

    def _left(self, state: PendingState) -> None:
        self._count -= 1
        self.size -= len(state.json)


class KnownStates:
    """The latest states that this process saved or loaded; the least recent ones are evicted first.

    Args:
        most_bytes: the maximum of the memory that they take.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: OrderedDict[StateKey, tuple[int, bytes, datetime]] = OrderedDict()

    def put(self, key: StateKey, version: int, json: bytes, created_at: datetime) -> None:
        """Remember a state, unless a newer one of the thread is known, or it alone exceeds the limit."""
        if self.version(key) > version:  # concurrent calls may end in another order than the database ran them
            return
        self.forget(key)
        if len(json) > self._most_bytes:
            return
        self._known[key] = version, bytes(memoryview(json)), created_at
        self._bytes += len(json)
        while _memory(self._bytes, len(self._known)) > self._most_bytes:
            self._bytes -= len(self._known.popitem(last=False)[1][1])

    def forget(self, key: StateKey) -> None:
        """Forget the state of a thread."""
        if (former := self._known.pop(key, None)) is not None:
            self._bytes -= len(former[1])

    def version(self, key: StateKey) -> int:
        """Return the known version of a thread, or 0."""
        known = self._known.get(key)
        return known[0] if known else 0

    def get(self, key: StateKey) -> Checkpoint | None:
        """Return the known state of a thread, or ``None``; another process may have saved a later one."""
        if (known := self._known.get(key)) is None:
            return None
        version, json, created_at = known
        return Checkpoint(key.thread_id, version, decode_json(json), created_at, durable=False)


def _memory(size: int, count: int) -> int:
    """Return the memory that so many states of this total size take."""
    return size + max(0, count - _NOT_COUNTED) * _ENTRY_BYTES
