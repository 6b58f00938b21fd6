"""What a reader can do next."""

from __future__ import annotations

from model.protocols import ABSENT, LEASE, VALUE, Action, Key, QuarantineProtocol
from model.world import Fault, NextStep, NextSteps, Reader, Step, World


class ReaderSteps:
    """The next steps of one reader."""

    def __init__(self, world: World, protocol: QuarantineProtocol, number: int) -> None:
        self.world, self.protocol, self.number = world, protocol, number
        self.reader = world.readers[number]

    def all(self) -> NextSteps:
        action = self.reader.next
        if action is Action.READ:
            yield self.read()
            yield from self.open_snapshot()
        elif action is Action.LEASE:
            yield self.lease()
        elif action is Action.SELECT:
            yield self.select()
        else:
            yield from self.fill()

    def read(self) -> NextStep:
        key = self.world.key
        if key.holds == VALUE:
            return self.done(Action.READ, min(key.of, self.world.committed), f"and finds v{key.of}")
        if key != ABSENT:
            return self.step(Action.READ, self.reader._replace(next=Action.SELECT), "and finds it taken")
        needs_lease = self.protocol.leases
        then = Action.LEASE if needs_lease else Action.SELECT
        return self.step(Action.READ, self.reader._replace(next=then, may_fill=not needs_lease), "and finds nothing")

    def lease(self) -> NextStep:
        """Ask for the lease, a command of its own: somebody may have come since the key was read."""
        key = self.protocol.lease(self.world.key, self.number)
        won = key == Key(LEASE, self.number)
        reader = self.reader._replace(next=Action.SELECT, may_fill=won)
        return self.step(Action.LEASE, reader, "and gets it" if won else "in vain", key=key)

    def select(self) -> NextStep:
        version = self.reader.snapshot or self.world.committed
        if not self.reader.may_fill:
            return self.done(Action.SELECT, version, f"v{version}")
        return self.step(Action.SELECT, self.reader._replace(next=Action.FILL, version=version), f"v{version}")

    def fill(self) -> NextSteps:
        version = self.reader.version
        key = self.protocol.fill(self.world.key, self.number, version)
        yield self.done(Action.FILL, version, f"with v{version}" if key != self.world.key else "in vain", key=key)
        yield self.done("never fills the key", version)

    def open_snapshot(self) -> NextSteps:
        if Fault.OLD_SNAPSHOT in self.world.faults:
            reader = self.reader._replace(snapshot=self.world.committed)
            yield self.step("opens a snapshot", reader, faults=self.world.faults_without(Fault.OLD_SNAPSHOT))

    def done(self, does: str, version: int, note: str = "", **changes: object) -> NextStep:
        return self.step(does, Reader(next=None), note, told=max(self.world.told, version), **changes)

    def step(self, does: str, reader: Reader, note: str = "", **changes: object) -> NextStep:
        before, after = self.world.readers[: self.number], self.world.readers[self.number + 1 :]
        return Step(f"R{self.number}", does, note), self.world._replace(readers=(*before, reader, *after), **changes)
