"""Everything that can happen next in a world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from model.protocols import ABSENT, LEASE, QUARANTINE, Action, QuarantineProtocol
from model.reader_steps import ReaderSteps
from model.world import Fault, NextStep, NextSteps, Reader, Step, World, Writer
from model.writer_steps import WriterSteps

FATE: Final = "fate"
"""Who does what goes wrong: it may happen, but nobody can wait for it."""


def next_steps(world: World, protocol: QuarantineProtocol) -> list[NextStep]:
    """Every step that can be next, by whomever."""
    steps = [*_faults(world, protocol), *_time(world, protocol), *_late_commands(world, protocol)]
    for number in _on_their_way(world.writers, protocol.flow[0]):
        steps += WriterSteps(world, protocol, number).all()
    for number in _on_their_way(world.readers, Action.READ):
        steps += ReaderSteps(world, protocol, number).all()
    return steps


def _on_their_way(actors: Sequence[Writer] | Sequence[Reader], first_action: Action) -> Iterator[int]:
    """Those that have set out, and one more: all are alike, so another order would only be a mirror image."""
    for number, actor in enumerate(actors):
        if actor.next is not None:
            yield number
        if actor.next is first_action:
            return


def _faults(world: World, protocol: QuarantineProtocol) -> NextSteps:
    """What goes wrong with nobody's help."""
    for fault in dict.fromkeys(world.faults):
        step, faults = Step(FATE, fault), world.faults_without(fault)
        if fault is Fault.FLUSH:
            yield step, world._replace(key=ABSENT, faults=faults)
        elif fault is Fault.INVALIDATION:
            yield step, world._replace(key=protocol.invalidate(world.key), faults=faults)
        elif fault is Fault.OUTSIDE_WRITE and world.locked_by is None:
            yield step, world._replace(committed=world.committed + 1, faults=faults)
        elif fault is Fault.FAILOVER and world.replica is None:
            yield Step(FATE, "a replica stops following"), world._replace(replica=world.key)
        elif fault is Fault.FAILOVER:
            yield step, world._replace(key=world.replica, replica=None, faults=faults)


def _time(world: World, protocol: QuarantineProtocol) -> NextSteps:
    """Leases and quarantines run out, and the sweeper comes round."""
    if world.key.holds == LEASE:
        yield Step("time", "ends the lease of", f"R{world.key.of}"), world._replace(key=ABSENT)
    if world.key.holds == QUARANTINE:
        yield from _ends_of_quarantines(world, protocol)
    if world.outbox:
        yield Step("sweeper", Action.INVALIDATE), world._replace(key=protocol.invalidate(world.key), outbox=False)


def _ends_of_quarantines(world: World, protocol: QuarantineProtocol) -> NextSteps:
    guarding = {n for n, writer in enumerate(world.writers) if writer.begun and writer.next is Action.COMMIT}
    for too_early, key in protocol.lapses(world.key, guarding):
        if not too_early:
            yield Step("time", "ends a quarantine"), world._replace(key=key)
        elif Fault.PAUSE in world.faults:
            yield Step(FATE, Fault.PAUSE), world._replace(key=key, faults=world.faults_without(Fault.PAUSE))


def _late_commands(world: World, protocol: QuarantineProtocol) -> NextSteps:
    for command in sorted(world.late):
        late, who = world.late - {command}, f"W{command.writer}, late,"
        yield Step(who, command.action), world._replace(key=command.run(protocol, world.key), late=late)
        yield Step(who, "is not heard of again:", command.action), world._replace(late=late)
