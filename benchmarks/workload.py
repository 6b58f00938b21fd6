"""What a workload that is measured in slices is, and how the operations of some are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from benchmarks.contender import Contender, Operation, Samples, Thread

Make = Callable[[Contender, Samples, str], Operation]
SMALL = "4 KB"
USUAL_TASKS = 32
_BULK = 1000
_TURN = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """A thing to do over and over.

    Attributes:
        key: as options say it.
        title: as tables say it.
        method: what a contender must offer.
        threads: which threads; of a store ``plain``, ``cached`` (written through a cache only) or the ``long`` one.
        tasks: the concurrencies, of which the last is the greatest that makes sense.
        quick_tasks: the concurrencies of a quick run.
        by_size: whether it is done with states of other sizes, too.
        floor: whom everybody is compared with.
    """

    key: str
    title: str
    method: str
    make: Make
    threads: str = "plain"
    tasks: tuple[int, ...] = (1, USUAL_TASKS, 256)
    quick_tasks: tuple[int, ...] = (1, USUAL_TASKS, 256)
    by_size: bool = False
    floor: str = "floor"


def saving(method: str) -> Make:
    """Save one state after the other."""

    def make(contender: Contender, samples: Samples, size: str) -> Operation:
        save, states = getattr(contender, method), cycle(samples.states[size])
        return lambda thread: save(thread, next(states))

    return make


def calling(method: str) -> Make:
    """Do what a contender's method does with a thread and nothing else."""

    def make(contender: Contender, _samples: Samples, _size: str) -> Operation:
        operation: Operation = getattr(contender, method)
        return operation

    return make


def appending(contender: Contender, samples: Samples, _size: str) -> Operation:
    """Append one message after the other."""
    append, messages = contender.append_message, cycle(samples.messages)
    return lambda thread: append(thread, next(messages))


def appending_many(contender: Contender, samples: Samples, _size: str) -> Operation:
    """Append a thousand messages."""
    append, messages = contender.append_messages, samples.messages[:_BULK]
    return lambda thread: append(thread, messages)


def unit(way: str, work: str) -> Make:
    """Do something in a unit of work, which is opened in one way or another."""

    def make(contender: Contender, samples: Samples, size: str) -> Operation:
        opened, done = getattr(contender, way), getattr(contender, work)
        contents = zip(cycle(samples.messages), cycle(samples.states[size]), strict=False)

        def operation(thread: Thread) -> Any:
            given = () if work == "page" else next(contents)
            return opened(thread, lambda opened_unit: done(opened_unit, thread, *given))

        return operation

    return make


def running(durability: str) -> Make:
    """Run a graph."""

    def make(contender: Contender, _samples: Samples, _size: str) -> Operation:
        run: Any = getattr(contender, "run")  # noqa: B009  # only some contenders have it
        return lambda thread: run(thread, durability)

    return make


def giving(method: str) -> Make:
    """Do something with two messages and a state, others each time."""

    def make(contender: Contender, samples: Samples, size: str) -> Operation:
        work: Any = getattr(contender, method)
        states = cycle(samples.states[size])
        pairs = cycle([samples.messages[place : place + _TURN] for place in range(0, _BULK, _TURN)])
        return lambda thread: work(thread, next(pairs), next(states))

    return make
