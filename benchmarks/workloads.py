"""The workloads that are measured in slices: what each does, on which threads, at which sizes and concurrencies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

from benchmarks.contender import Contender, Thread
from benchmarks.measure import Operation
from benchmarks.samples import Samples

Make = Callable[[Contender, Samples, str], Operation]
SMALL = "4 KB"
_BULK = 1000
_TURN = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """A thing to do over and over.

    Attributes:
        key: as options say it.
        title: as tables say it.
        method: what a contender must offer.
        threads: which threads: ``plain``, ``cached`` (written through a cache only) or the ``long`` one.
        most: the greatest concurrency that makes sense.
        quick_tasks: the concurrencies of a quick run.
        by_size: whether it is done with states of other sizes, too.
    """

    key: str
    title: str
    method: str
    make: Make
    threads: Literal["plain", "cached", "long"] = "plain"
    most: int = 1 << 30
    quick_tasks: tuple[int, ...] = (1, 32, 256)
    by_size: bool = False


def _saving(method: str) -> Make:
    def make(contender: Contender, samples: Samples, size: str) -> Operation:
        save, states = getattr(contender, method), cycle(samples.states[size])
        return lambda thread: save(thread, next(states))

    return make


def _reading(method: str) -> Make:
    def make(contender: Contender, _samples: Samples, _size: str) -> Operation:
        operation: Operation = getattr(contender, method)
        return operation

    return make


def _appending(contender: Contender, samples: Samples, _size: str) -> Operation:
    append, messages = contender.append_message, cycle(samples.messages)
    return lambda thread: append(thread, next(messages))


def _appending_many(contender: Contender, samples: Samples, _size: str) -> Operation:
    append, messages = contender.append_messages, samples.messages[:_BULK]
    return lambda thread: append(thread, messages)


def _turn(contender: Contender, samples: Samples, size: str) -> Operation:
    states = cycle(samples.states[size])
    pairs = cycle([samples.messages[place : place + _TURN] for place in range(0, _BULK, _TURN)])

    def operation(thread: Thread) -> Any:
        return contender.turn(thread, next(pairs), next(states))

    return operation


WORKLOADS = [
    Workload("w1", "save a state, no cache", "save_state", _saving("save_state"), by_size=True),
    Workload(
        "w1c",
        "save a state, cache on",
        "save_state_cached",
        _saving("save_state_cached"),
        "cached",
        quick_tasks=(1, 32),
    ),
    Workload("w2a", "latest state from PostgreSQL", "read_state", _reading("read_state"), by_size=True),
    Workload(
        "w2f", "the same past a cache", "read_state_fresh", _reading("read_state_fresh"), "cached", quick_tasks=(32,)
    ),
    Workload("w2b", "cache hit", "read_state_cached", _reading("read_state_cached"), "cached", by_size=True),
    Workload("w3", "append one message", "append_message", _appending),
    Workload("w3k", "append 1,000 messages at once", "append_messages", _appending_many, most=32, quick_tasks=(1,)),
    Workload(
        "w4", "last 50 of 10,000 messages", "last_messages", _reading("last_messages"), "long", quick_tasks=(1, 32)
    ),
    Workload("w5", "a turn: read, append two, save", "turn", _turn, quick_tasks=(1, 32)),
    Workload(
        "orm1",
        "latest state as an entity",
        "read_state_entity",
        _reading("read_state_entity"),
        most=32,
        quick_tasks=(32,),
    ),
    Workload(
        "orm50",
        "last 50 messages as entities",
        "read_message_entities",
        _reading("read_message_entities"),
        "long",
        most=32,
        quick_tasks=(32,),
    ),
]
