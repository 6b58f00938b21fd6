"""What a key may hold, and the commands of the protocol as functions from what it holds to what it holds then."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Any, ClassVar, Final, NamedTuple


class Key(NamedTuple):
    """What a key holds: nothing, a reader's lease, a writer's quarantine or the value of a version.

    Attributes:
        holds: the letter that the key begins with.
        of: the reader, the writer or the version.
    """

    holds: str
    of: Any = None

    def __str__(self) -> str:
        return "-" if self == ABSENT else f"{self.holds}{self.of}"


ABSENT: Final = Key("")
LEASE: Final = "L"
QUARANTINE: Final = "W"
VALUE: Final = "V"
NOBODY: Final = -1


class Action(StrEnum):
    """What a writer, or a reader, does next."""

    LOCK = "locks the row"
    BEGIN = "quarantines the key"
    COMMIT = "commits"
    PUBLISH = "publishes"
    PUBLISH_NOTHING = "publishes nothing"
    INVALIDATE = "invalidates the key"
    ROLL_BACK = "rolls back"
    ABORT = "lifts its quarantine"
    RETURN = "returns"

    READ = "reads the key"
    LEASE = "asks for the lease"
    SELECT = "reads the row"
    FILL = "fills the key"


class QuarantineProtocol:
    """Quarantine, commit, publish: what is shipped.

    Attributes:
        flow: what a writer does, in this order.
        leases: whether a reader needs a lease to fill.
        outbox: whether a writer that could not quarantine leaves a row behind, by which a sweeper does so later.
    """

    flow: ClassVar[tuple[Action, ...]] = (Action.LOCK, Action.BEGIN, Action.COMMIT, Action.PUBLISH, Action.RETURN)
    leases: ClassVar = True
    outbox: ClassVar = True

    def lease(self, key: Key, reader: int) -> Key:
        return Key(LEASE, reader) if key == ABSENT else key

    def fill(self, key: Key, reader: int, version: int) -> Key:
        return Key(VALUE, version) if key == Key(LEASE, reader) else key

    def begin(self, _key: Key, writer: int) -> Key:
        return Key(QUARANTINE, writer)

    def publish(self, key: Key, writer: int, version: int) -> Key:
        if key == Key(QUARANTINE, writer):
            return Key(VALUE, version)
        if key.holds == QUARANTINE or (key.holds == VALUE and key.of >= version):
            return key
        return ABSENT

    def publish_nothing(self, key: Key, writer: int) -> Key:
        return key if key.holds == QUARANTINE and key.of != writer else ABSENT

    def abort(self, key: Key, writer: int) -> Key:
        return ABSENT if key == Key(QUARANTINE, writer) else key

    def invalidate(self, _key: Key) -> Key:
        return Key(QUARANTINE, NOBODY)

    def lapses(self, _key: Key, guarding: AbstractSet[int]) -> Iterator[tuple[bool, Key]]:
        """How a quarantine can end by itself: whether before a commit that it guards, and what the key holds then.

        A quarantine outlives the transaction of its writer. Each writer overwrites the one before, so the register
        always holds one that was set no earlier than that of any writer who is yet to commit.
        """
        yield bool(guarding), ABSENT


class NaiveProtocol(QuarantineProtocol):
    """Delete the key after the commit; whoever misses stores what the row held. What everybody writes first."""

    flow = (Action.LOCK, Action.COMMIT, Action.PUBLISH, Action.RETURN)
    leases = False

    def fill(self, _key: Key, _reader: int, version: int) -> Key:
        return Key(VALUE, version)

    def publish(self, _key: Key, _writer: int, _version: int) -> Key:
        return ABSENT
