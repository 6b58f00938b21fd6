"""The operation that the current task works for, and where its time goes."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from copy import copy
from typing import Any, Final, NamedTuple, TypeVar

from agent_persistence.telemetry.spans import Span

T = TypeVar("T")


class Called(NamedTuple):
    """A call of an operation.

    Attributes:
        name: such as ``states.put``.
        began: when, by the monotonic clock.
        thread_id: its thread; ``None`` if it has none. Shown by ``Identities`` only.
        owner: its owner. Shown by ``Identities`` only.
    """

    name: str
    began: float
    thread_id: Any
    owner: Any


class Operation:
    """A call that is measured, or work shared by several calls: a batch, or a load.

    Attributes:
        spans: its span, or those of all who share it; empty if they are not recorded.
        is_block: whether code of the host runs in it, whose operations count by themselves.
        queue: seconds in which it waited for a batch.
        connection: seconds in which it waited for a connection.
        database: seconds of statements, those of its batch included.
        cache: seconds of calls of Redis.
        attempts: how often it was tried.
        batch: how many callers the largest of its statements had.
        shared: shared work that it is part of.
        callers: of shared work, the operation of each caller, if it is measured; ``None`` if it is one itself.
        call: what was called, as a tuple that ``called`` gives its names; ``None`` for shared work.
    """

    # Of the class: most operations end with these values, and setting them takes longer than all else that is measured.
    spans: Sequence[Span] = ()
    is_block = False
    queue = connection = database = cache = 0.0
    attempts = batch = 1
    shared: tuple[Operation, ...] = ()
    callers: Sequence[Operation | None] | None = None
    call: tuple[str, float, Any, Any] | None = None

    def serve(self, caller: Operation) -> None:
        """Let another operation share this work, before it is done."""
        self.spans = [*self.spans, *caller.spans]
        self.callers = [*(self.callers or ()), caller]
        caller.shared += (self,)

    def called(self) -> Called | None:
        """Return what was called; ``None`` for shared work."""
        return None if self.call is None else Called(*self.call)

    def total(self) -> Operation:
        """Return a copy with the times of shared work: for the few operations that are shown."""
        total = copy(self)
        for work in self.shared:
            part = work.total()
            total.queue += part.queue
            total.connection += part.connection
            total.database += part.database
            total.cache += part.cache
            total.attempts = max(total.attempts, part.attempts)
            total.batch = max(total.batch, part.batch)
        return total


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


def worked_for(operation: Operation | None, work: Awaitable[T]) -> Awaitable[T]:
    """Let work, which the current task awaits, be done for an operation, if it is measured."""
    return work if operation is None else _worked_for(operation, work)


async def _worked_for(operation: Operation, work: Awaitable[T]) -> T:
    with working_for(operation):
        return await work
