"""Threads of frameworks, which begin with their first message."""

from __future__ import annotations

import asyncio
from functools import partial

from agent_persistence.errors import ThreadExistsError, ThreadNotFoundError
from agent_persistence.integrations.shared_threads import SharedThread


async def test_a_call_that_found_no_thread_is_not_refused_because_another_has_begun_it_meanwhile() -> None:
    thread, rows, is_begun = SharedThread(), list[str](), asyncio.Event()

    async def write(row: str) -> None:
        found = bool(rows)
        if row == "late":
            await is_begun.wait()  # its answer is of before
        if not found:
            raise ThreadNotFoundError("t")
        rows.append(row)

    async def begin(row: str) -> None:
        if rows:
            raise ThreadExistsError("t")
        rows.append(row)

    async def append(row: str) -> None:
        await thread.write(partial(write, row), partial(begin, row))

    late = asyncio.create_task(append("late"))
    await asyncio.sleep(0)
    await append("first")
    is_begun.set()
    await late

    assert rows == ["first", "late"]
