"""Contenders that are open, filled, and seen to give back what they were given."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.contender import Contender, MissingContenderError, Samples, Thread
from benchmarks.plan import Plan
from benchmarks.samples import make_threads
from benchmarks.workload import SMALL

LONG = 10_000
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Store:
    """A contender and its threads.

    Attributes:
        threads: by what a workload wants (``plain``, ``cached``, ``long``) and the size of their states.
    """

    contender: Contender
    threads: dict[tuple[str, str], list[Thread]]


async def prepare_store(contender: Contender, samples: Samples, plan: Plan) -> Store:
    """Fill a store with what a plan needs, and validate it.

    Raises:
        MissingContenderError: it does not give back what it was given.
    """
    long = any(cell.workload.threads == "long" for cell in plan.cells_of(contender))
    store = await fill(contender, samples, plan.counts(contender), long=long, seed=plan.seed)
    await validate(store, samples)
    return store


async def fill(contender: Contender, samples: Samples, counts: dict[str, int], *, long: bool, seed: int) -> Store:
    """Make threads with a state each, and the long one if it is wanted.

    Args:
        counts: how many threads for each size of states.
    """
    rng = random.Random(f"{seed} {contender.name}")
    store = Store(contender, {})
    for size, count in counts.items():
        threads = make_threads(rng, count)
        store.threads["plain", size], store.threads["cached", size] = threads[::2], threads[1::2]
        await each(contender.create_thread, threads)
        await _save(contender, store, size, samples.states[size])
    if long:
        [thread] = store.threads["long", SMALL] = make_threads(rng, 1)
        await contender.create_thread(thread)
        if contender.offers("save_state"):
            await contender.save_state(thread, samples.states[SMALL][0])
        await contender.lengthen(thread, samples.messages, LONG)
    return store


async def validate(store: Store, samples: Samples) -> None:
    """See once that everything that is offered gives back what it was given.

    Raises:
        MissingContenderError: it does not.
    """
    contender, plain, cached = store.contender, store.threads["plain", SMALL][0], store.threads["cached", SMALL][0]
    first, second = samples.states[SMALL][1:3]
    if contender.offers("save_state"):
        await contender.save_state(plain, first)
        await _expect(contender, "read_state", plain, first)
    if contender.offers("save_state_cached"):
        await contender.save_state_cached(cached, second)
        await _expect(contender, "read_state_fresh", cached, second)
    if contender.offers("last_messages"):
        await _validate_messages(contender, plain, samples.messages)
    if contender.offers("turn"):
        await contender.turn(plain, samples.messages[:2], second)
        await _expect(contender, "read_state", plain, second)
    if contender.offers("read_state_cached"):
        await contender.warm(store.threads["cached", SMALL])
        await _expect(contender, "read_state_cached", cached, await contender.read_state_fresh(cached))


async def _validate_messages(contender: Contender, thread: Thread, messages: Sequence[dict[str, Any]]) -> None:
    wanted = list(messages[:2])
    if contender.offers("append_message"):
        for message in wanted:
            await contender.append_message(thread, message)
        _compare(contender, "append_message", _last(await contender.last_messages(thread), 2), wanted)
    if contender.offers("append_messages"):
        wanted = list(messages[:60])
        await contender.append_messages(thread, wanted)
        found = _last(await contender.last_messages(thread), 50)
        if contender.keeps_order:
            _compare(contender, "append_messages", found, wanted[-len(found) :])
        else:
            _compare(contender, "append_messages", [one for one in found if one not in wanted], [])


def _last(items: Sequence[Any], count: int) -> list[Any]:
    return [getattr(item, "message", item) for item in items[-count:]]


async def _expect(contender: Contender, method: str, thread: Thread, wanted: Any) -> None:
    if contender.offers(method):
        _compare(contender, method, await getattr(contender, method)(thread), wanted)


def _compare(contender: Contender, method: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise MissingContenderError(f"{contender.name}: {method} does not give back what was written")


async def _save(contender: Contender, store: Store, size: str, states: Sequence[Any]) -> None:
    for kind, method in (("plain", "save_state"), ("cached", "save_state_cached")):
        if contender.offers(method):
            save = partial(getattr(contender, method), state=states[0])
            await each(save, store.threads[kind, size])
    if contender.offers("read_state_cached"):
        await contender.warm(store.threads["cached", size])


async def each(work: Callable[[Thread], Awaitable[Any]], threads: Iterable[Thread]) -> None:
    """Do something with each thread, with sixteen of them at once."""
    waiting = iter(threads)

    async def worker() -> None:
        for thread in waiting:
            await work(thread)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
