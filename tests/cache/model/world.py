"""One row, its key, some writers and readers, and what may still go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from model.protocols import VALUE, Action, Key, QuarantineProtocol


class Fault(StrEnum):
    """What may go wrong, once for each time it is named."""

    ROLLBACK = "a transaction is rolled back"
    CRASH = "a writer crashes"
    LOST = "a command of a writer is lost or late"
    INVALIDATION = "somebody invalidates the key"
    FLUSH = "Redis drops the key"
    PAUSE = "a quarantine ends before the commit that it guards"
    FAILOVER = "Redis fails over to a replica that lags behind"
    OUTSIDE_WRITE = "the row is changed by somebody who tells no cache"
    OLD_SNAPSHOT = "a reader reads the row from a snapshot taken before"


class Step(NamedTuple):
    """One step, for a trace: ``W1 commits v3``."""

    who: str
    does: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.who} {self.does} {self.note}".rstrip()


class Command(NamedTuple):
    """What a writer sends to Redis."""

    action: Action
    writer: int
    version: int

    def run(self, protocol: QuarantineProtocol, key: Key) -> Key:
        """What the key holds once Redis has run it."""
        if self.action is Action.PUBLISH:
            return protocol.publish(key, self.writer, self.version)
        if self.action is Action.INVALIDATE:
            return protocol.invalidate(key)
        operations = {
            Action.BEGIN: protocol.begin,
            Action.PUBLISH_NOTHING: protocol.publish_nothing,
            Action.ABORT: protocol.abort,
        }
        return operations[self.action](key, self.writer)


class Writer(NamedTuple):
    """Somebody who writes the row once.

    Attributes:
        next: ``None`` when it has returned, or is no more.
        begun: its quarantine was acknowledged.
        version: what it has committed.
    """

    next: Action | None
    begun: bool = False
    version: int = 0


class Reader(NamedTuple):
    """Somebody who reads through the cache once.

    Attributes:
        next: ``None`` when it has returned.
        may_fill: it holds the lease, as far as it knows.
        version: what it has read from the row.
        snapshot: the version that it will read there, if not the committed one.
    """

    next: Action | None = Action.READ
    may_fill: bool = False
    version: int = 0
    snapshot: int = 0


class World(NamedTuple):
    """Everything there is.

    Attributes:
        committed: the version of the row.
        told: the newest version that any caller has been told of.
        faults: what may still go wrong.
        late: commands that their writers have given up, and Redis may still run.
        outbox: there is a row for the sweeper.
        replica: what a replica holds that has stopped following.
    """

    committed: int
    key: Key
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    told: int
    faults: tuple[Fault, ...] = ()
    locked_by: int | None = None
    late: frozenset[Command] = frozenset()
    outbox: bool = False
    replica: Key | None = None

    def has_settled(self) -> bool:
        """Whether nothing will happen any more unless somebody comes, or something goes wrong."""
        return (
            self.key.holds in {"", VALUE}
            and not self.late
            and not self.outbox
            and all(actor.next is None for actor in self.writers + self.readers)
        )

    def faults_without(self, fault: Fault) -> tuple[Fault, ...]:
        position = self.faults.index(fault)
        return self.faults[:position] + self.faults[position + 1 :]


NextStep = tuple[Step, World]
NextSteps = Iterator[NextStep]


def first_world(
    protocol: QuarantineProtocol, key: Key, faults: Iterable[Fault] = (), *, writers: int = 2, readers: int = 2
) -> World:
    """Version 1 is committed, and everybody is about to set out."""
    writer = Writer(protocol.flow[0])
    return World(1, key, (writer,) * writers, (Reader(),) * readers, told=1, faults=tuple(sorted(faults)))
