"""A store that is used where it cannot work says so, and stays usable where it can."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from connections import all_are_back
from migrations.migration_testing import environment
from units_of_work import begun, bound

from agent_persistence.errors import ClosedError, UnitOfWorkInUseError, WrongLoopError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence

Store = Persistence[str, str]
PROGRAM = Path(__file__).with_name("misused_store.py")


async def begin(store: Store, user_id: str) -> None:
    async with store.begin(user_id=user_id) as uow:
        await uow.threads.page()


async def run(store: Store, user_id: str) -> None:
    await store.run(lambda uow: uow.threads.page(), user_id=user_id)


USES: dict[str, Callable[[Store, str], Awaitable[Any]]] = {
    "a read": lambda store, user_id: store.threads.page(user_id=user_id),
    "a write": lambda store, user_id: store.threads.create(user_id=user_id),
    "begin": begin,
    "run": run,
    "purge": lambda store, _: store.purge(keep_last=1000),
    "sweep": lambda store, _: store.sweep(),
    "check": lambda store, _: store.check(),
    "health": lambda store, _: store.health(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_in_another_event_loop_every_use_says_so_and_harms_nothing(
    persistence: Store, user_id: str, use: Callable[[Store, str], Awaitable[Any]]
) -> None:
    await persistence.threads.page(user_id=user_id)

    async def use_it() -> None:
        await use(persistence, user_id)

    with pytest.raises(WrongLoopError, match="another event loop; open one in each loop"):
        await asyncio.to_thread(asyncio.run, use_it())
    await use(persistence, user_id)

    assert await all_are_back(persistence)


async def test_after_its_end_a_store_says_that_it_is_closed(
    settings_for: Callable[..., Awaitable[Any]], user_id: str
) -> None:
    store = Store(await settings_for())
    await store.threads.page(user_id=user_id)
    await store.aclose()

    for use in USES.values():
        with pytest.raises(ClosedError):
            await use(store, user_id)


async def test_what_is_still_under_way_when_the_time_to_close_is_up_ends_as_closed(
    settings_for: Callable[..., Awaitable[Any]], user_id: str
) -> None:
    store, reached = Store(await settings_for(checkpointer_cleanup_timeout=0.05)), asyncio.Event()

    async def work(uow: UnitOfWork[str, str]) -> None:
        await uow.threads.create()
        reached.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(store.run(work, user_id=user_id))
    await reached.wait()
    await store.aclose()

    with pytest.raises(ClosedError):
        await caller
    assert await all_are_back(store)


async def test_a_caller_who_is_cancelled_while_a_store_closes_is_told_so(
    settings_for: Callable[..., Awaitable[Any]], user_id: str
) -> None:
    store, reached, may_go_on = Store(await settings_for()), asyncio.Event(), asyncio.Event()

    async def work(_uow: UnitOfWork[str, str]) -> None:
        reached.set()
        await may_go_on.wait()

    caller = asyncio.create_task(store.run(work, user_id=user_id))
    await reached.wait()
    closing = asyncio.create_task(store.aclose())
    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    may_go_on.set()
    await closing


@pytest.mark.parametrize(("misuse", "expected"), [("loop", "WrongLoopError"), ("fork", "ForkedError")])
async def test_a_second_loop_and_a_forked_child_are_told_to_open_a_store_of_their_own(
    settings_for: Callable[..., Awaitable[Any]], tmp_path: Path, misuse: str, expected: str
) -> None:
    settings = await settings_for()
    address = {"PERSISTENCE_DATABASE_URL": settings.database_url.get_secret_value()}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, misuse), cwd=tmp_path, env=environment(address), stdout=PIPE, stderr=PIPE
    )
    output, errors = await process.communicate()

    assert (process.returncode, output.decode()) == (0, f"{expected}\n"), errors.decode()


@pytest.mark.parametrize("opened", [begun, bound])
async def test_of_two_tasks_in_one_unit_of_work_the_second_is_refused_and_the_first_goes_on(
    persistence: Store, user_id: str, opened: Callable[[Store, str], Any]
) -> None:
    async with opened(persistence, user_id) as uow:
        first, second = await asyncio.gather(
            uow.threads.create(name="first"), uow.threads.create(name="second"), return_exceptions=True
        )
        third = await uow.threads.create(name="third")

    assert isinstance(second, UnitOfWorkInUseError)
    assert "begin one for each task" in str(second)
    names = {thread.name for thread in await persistence.threads.page(user_id=user_id)}
    assert names == {first.name, third.name} == {"first", "third"}
