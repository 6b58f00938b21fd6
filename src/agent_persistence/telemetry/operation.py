"""The operation that the current task works for, and where its time goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Final

from agent_persistence.telemetry.spans import Span


@dataclass(slots=True, eq=False)
class Operation:
    """An operation, or work that is shared by several: a batch, or a load.

    Attributes:
        spans: its span, or those of all who share it; empty if they are not recorded.
        is_block: whether code of the host runs in it, whose operations count by themselves.
        queue: seconds in which it waited for a batch.
        connection: seconds in which it waited for a connection.
        database: seconds of statements, those of its batch included.
        cache: seconds of calls of Redis.
        attempts: how often it was tried.
        batch: how many callers the largest of its statements had.
    """

    spans: list[Span] = field(default_factory=list)
    is_block: bool = False
    queue: float = 0.0
    connection: float = 0.0
    database: float = 0.0
    cache: float = 0.0
    attempts: int = 1
    batch: int = 1

    def add(self, batch: Operation, waited: float = 0.0) -> None:
        """Add the times of shared work that this operation was part of, and how long it waited for it."""
        self.queue += waited
        self.connection += batch.connection
        self.database += batch.database
        self.cache += batch.cache
        self.attempts = max(self.attempts, batch.attempts)
        self.batch = max(self.batch, batch.batch)


_current: Final[ContextVar[Operation | None]] = ContextVar("agent_persistence_operation", default=None)


def current_operation() -> Operation | None:
    """Return the operation that the current task works for; ``None`` if it is not measured."""
    return _current.get()


def work_for(operation: Operation) -> Token[Operation | None]:
    """Let the current task work for an operation, until the token is reset in the same context."""
    return _current.set(operation)


@contextmanager
def working_for(operation: Operation | None) -> Iterator[None]:
    """Let the block, and tasks that it starts, work for an operation."""
    token = _current.set(operation)
    try:
        yield
    finally:
        # The end of a block of the host may run in another context: pytest does so with fixtures.
        with suppress(ValueError):
            _current.reset(token)
