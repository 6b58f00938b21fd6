"""Which errors are retried, and for how long. The clock is simulated, so no test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from agent_persistence.concurrency import retries
from agent_persistence.concurrency.retries import Retries
from agent_persistence.errors import (
    CommitUnknownError,
    CorruptRowError,
    DatabaseError,
    ForkedError,
    IdempotencyConflictError,
    InvalidInputError,
    LockTimeoutError,
    NotMigratedError,
    PersistenceError,
    PoolTimeoutError,
    StateConflictError,
    StatementTimeoutError,
    ThreadNotFoundError,
    UnavailableError,
    UniqueConflictError,
    WrongLoopError,
)

DEADLINE = 15.0


class World:
    """A clock that only pauses and attempts advance, and work that raises the given errors."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []
        self.told: list[PersistenceError] = []
        self.attempts: list[float] = []
        self.errors: list[BaseException] = []
        self.seconds_of_work = 0.0

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def tell(self, error: PersistenceError) -> None:
        self.told.append(error)

    async def work(self) -> str:
        self.attempts.append(self.now - 100.0)
        self.now += self.seconds_of_work
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def run(self, errors: Sequence[BaseException], deadline_seconds: float = DEADLINE, **options: Any) -> str:
        self.errors = list(errors)
        retries = Retries(deadline_seconds, before_retry=self.tell, clock=lambda: self.now)
        return await retries.run(self.work, **options)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(retries, "asyncio", SimpleNamespace(sleep=world.sleep))
    return world


def unavailable() -> UnavailableError:
    return UnavailableError("away")


async def test_work_that_succeeds_is_done_once(world: World) -> None:
    assert await world.run([]) == "done"

    assert (len(world.attempts), world.pauses, world.told) == (1, [], [])


async def test_work_is_retried_until_it_succeeds_and_each_error_is_reported_before_the_retry(world: World) -> None:
    errors = [unavailable() for _ in range(3)]

    assert await world.run(errors) == "done"

    assert len(world.attempts) == 4
    assert world.told == errors


async def test_each_pause_is_about_twice_the_last_one_up_to_a_second(world: World) -> None:
    await world.run([unavailable() for _ in range(12)])

    longest = [min(0.02 * 2**attempt, 1.0) for attempt in range(12)]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(world.pauses, longest, strict=True))


async def test_callers_that_fail_together_do_not_retry_together(world: World) -> None:
    for _ in range(20):
        await world.run([unavailable()])

    assert len(set(world.pauses)) > 10


async def test_after_the_deadline_no_attempt_starts_and_the_last_error_is_raised(world: World) -> None:
    errors = [unavailable() for _ in range(1000)]

    with pytest.raises(UnavailableError) as caught:
        await world.run(errors)

    assert caught.value is errors[len(world.attempts) - 1]
    assert DEADLINE - 2 < world.attempts[-1] <= DEADLINE


async def test_the_time_that_attempts_take_counts(world: World) -> None:
    world.seconds_of_work = 6.0

    with pytest.raises(UnavailableError):
        await world.run([unavailable() for _ in range(1000)])

    assert len(world.attempts) == 3
    assert world.attempts[-1] <= DEADLINE


async def test_without_time_for_more_there_is_one_attempt(world: World) -> None:
    with pytest.raises(UnavailableError):
        await world.run([unavailable()], deadline_seconds=0)

    assert (len(world.attempts), world.told) == (1, [])


async def test_a_pool_timeout_is_not_retried(world: World) -> None:
    with pytest.raises(PoolTimeoutError):
        await world.run([unavailable(), PoolTimeoutError("all in use")])

    assert len(world.attempts) == 2


async def test_a_pool_timeout_is_retried_if_the_caller_wants_that(world: World) -> None:
    assert await world.run([PoolTimeoutError("all in use")] * 3, waits_for_pool=True) == "done"


async def test_abandoned_work_is_not_retried(world: World) -> None:
    with pytest.raises(UnavailableError):
        await world.run([unavailable() for _ in range(5)], is_wanted=lambda: len(world.attempts) < 3)

    assert len(world.attempts) == 3


async def test_work_abandoned_during_a_pause_is_not_retried(world: World) -> None:
    with pytest.raises(UnavailableError):
        await world.run([unavailable() for _ in range(5)], is_wanted=lambda: len(world.pauses) < 3)

    assert len(world.attempts) == 3


async def test_a_lock_timeout_is_retried_once(world: World) -> None:
    assert await world.run([LockTimeoutError("held")]) == "done"

    with pytest.raises(LockTimeoutError):
        await world.run([LockTimeoutError("held"), unavailable(), LockTimeoutError("held")])

    assert len(world.attempts) == 2 + 3


@pytest.mark.parametrize(
    "error",
    [
        StatementTimeoutError("slow"),
        CommitUnknownError("who knows"),
        DatabaseError("refused"),
        UniqueConflictError("uq"),
        StateConflictError("t", 1, 2),
        IdempotencyConflictError("t", "m"),
        ThreadNotFoundError("t"),
        InvalidInputError("name", "is bad"),
        CorruptRowError("messages", "m", "extra"),
        NotMigratedError(None, "ap0001"),
        WrongLoopError(),
        ForkedError(1),
        ValueError(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_permanent_and_ambiguous_errors_are_not_retried(world: World, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        await world.run([error])

    assert caught.value is error
    assert (len(world.attempts), world.told) == (1, [])
