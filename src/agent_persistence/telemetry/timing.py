"""Durations and spans of operations, statements, connections and calls of Redis."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from agent_persistence.errors import InvalidInputError, PersistenceError
from agent_persistence.telemetry.counts import BatchCounts
from agent_persistence.telemetry.histogram import SECONDS, Histogram, Histograms
from agent_persistence.telemetry.identities import Identities
from agent_persistence.telemetry.metrics import OperationKey, StatementKey
from agent_persistence.telemetry.names import CONNECTION_WAIT, OPERATION_DURATION, STATEMENT_DURATION
from agent_persistence.telemetry.operation import Operation, current_operation, work_for, working_for
from agent_persistence.telemetry.samples import POOL, POSTGRESQL, operation_attributes, statement_attributes
from agent_persistence.telemetry.slow_operations import SlowOperations
from agent_persistence.telemetry.spans import Attribute, Span, Tracer

T = TypeVar("T")

_OTHER: Final = "_OTHER"  # OpenTelemetry's name for errors without one
_REDIS: Final[dict[str, Attribute]] = {"db.system.name": "redis"}


class MeasuredCall(Operation):
    """A call that is measured from its beginning to the end of its block."""

    timing: Timing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.timing.end(self, "" if error is None else type_of(error))


class Timing:
    """Measures, while durations or spans are wanted. One clock a batch, one a statement, one an operation.

    Args:
        histograms: where the durations are counted.
        slow: logs operations that took long.
        identities: shows ids in spans and in the log.
        clock: a monotonic clock, in seconds.

    Attributes:
        operations: durations of operations.
        statements: durations of statements.
        wait: how long calls waited for a connection.
        tracer: begins spans; ``None`` if there are none.
    """

    def __init__(
        self,
        histograms: Histograms,
        slow: SlowOperations,
        identities: Identities,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._histograms = histograms
        self._slow = slow
        self._identities = identities
        self._clock = clock
        self.operations: dict[OperationKey, Histogram] = {}
        self.statements: dict[StatementKey, Histogram] = {}
        self.wait = histograms.make(CONNECTION_WAIT, SECONDS, POOL)
        self.tracer: Tracer | None = None

    def measured(self, name: str, call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """Return a coroutine function that measures an operation; one that is part of another one is not measured."""
        takes_thread = next(iter(inspect.signature(call).parameters), None) == "thread_id"

        @wraps(call)
        async def operation(*args: Any, **kwargs: Any) -> T:
            outer = current_operation()
            if outer is not None and not outer.is_block:
                return await call(*args, **kwargs)
            thread_id = args[0] if takes_thread and args else kwargs.get("thread_id")
            with self.begin(name, thread_id, kwargs.get("user_id")) as made:
                token = work_for(made)
                try:
                    return await call(*args, **kwargs)
                finally:
                    token.var.reset(token)

        return operation

    @asynccontextmanager
    async def block(self, name: str, *, owner: Any = None) -> AsyncIterator[None]:
        """Measure a block of the host, whose operations are measured, too."""
        with self.begin(name, None, owner) as made, working_for(made):
            made.is_block = True
            yield

    def begin(self, name: str, thread_id: Any, owner: Any) -> MeasuredCall:
        """Begin to measure an operation; ``with`` ends it."""
        made = MeasuredCall()
        made.timing = self
        if self.tracer is not None and (span := self.tracer.operation(f"agent_persistence.{name}")) is not None:
            made.spans = [span]
        made.call = name, self._clock(), thread_id, owner
        return made

    def end(self, made: Operation, error_type: str) -> None:
        """Count an operation that has ended, and show it if it has a span or was slow.

        Args:
            made: the operation.
            error_type: the ``type_of`` its error; empty if there was none.
        """
        if made.call is None:
            return
        name, began, _, _ = made.call
        seconds = self._clock() - began
        # A plain tuple finds it, too, and is made in a tenth of the time.
        key: Any = (name, error_type)
        (self.operations.get(key) or self._make_histogram(name, error_type)).add(seconds)
        if made.spans or seconds >= self._slow.limit:
            self._show(made, seconds, error_type)
        # Else it and its batch would refer to each other, and stay with the thread until a collection.
        made.shared = ()

    async def statement(self, operation: str, collection: str, work: Awaitable[T]) -> T:
        """Measure a statement, for the operation or the batch that sent it."""
        caller = current_operation()
        span = (
            None
            if self.tracer is None
            else self._call(caller, f"{operation} {collection}".rstrip(), _of_statement(operation, collection))
        )
        error_type, began = "", self._clock()
        try:
            return await work
        except BaseException as error:
            error_type = type_of(error)
            raise
        finally:
            seconds = self._clock() - began
            self._statement_histogram(operation, collection, error_type).add(seconds)
            if caller is not None:
                caller.database += seconds
            if span is not None:
                span.end(error_type)

    async def connection(self, work: Awaitable[T]) -> T:
        """Measure the wait for a connection."""
        began = self._clock()
        try:
            return await work
        finally:
            seconds = self._clock() - began
            self.wait.add(seconds)
            if (caller := current_operation()) is not None:
                caller.connection += seconds

    async def cache(self, call: Callable[[], Awaitable[T]]) -> T:
        """Measure a call of Redis."""
        caller = current_operation()
        span = None if self.tracer is None else self._call(caller, f"cache.{_name_of(call)}", {**_REDIS})
        error_type, began = "", self._clock()
        try:
            return await call()
        except BaseException as error:
            error_type = type_of(error)
            raise
        finally:
            if caller is not None:
                caller.cache += self._clock() - began
            if span is not None:
                span.end(error_type)

    def start_batch(
        self, counts: BatchCounts, callers: Sequence[Operation | None], arrivals: Sequence[float]
    ) -> Operation:
        """Let the current task, whose context is its own, work for a batch, in which its callers share.

        Args:
            counts: those of its kind.
            callers: the operation of each item.
            arrivals: when each item was submitted, by the monotonic clock.

        Returns:
            The batch, to be left by its callers when it has ended.
        """
        began, batch = self._clock(), Operation()
        batch.batch, batch.callers = len(callers), callers
        if self.tracer is not None:
            batch.spans = [span for caller in callers if caller is not None for span in caller.spans]
        waits, shared = [began - arrival for arrival in arrivals], (batch,)
        counts.wait.add_all(waits)
        for caller, waited in zip(callers, waits, strict=True):
            if caller is not None:
                caller.queue += waited
                caller.shared += shared
        work_for(batch)
        return batch

    def _show(self, operation: Operation, seconds: float, error_type: str) -> None:
        operation = operation.total()
        called = operation.called()
        if called is None:
            return
        name, _, thread_id, owner = called
        if error_type == InvalidInputError.__name__:  # they may be anything, and no ids
            thread_id = owner = None
        for span in operation.spans:
            self._describe(span, operation, thread_id)
            span.end(error_type)
        if seconds >= self._slow.limit:
            self._slow.look(name, seconds, operation, error_type, thread_id=thread_id, owner=owner)

    def _describe(self, span: Span, operation: Operation, thread_id: Any) -> None:
        shown = self._identities.thread(thread_id)
        if shown is not None:
            span.set(self._identities.thread_attribute, shown)
        for part in ("queue", "connection", "database", "cache"):
            span.set(f"agent_persistence.{part}.seconds", round(getattr(operation, part), 6))
        span.set("agent_persistence.attempts", operation.attempts)
        span.set("agent_persistence.batch.size", operation.batch)

    def _call(self, caller: Operation | None, name: str, attributes: dict[str, Attribute]) -> Span | None:
        if self.tracer is None or caller is None or not caller.spans:
            return None
        if caller.batch > 1:
            attributes["db.operation.batch.size"] = caller.batch
        return self.tracer.call(name, caller.spans, attributes)

    def _make_histogram(self, name: str, error_type: str) -> Histogram:
        key = OperationKey(name, error_type)
        made = self.operations[key] = self._histograms.make(OPERATION_DURATION, SECONDS, operation_attributes(*key))
        return made

    def _statement_histogram(self, operation: str, collection: str, error_type: str) -> Histogram:
        key: Any = (operation, collection, error_type)
        found = self.statements.get(key)
        if found is None:
            key = StatementKey(*key)
            found = self.statements[key] = self._histograms.make(
                STATEMENT_DURATION, SECONDS, statement_attributes(*key)
            )
        return found


def type_of(error: BaseException) -> str:
    """Return the name of an error's class, of which there are few: those of this package, and a class of sqlstates.

    Never its text: the driver's may quote a row. An error of the host has no name here, because a host may have many.
    """
    if isinstance(error, PersistenceError):
        # A private one, or one of the host's, by the public one that it derives from.
        return next(base.__name__ for base in type(error).__mro__ if base.__module__ == PersistenceError.__module__)
    if isinstance(error, asyncio.CancelledError):
        return "CancelledError"
    if (sqlstate := _sqlstate(error)) is not None:
        return sqlstate[:2]
    return "ConnectionError" if isinstance(error, OSError) else _OTHER


def sqlstate_behind(error: BaseException) -> str | None:
    """Return the server's code of an error or of its cause, or ``None``."""
    return _sqlstate(error) or _sqlstate(error.__cause__)


def _sqlstate(error: BaseException | None) -> str | None:
    found = getattr(getattr(error, "orig", error), "sqlstate", None)
    return found if isinstance(found, str) else None


def _name_of(call: Any) -> str:
    """Return the name of a step of the cache protocol: that of its function."""
    return str(getattr(getattr(call, "func", call), "__name__", "call"))


def _of_statement(operation: str, collection: str) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {
        **POSTGRESQL,
        "db.operation.name": operation,
        "db.query.summary": f"{operation} {collection}".rstrip(),
    }
    if collection:
        found["db.collection.name"] = collection
    return found
