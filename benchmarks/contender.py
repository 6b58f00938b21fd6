"""What a contender can be asked to do. Each offers the part of it that it has."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from benchmarks.writes import Writes, counted_writes

POOL_SIZE = 16
"""Connections to PostgreSQL, the same for everybody who has a pool."""


class Thread(NamedTuple):
    """A thread and its owner."""

    id: str
    user: str


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers listen.

    Attributes:
        postgresql: as libpq and asyncpg read it.
        sqlalchemy: the same for SQLAlchemy's asyncpg dialect.
        redis: as redis-py reads it.
    """

    postgresql: str
    sqlalchemy: str
    redis: str


class Cost(NamedTuple):
    """What a process has used so far.

    Attributes:
        client_cpu: seconds of processor time.
        writes: to the servers' sockets.
    """

    client_cpu: float
    writes: Writes


Operation = Callable[[Thread], Awaitable[Any]]
"""What a workload does with a thread, over and over."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What is written.

    Attributes:
        states: for each size some states of it, which differ as those of consecutive steps do.
        messages: some messages, user's and assistant's in turn.
    """

    states: dict[str, list[Any]]
    messages: list[dict[str, Any]]


class MissingContenderError(Exception):
    """A contender cannot take part, for the reason that the text says."""


class Contender:
    """A store. A subclass overrides what it offers; `offers` tells what that is.

    Attributes:
        name: as tables and options say it.
        measured: the only methods whose workloads it takes part in; empty means all that it offers.
        most_tasks: more of them would take too long.
        may_fail: whether an error leaves it out, and does not end the run; so it is with all that have a database.
        own_database: whether its tables are of its own making, and need a place of their own.
        keeps_order: whether messages that were appended together come back in their order.
        counted: whether it writes to sockets through asyncio, where writes are counted.
        grows: whether it takes part in w6, where it saves states.
        title: who that is, with its version where it has one.
    """

    name: ClassVar[str]
    measured: ClassVar[frozenset[str]] = frozenset()
    most_tasks: ClassVar[int] = 1 << 30
    may_fail: ClassVar[bool] = False
    own_database: ClassVar[bool] = False
    counted: ClassVar[bool] = True
    keeps_order: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def __init__(self) -> None:
        self.title = self.name

    @classmethod
    def offers(cls, method: str) -> bool:
        """Tell whether this contender can do that."""
        return getattr(cls, method, None) is not getattr(Contender, method, None)

    @classmethod
    def is_main(cls) -> bool:
        """Tell whether this is the floor or this package: they have more threads, and more is measured of them."""
        return not cls.own_database and not cls.measured

    @classmethod
    def takes_part(cls, method: str) -> bool:
        """Tell whether this contender is measured in that."""
        return cls.offers(method) and (not cls.measured or method in cls.measured)

    async def open(self, addresses: Addresses) -> None:
        """Connect, and make tables of its own where it has some.

        Raises:
            MissingContenderError: what it needs is not installed.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close what `open` opened, if anything."""

    async def cost(self) -> Cost:
        """Return what the process has used that does the work: usually this one."""
        return Cost(time.process_time(), counted_writes())

    def needs(self, kind: str, tasks: int) -> int:  # noqa: ARG002  # for those that override it
        """Return how many threads of a kind so many tasks need."""
        return 2 * tasks

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:
        """Make a thread of the kind that a workload wants, before anything is measured."""
        raise NotImplementedError

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:
        """Do what the workload of this key does, on a thread just furnished; tell whether it came out right."""
        raise NotImplementedError

    async def create_thread(self, thread: Thread) -> None:
        """Make a thread; stores that make them with their first content need not do anything."""

    async def save_state(self, thread: Thread, state: Any) -> Any:
        """Save a state as the latest, without a cache."""
        raise NotImplementedError

    async def save_state_cached(self, thread: Thread, state: Any) -> Any:
        """Save a state where a cache is configured."""
        raise NotImplementedError

    async def read_state(self, thread: Thread) -> Any:
        """Read the latest state from PostgreSQL; return its data."""
        raise NotImplementedError

    async def read_state_fresh(self, thread: Thread) -> Any:
        """Read the latest state from PostgreSQL although a cache is configured; return its data."""
        raise NotImplementedError

    async def read_state_cached(self, thread: Thread) -> Any:
        """Read the latest state through the cache; return its data."""
        raise NotImplementedError

    async def read_versions(self, thread: Thread) -> Sequence[Any]:
        """Read every state that was ever saved, oldest first."""
        raise NotImplementedError

    async def append_message(self, thread: Thread, message: dict[str, Any]) -> Any:
        """Append one message."""
        raise NotImplementedError

    async def append_messages(self, thread: Thread, messages: Sequence[dict[str, Any]]) -> Any:
        """Append many messages at once, in their order, all or none."""
        raise NotImplementedError

    async def last_messages(self, thread: Thread) -> Sequence[Any]:
        """Read the last 50 messages, oldest first; each is the message or has it as ``message``."""
        raise NotImplementedError

    async def turn(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> Any:
        """Read the latest state, append messages, save a state."""
        raise NotImplementedError

    async def lengthen(self, thread: Thread, messages: Sequence[dict[str, Any]], count: int) -> None:
        """Append so many messages, before anything is measured."""
        for place in range(0, count, len(messages)):
            await self.append_messages(thread, messages[: count - place])

    async def read_state_entity(self, thread: Thread) -> Any:
        """Read the latest state as an ORM entity, which has it as ``state_data``."""
        raise NotImplementedError

    async def read_message_entities(self, thread: Thread) -> Sequence[Any]:
        """Read the last 50 messages as ORM entities, oldest first, which have their text as ``content``."""
        raise NotImplementedError

    async def warm(self, threads: Sequence[Thread]) -> None:
        """Fill a cache with the states of these threads."""

    async def before_slice(self, method: str, threads: list[Thread]) -> None:
        """Make ready for a slice: undo what an earlier one left behind, or replace threads in this list."""
