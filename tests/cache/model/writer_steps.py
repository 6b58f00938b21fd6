"""What a writer can do next, and what can go wrong with it."""

from __future__ import annotations

from typing import Final

from model.protocols import Action, QuarantineProtocol
from model.world import Command, Fault, NextStep, NextSteps, Step, World, Writer

NO_ANSWER: Final = "has no answer:"

_SENT_TO_REDIS: Final = frozenset({Action.BEGIN, Action.PUBLISH, Action.INVALIDATE, Action.ABORT})
_GONE: Final = Writer(next=None)


class WriterSteps:
    """The next steps of one writer."""

    def __init__(self, world: World, protocol: QuarantineProtocol, number: int) -> None:
        self.world, self.protocol, self.number = world, protocol, number
        self.writer = world.writers[number]

    def all(self) -> NextSteps:
        action = self.writer.next
        if action is Action.LOCK:
            yield from self.lock()
        elif action is Action.COMMIT:
            yield self.commit()
        elif action is Action.RETURN:
            yield self.step(action, _GONE, told=max(self.world.told, self.writer.version))
        else:
            yield from self.send(action)
        yield from self.roll_back()
        yield from self.crash()

    def lock(self) -> NextSteps:
        if self.world.locked_by is None:
            yield self.step(Action.LOCK, self.writer._replace(next=self.following(Action.LOCK)), locked_by=self.number)

    def send(self, action: Action) -> NextSteps:
        """Send a command. A lost one may still arrive, when its writer has long gone on without it."""
        then = self.following(action) if action in self.protocol.flow else Action.RETURN
        sent = self.writer._replace(next=then, begun=self.writer.begun or action is Action.BEGIN)
        for each in (action, Action.PUBLISH_NOTHING) if action is Action.PUBLISH else (action,):
            yield self.step(each, sent, key=self.command(each).run(self.protocol, self.world.key))
        if Fault.LOST in self.world.faults:
            faults, late = self.world.faults_without(Fault.LOST), self.world.late | {self.command(action)}
            yield self.step(NO_ANSWER, self.writer._replace(next=then), action, faults=faults, late=late)

    def commit(self) -> NextStep:
        """Commit, and publish after that; a key that could not be quarantined is only invalidated."""
        version, missed = self.world.committed + 1, Action.BEGIN in self.protocol.flow and not self.writer.begun
        writer = self.writer._replace(next=Action.INVALIDATE if missed else Action.PUBLISH, version=version)
        outbox = self.world.outbox or (missed and self.protocol.outbox)
        return self.step(Action.COMMIT, writer, f"v{version}", committed=version, locked_by=None, outbox=outbox)

    def roll_back(self) -> NextSteps:
        """Roll back. Where the rollback is not certain, the quarantine is left to run out."""
        if Fault.ROLLBACK not in self.world.faults or self.world.locked_by != self.number:
            return
        changes = {"locked_by": None, "faults": self.world.faults_without(Fault.ROLLBACK)}
        yield self.step(Action.ROLL_BACK, _GONE, **changes)
        if self.writer.next is Action.COMMIT and Action.BEGIN in self.protocol.flow:
            yield self.step(Action.ROLL_BACK, self.writer._replace(next=Action.ABORT), **changes)

    def crash(self) -> NextSteps:
        """Crash. What was sent last may still arrive."""
        action = self.writer.next
        if Fault.CRASH not in self.world.faults or action is self.protocol.flow[0]:
            return
        locked_by = None if self.world.locked_by == self.number else self.world.locked_by
        changes = {"locked_by": locked_by, "faults": self.world.faults_without(Fault.CRASH)}
        yield self.step("crashes before it", _GONE, action, **changes)
        if action in _SENT_TO_REDIS:
            yield self.step("crashes while it", _GONE, action, late=self.world.late | {self.command(action)}, **changes)

    def command(self, action: Action) -> Command:
        return Command(action, self.number, self.writer.version)

    def following(self, action: Action) -> Action:
        return self.protocol.flow[self.protocol.flow.index(action) + 1]

    def step(self, does: str, writer: Writer, note: str = "", **changes: object) -> NextStep:
        before, after = self.world.writers[: self.number], self.world.writers[self.number + 1 :]
        return Step(f"W{self.number}", does, note), self.world._replace(writers=(*before, writer, *after), **changes)
