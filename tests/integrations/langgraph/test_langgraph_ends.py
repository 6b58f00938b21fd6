"""Calls of a saver whose process was forked, or whose store or event loop ended meanwhile: none of them hangs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import config_of, put, values_of
from migrations.migration_testing import environment

from agent_persistence import ClosedError, Persistence, PersistenceSettings, WrongLoopError
from agent_persistence.concurrency.process_lock import ProcessLock
from agent_persistence.ids import _clock, uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.repositories.checkpoints.records import CheckpointQuery

PROGRAM = Path(__file__).with_name("forked_saver.py")


@pytest.mark.parametrize("opened_by", ["loop", "call"])
async def test_every_call_of_a_forked_child_raises_forked_error_at_once(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], tmp_path: Path, opened_by: str
) -> None:
    address = (await settings_for()).database_url
    assert address is not None
    variables = environment({"PERSISTENCE_DATABASE_URL": address.get_secret_value()})

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", PROGRAM, opened_by), cwd=tmp_path, env=variables, stdout=PIPE, stderr=PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)

    *child, parent = output.decode().splitlines()
    assert len(child) == 31, errors.decode()
    assert [line for line in child if not line.endswith(": ForkedError")] == []
    assert (parent, process.returncode) == ("parent: no error", 0)


def test_locks_that_another_thread_holds_are_free_in_a_forked_child() -> None:
    lock, is_held, may_end = ProcessLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock, _clock._lock:  # noqa: SLF001 - nothing else holds it long enough
            is_held.set()
            may_end.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    child = os.fork()
    if child == 0:
        is_free = lock.acquire(blocking=False) and _clock._lock.acquire(timeout=0)  # noqa: SLF001
        os._exit(0 if is_free else 1)
    may_end.set()
    holder.join()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Endless:
    """A read of checkpoints that waits forever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, persistence: Persistence[Any, Any]) -> None:
        self._started = threading.Semaphore(0)
        monkeypatch.setattr(persistence.checkpoints, "one", self._one)

    async def _one(self, _: CheckpointQuery, **__: Any) -> None:
        self._started.release()
        await asyncio.Event().wait()

    async def both_run(self) -> None:
        """Wait until two calls are there."""
        for _ in range(2):
            await asyncio.to_thread(self._started.acquire)


async def test_calls_that_run_when_the_saver_is_closed_raise_closed_error(
    sync_saver: PersistenceSaver, monkeypatch: pytest.MonkeyPatch, threads: Any, config: Any
) -> None:
    threads.submit(sync_saver.get_tuple, config).result()
    endless = Endless(monkeypatch, sync_saver._persistence)  # noqa: SLF001 - to stage the call
    sync_call = threads.submit(sync_saver.get_tuple, config)
    async_call = asyncio.create_task(sync_saver.aget_tuple(config))
    await endless.both_run()

    await asyncio.to_thread(sync_saver.close)

    with pytest.raises(ClosedError):
        await asyncio.wrap_future(sync_call)
    with pytest.raises(ClosedError):
        await async_call
    with pytest.raises(ClosedError):
        await asyncio.wrap_future(threads.submit(sync_saver.get_tuple, config))


def test_event_loops_one_after_another_share_a_saver(plain_settings: PersistenceSettings) -> None:
    with PersistenceSaver(Persistence(plain_settings), user_id="ada") as saver:
        config = config_of(str(uuid7()))
        asyncio.run(put(saver, config, {"n": 1}))
        found = [asyncio.run(values_of(saver, config)) for _ in range(2)]

    assert found == [{"n": 1}] * 2
    with pytest.raises(ClosedError):
        asyncio.run(values_of(saver, config))


@pytest.mark.parametrize("cancels", [True, False])
async def test_calls_into_an_event_loop_that_ends_raise(
    plain_settings: PersistenceSettings, monkeypatch: pytest.MonkeyPatch, threads: Any, cancels: bool
) -> None:
    """An event loop can be ended with or without cancelling its work, in which the futures of calls never end."""
    store, config = Persistence[Any, Any](plain_settings), config_of(str(uuid7()))
    saver = PersistenceSaver(store, user_id="ada")
    endless = Endless(monkeypatch, store)
    loop, is_running, may_end = asyncio.new_event_loop(), threading.Event(), threading.Event()

    def run() -> None:
        loop.run_until_complete(store.check())
        loop.call_soon(is_running.set)
        loop.run_forever()
        if cancels:
            for task in asyncio.all_tasks(loop):
                task.cancel()
        loop.run_until_complete(store.aclose())
        may_end.wait()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    running = threads.submit(run)
    await asyncio.to_thread(is_running.wait)
    calls = [threads.submit(saver.get_tuple, config), threads.submit(asyncio.run, values_of(saver, config))]
    await endless.both_run()
    loop.call_soon_threadsafe(loop.stop)

    for call in calls:
        with pytest.raises(ClosedError if cancels else WrongLoopError):
            await asyncio.wait_for(asyncio.wrap_future(call), 20)
    may_end.set()
    await asyncio.wrap_future(running)


async def test_a_cancelled_call_from_another_event_loop_cancels_its_work(
    persistence: Persistence[str, str], saver: PersistenceSaver, monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    ended = asyncio.Event()

    async def one(_: CheckpointQuery, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await persistence.check()
    monkeypatch.setattr(persistence.checkpoints, "one", one)

    async def cancelled() -> None:
        call = asyncio.create_task(saver.aget_tuple(config))
        await asyncio.sleep(0.05)
        call.cancel()
        await call

    with pytest.raises(asyncio.CancelledError):
        await asyncio.to_thread(asyncio.run, cancelled())
    async with asyncio.timeout(5):
        await ended.wait()
