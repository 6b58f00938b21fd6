"""What the database could not take: in memory, in the order in which it was said."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from agent_persistence.checkpointer import Checkpoint
from agent_persistence.encoding.exact_json import decode_json

FIRST_PROVISIONAL: Final = 2**52  # no version of the database gets there, and JavaScript can still count so far
_MOST_SETTLED: Final = 10_000


class Place(NamedTuple):
    """A thread, and whose it is."""

    user_id: str
    thread_id: str


@dataclass(slots=True, repr=False)  # its repr would be a user's state
class PendingState:
    """A state that was taken in without the database.

    Attributes:
        version: a provisional one.
        expected: the version that it is to be saved over, if its caller named one.
        in_doubt: whether it may have been saved: the reply to COMMIT was lost.
        timeouts: how often the database took too long to save it.
    """

    place: Place
    json: bytes
    version: int
    expected: int | None
    created_at: datetime
    in_doubt: bool = False
    timeouts: int = 0

    @property
    def checkpoint(self) -> Checkpoint:
        """What its caller was told."""
        state = decode_json(self.json)
        return Checkpoint(self.place.thread_id, self.version, state, self.created_at, durable=False)


@dataclass(slots=True)
class Journal:
    """States that wait for the database, each thread's in its order.

    Attributes:
        size: bytes of JSON.
    """

    size: int = 0
    _waiting: deque[PendingState] = field(default_factory=deque)
    _latest: dict[Place, PendingState] = field(default_factory=dict)
    _settled: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _last_version: int = FIRST_PROVISIONAL

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[PendingState]:
        return iter(self._waiting)

    @property
    def first(self) -> PendingState:
        """What has waited longest."""
        return self._waiting[0]

    def latest(self, place: Place) -> PendingState | None:
        """Return the last state of a thread that waits, or ``None``."""
        return self._latest.get(place)

    def find(self, place: Place, version: int) -> PendingState | None:
        """Return one state that waits, or ``None``."""
        return next((state for state in self._waiting if state.place == place and state.version == version), None)

    def add(self, place: Place, json: bytes, expected: int | None) -> PendingState:
        """Put a state at the end."""
        # By the clock, so that a process that comes after this one repeats none.
        self._last_version = max(self._last_version + 1, FIRST_PROVISIONAL + time.time_ns() // 1000)
        state = PendingState(place, json, self._last_version, expected, datetime.now(UTC))
        self._waiting.append(state)
        self._latest[place] = state
        self.size += len(json)
        return state

    def settle(self, version: int) -> None:
        """The first one was saved, as this version."""
        state = self._waiting.popleft()
        self._left(state)
        self._settled[state.version] = version
        if len(self._settled) > _MOST_SETTLED:
            self._settled.popitem(last=False)

    def settled(self, version: int) -> int:
        """Return what became of a provisional version; any other one as it is."""
        return self._settled.get(version, version)

    def take(self, place: Place) -> list[PendingState]:
        """Take out all states of a thread."""
        taken = [state for state in self._waiting if state.place == place]
        self._waiting = deque(state for state in self._waiting if state.place != place)
        for state in taken:
            self._left(state)
        return taken

    def _left(self, state: PendingState) -> None:
        self.size -= len(state.json)
        if self._latest.get(state.place) is state:
            del self._latest[state.place]


class KnownStates:
    """The latest states that this process saw, as far as they fit; those that were not used for longest go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: OrderedDict[Hashable, tuple[int, bytes, datetime]] = OrderedDict()

    def put(self, place: Place, version: int, json: bytes, created_at: datetime) -> None:
        """Remember a state, unless a newer one of the thread is known."""
        former = self._known.get(place)
        if former is None or former[0] <= version:
            self.forget(place)
            self._known[place] = version, json, created_at
            self._bytes += len(json)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._known.popitem(last=False)[1][1])

    def forget(self, place: Place) -> None:
        """Forget a thread."""
        if (former := self._known.pop(place, None)) is not None:
            self._bytes -= len(former[1])

    def version(self, place: Place) -> int:
        """Return the version that is known of a thread, 0 if none is."""
        known: Any = self._known.get(place, (0,))
        return int(known[0])

    def get(self, place: Place) -> Checkpoint | None:
        """Return what is known of a thread; it may not be the latest any more."""
        if (known := self._known.get(place)) is None:
            return None
        version, json, created_at = known
        return Checkpoint(place.thread_id, version, decode_json(json), created_at, durable=False)
