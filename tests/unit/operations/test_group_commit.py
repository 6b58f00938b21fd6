"""What is said of items that could not be written together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from agent_persistence.concurrency.batching import ALONE, IN_DOUBT, Alone, Batch
from agent_persistence.concurrency.retries import Retries
from agent_persistence.errors import (
    CommitUnknownError,
    PersistenceError,
    StatementTimeoutError,
    ThreadNotFoundError,
    UnavailableError,
)
from agent_persistence.operations import graph_calls
from agent_persistence.operations.group_commit import GroupCommit, Written


class Connections:
    """Lends nothing that is used."""

    @asynccontextmanager
    async def use(self) -> AsyncIterator[None]:
        yield


async def nothing(*_: Any) -> None:
    pass


def lost_reply() -> UnavailableError:
    error = UnavailableError("closed")
    error.__cause__ = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    return error


async def run(*outcomes: PersistenceError | list[Any]) -> Any:
    """Write two items by statements with these outcomes, one after the other."""
    left: list[Any] = list(outcomes)

    async def write(_: Any, __: list[str]) -> Written[Any]:
        outcome = left.pop(0)
        if isinstance(outcome, PersistenceError):
            raise outcome
        return Written(outcome, None)

    connections: Any = Connections()
    retries = Retries(0.5 if left[1:] else 0, before_retry=nothing)
    commit: Any = SimpleNamespace(settle=nothing)
    together = GroupCommit(connections, retries, commit)
    return await together.run(Batch(["a", "b"], [asyncio.Future(), asyncio.Future()]), write=write, is_repeatable=bool)


@pytest.mark.parametrize(("first", "said"), [([], ALONE), ([lost_reply()], IN_DOUBT)])
async def test_items_that_are_left_are_in_doubt_once_a_reply_was_lost(
    first: list[PersistenceError], said: Alone
) -> None:
    assert await run(*first, StatementTimeoutError("too slow")) == [said, said]
    assert await run(*first, ["done", ALONE]) == ["done", said]


async def test_items_whose_reply_was_lost_for_good_are_unknown() -> None:
    with pytest.raises(CommitUnknownError):
        await run(lost_reply())


@pytest.mark.parametrize(
    ("reason", "failure", "told"),
    [
        (ALONE, UnavailableError("away"), UnavailableError),
        (IN_DOUBT, UnavailableError("away"), CommitUnknownError),
        (IN_DOUBT, StatementTimeoutError("too slow"), CommitUnknownError),
        (IN_DOUBT, ThreadNotFoundError("t"), ThreadNotFoundError),
    ],
)
async def test_a_graph_whose_batch_got_no_reply_may_be_saved_whatever_its_own_save_meets(
    reason: Alone, failure: PersistenceError, told: type[PersistenceError]
) -> None:
    async def alone() -> None:
        raise failure

    item: Any = SimpleNamespace(alone=alone)
    with pytest.raises(told) as raised:
        await graph_calls._run_alone(item, reason)  # noqa: SLF001 - the batcher calls it

    assert type(raised.value) is told
