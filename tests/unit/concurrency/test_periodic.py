"""Periodic tasks continue after errors, and log each series of failures once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from agent_persistence.concurrency.periodic import PeriodicTasks
from agent_persistence.errors import UnavailableError


class Work:
    """Work that raises the given errors, one a run."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors = list(errors)
        self.done = asyncio.Event()

    async def __call__(self) -> None:
        if not self._errors:
            self.done.set()
        elif error := self._errors.pop(0):
            raise error


async def repeat(work: Work) -> None:
    """Repeat the work until it has no more errors to raise, and was done once after the last of them."""
    background = PeriodicTasks()
    background.every(0.001, work, "counting")
    try:
        async with asyncio.timeout(5):
            await work.done.wait()
    finally:
        await background.stop(5)


def told(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if "counting" in record.getMessage()]


FAILED = (logging.WARNING, "counting failed and will be retried: RuntimeError")
WORKS = (logging.INFO, "counting works again")


@pytest.mark.parametrize("error", [UnavailableError("away"), RuntimeError("a bug"), TimeoutError()])
async def test_work_is_repeated_after_any_error(error: Exception) -> None:
    work = Work(error, error)

    await repeat(work)

    assert work.done.is_set()


async def test_a_series_of_failures_is_logged_when_it_starts_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="agent_persistence")
    error = RuntimeError("with what nobody may read")

    await repeat(Work(error, error, error, None, error, error, None))

    assert told(caplog) == [FAILED, WORKS, FAILED, WORKS]


async def test_work_that_succeeds_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent_persistence")

    await repeat(Work(None, None))

    assert told(caplog) == []


async def test_stop_ends_running_work() -> None:
    started, ended, background = asyncio.Event(), asyncio.Event(), PeriodicTasks()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    background.every(0.001, work, "waiting")
    await asyncio.wait_for(started.wait(), 5)
    await background.stop(5)

    assert ended.is_set()
