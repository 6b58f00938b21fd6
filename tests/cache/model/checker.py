"""Try every order of all steps, breadth first, and look at each world that comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from model.protocols import ABSENT, VALUE, Action, Key, QuarantineProtocol
from model.steps import FATE, next_steps
from model.world import Fault, NextStep, NextSteps, World, first_world
from model.writer_steps import NO_ANSWER


class Finding(Enum):
    """What is wrong with a world."""

    DIRTY = "the key holds what is not committed"
    STALE = "the key holds less than the row"
    STALE_AFTER_ACKNOWLEDGEMENT = "the key holds less than somebody has already been told of"
    STUCK = "all is over, and the key is wrong until its time to live ends"
    WEDGED = "the key can never be filled again"


ANYTHING = frozenset(Finding)


@dataclass(frozen=True)
class Trace:
    """The shortest way to a world, and what is wrong with it."""

    finding: Finding
    steps: tuple[NextStep, ...]

    def __str__(self) -> str:
        """One line a step, with the row and the key as they are after it."""
        lines = [f"{step!s:48} row v{world.committed}  key {world.key}" for step, world in self.steps]
        return "\n".join([*lines, f"-> {self.finding.value}"])


@dataclass(frozen=True)
class Outcome:
    """How many worlds were looked at, and the first that must not be."""

    worlds: int
    trace: Trace | None


def explore(
    protocol: QuarantineProtocol,
    faults: Iterable[Fault] = (),
    *,
    forbidden: AbstractSet[Finding] = ANYTHING,
    writers: int = 2,
    readers: int = 2,
) -> Outcome:
    """Go through every world, from a cached and from an absent value, until one shows what is forbidden."""
    starts = [first_world(protocol, key, faults, writers=writers, readers=readers) for key in (ABSENT, Key(VALUE, 1))]
    came_by: dict[World, NextStep | None] = dict.fromkeys(starts)
    waiting = deque(starts)
    while waiting:
        world = waiting.popleft()
        steps = next_steps(world, protocol)
        for finding in findings(world, steps, protocol):
            if finding in forbidden:
                return Outcome(len(came_by), _trace(finding, world, came_by))
        for step, following in steps:
            if following not in came_by:
                came_by[following] = (step, world)
                waiting.append(following)
    return Outcome(len(came_by), None)


def findings(world: World, steps: Sequence[NextStep], protocol: QuarantineProtocol) -> Iterator[Finding]:
    """What is wrong with a world, the worst first."""
    settled, key = world.has_settled(), world.key
    if key.holds == VALUE:
        if settled and key.of != world.committed:
            yield Finding.STUCK
        if key.of > world.committed:
            yield Finding.DIRTY
        if key.of < world.told:
            yield Finding.STALE_AFTER_ACKNOWLEDGEMENT
        if key.of < world.committed:
            yield Finding.STALE
    if settled:
        if key == ABSENT and not _can_be_filled(world, protocol):
            yield Finding.WEDGED
    elif all(step.who == FATE for step, _ in steps):
        yield Finding.WEDGED  # no step leads back, so every run that never comes to this settles


_UNSEEN = frozenset({Action.RETURN, NO_ANSWER})


def follow(protocol: QuarantineProtocol, world: World, steps: Sequence[tuple[str, str]]) -> set[World]:
    """Where these steps lead, each by whom and what; nowhere, if the model does not know them in this order."""
    worlds = {world}
    for who_and_what in steps:
        worlds |= {following for step, following in _steps_of(worlds, protocol) if step.does in _UNSEEN}
        worlds = {following for step, following in _steps_of(worlds, protocol) if step[:2] == who_and_what}
    return worlds


def _steps_of(worlds: Iterable[World], protocol: QuarantineProtocol) -> NextSteps:
    for world in worlds:
        yield from next_steps(world, protocol)


def _can_be_filled(world: World, protocol: QuarantineProtocol) -> bool:
    reader = len(world.readers)
    key = protocol.fill(protocol.lease(world.key, reader), reader, world.committed)
    return key == Key(VALUE, world.committed)


def _trace(finding: Finding, world: World, came_by: dict[World, NextStep | None]) -> Trace:
    steps = []
    while (before := came_by[world]) is not None:
        step, earlier = before
        steps.append((step, world))
        world = earlier
    return Trace(finding, tuple(reversed(steps)))
