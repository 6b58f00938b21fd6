"""Calls of the API, each recorded with its end."""

from __future__ import annotations

import asyncio
import itertools
import traceback
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from agent_persistence import PersistenceError
from torture.history import Recorder

T = TypeVar("T")
LONGEST_WAIT_BEFORE_CANCELLING = 0.02


class RolledBackError(Exception):
    """Raised by the workload in a unit of work, which must leave nothing."""


class Caller:
    """Makes the calls of one process.

    Attributes:
        recorder: writes its history.
        cancels: how likely a call is to be cancelled while it runs.
    """

    def __init__(self, recorder: Recorder, random: Random) -> None:
        self.recorder = recorder
        self.cancels = 0.0
        self._random = random
        self._numbers = itertools.count()

    def name(self, kind: str) -> str:
        """Return a new name, which no other process uses."""
        return f"{kind}-{self.recorder.process}-{next(self._numbers)}"

    async def call(
        self, kind: str, call: Callable[[], Awaitable[T]], describe: Callable[[T], dict[str, Any]], **arguments: Any
    ) -> T | None:
        """Record a call and its end; ``None`` unless it succeeded."""
        call_id = self.recorder.invoke(kind, **arguments)
        task = asyncio.ensure_future(call())
        if self._random.random() < self.cancels:
            await asyncio.wait([task], timeout=self._random.uniform(0, LONGEST_WAIT_BEFORE_CANCELLING))
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            self.recorder.write("return", call=call_id, outcome="cancelled")
            return None
        if error := task.exception():
            self.recorder.write("return", call=call_id, outcome="error", **describe_error(error))
            return None
        self.recorder.write("return", call=call_id, outcome="ok", **describe(task.result()))
        return task.result()


def describe_error(error: BaseException) -> dict[str, Any]:
    """The error's class, what it says about the commit, and its cause: enough to find it in the source."""
    cause = error.__cause__
    return {
        "error": type(error).__name__,
        "committed": "no" if isinstance(error, RolledBackError) else getattr(error, "committed", "unknown"),
        "text": str(error)[:300],
        "cause": "" if cause is None else f"{type(cause).__name__}: {cause}"[:300],
        **({} if isinstance(error, PersistenceError | RolledBackError) else {"at": _where(error)}),
    }


def _where(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
