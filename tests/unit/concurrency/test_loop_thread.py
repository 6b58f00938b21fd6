"""An event loop in a thread starts with the first call, serves every thread, and ends with ``stop``."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent_persistence.concurrency.loop_thread import LoopThread


async def where() -> tuple[str, asyncio.AbstractEventLoop]:
    return threading.current_thread().name, asyncio.get_running_loop()


def test_it_starts_with_the_first_work_and_ends_with_stop() -> None:
    loop = LoopThread("of a test")
    assert not loop.is_running

    (name, first), (_, second) = (loop.submit(where).result() for _ in range(2))

    assert (name, first is second, loop.is_running, loop.is_current) == ("of a test", True, True, False)
    loop.stop()
    loop.stop()
    assert first.is_closed()
    assert "of a test" not in [thread.name for thread in threading.enumerate()]


def test_it_starts_again_after_its_end() -> None:
    loop = LoopThread("of a test")
    _, first = loop.submit(where).result()
    loop.stop()

    _, second = loop.submit(where).result()

    assert first is not second
    loop.stop()


def test_stop_cancels_running_work() -> None:
    loop, started = LoopThread("of a test"), threading.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    work = loop.submit(forever)
    started.wait()
    loop.stop()

    assert work.cancelled()


def test_it_knows_its_own_thread() -> None:
    loop = LoopThread("of a test")

    async def ask() -> bool:
        return loop.is_current

    assert loop.submit(ask).result() is True
    loop.stop()


FORKS = """
import os
from agent_persistence.concurrency.loop_thread import LoopThread

async def pid():
    return os.getpid()

loop = LoopThread("of a test")
loop.submit(pid).result()
child = os.fork()
if child == 0:
    is_own = loop.submit(pid).result(timeout=10) == os.getpid()
    loop.stop()
    os._exit(0 if is_own else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), loop.submit(pid).result() == os.getpid())
loop.stop()
"""


def test_a_child_process_starts_another_thread() -> None:
    forking = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, timeout=30, check=True
    )

    assert forking.stdout.split() == ["0", "True"]


def test_an_error_reaches_the_caller() -> None:
    loop = LoopThread("of a test")

    async def fail() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.submit(fail).result()
    loop.stop()


def test_a_lifespan_that_cannot_be_entered_is_an_error_of_submit_and_is_entered_again() -> None:
    entered: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        entered.append(threading.current_thread().name)
        if len(entered) == 1:
            raise ZeroDivisionError
        yield

    loop = LoopThread("of a test", lifespan)
    with pytest.raises(ZeroDivisionError):
        loop.submit(where)
    assert not loop.is_running

    name, _ = loop.submit(where).result()

    assert entered == ["of a test", "of a test"] == [name] * 2
    loop.stop()


def test_arguments_are_passed_on() -> None:
    loop = LoopThread("of a test")

    async def pair(one: int, *, other: int) -> tuple[int, int]:
        return one, other

    assert loop.submit(pair, 1, other=2).result() == (1, 2)
    loop.stop()
