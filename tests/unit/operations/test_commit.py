"""What a caller is told of a COMMIT whose reply was lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.time_limit import EndsBy, OutcomeUnknown
from agent_persistence.errors import CommitUnknownError
from agent_persistence.operations.commit import Commit
from agent_persistence.sessions.commit_evidence import CommitEvidence


class SessionsThatCloseSlowly:
    """Their connections are opened for ever, and take longer to give up than the settlement has."""

    def single_read(self, _user: object) -> Any:
        return self

    async def __aenter__(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_a_settlement_that_outlasts_the_call_leaves_the_outcome_unknown() -> None:
    sessions = cast("Any", SessionsThatCloseSlowly())
    commit = Commit(sessions, Retries(0.6, call_seconds=0.6), longest_transaction=8.0)

    async def call() -> None:
        async with EndsBy(time.monotonic() + 0.6):
            with OutcomeUnknown():
                await commit.settle(ConnectionResetError(), cast("CommitEvidence", object()), otherwise=None)

    with pytest.raises(CommitUnknownError):
        await call()
