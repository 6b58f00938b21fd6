"""Durations and spans of operations, statements, connections and calls of Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from agent_persistence.errors import PersistenceError
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
_REDIS: Final = {"db.system.name": "redis"}


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

    async def operation(self, name: str, work: Awaitable[T], *, thread_id: Any = None, owner: Any = None) -> T:
        """Measure an operation; one that is part of another one is not measured."""
        outer = current_operation()
        if outer is not None and not outer.is_block:
            return await work
        # No context managers here: with them, this took a third longer. It is on the way of every cache hit.
        operation, span = self._begin(name, is_block=False)
        error_type, began = "", self._clock()
        token = work_for(operation)
        try:
            return await work
        except BaseException as error:
            error_type = type_of(error)
            raise
        finally:
            seconds = self._clock() - began
            token.var.reset(token)
            self._end(name, seconds, operation, span, error_type, thread_id, owner)

    @asynccontextmanager
    async def block(self, name: str, *, owner: Any = None) -> AsyncIterator[None]:
        """Measure a block of the host, whose operations are measured, too."""
        operation, span = self._begin(name, is_block=True)
        error_type, began = "", self._clock()
        try:
            with working_for(operation):
                yield
        except BaseException as error:
            error_type = type_of(error)
            raise
        finally:
            self._end(name, self._clock() - began, operation, span, error_type, None, owner)

    async def statement(self, operation: str, collection: str, work: Awaitable[T]) -> T:
        """Measure a statement, for the operation or the batch that sent it."""
        caller, error_type, began = current_operation(), "", self._clock()
        span = self._call(f"{operation} {collection}".rstrip(), caller, _of_statement(operation, collection))
        try:
            return await work
        except BaseException as error:
            error_type = type_of(error)
            raise
        finally:
            seconds = self._clock() - began
            self._statement_histogram(StatementKey(operation, collection, error_type)).add(seconds)
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

    async def cache(self, step: str, work: Awaitable[T]) -> T:
        """Measure a call of Redis."""
        caller, error_type, began = current_operation(), "", self._clock()
        span = self._call(f"cache.{step}", caller, {**_REDIS})
        try:
            return await work
        except BaseException as error:
            error_type = type_of(error)
            raise
        finally:
            if caller is not None:
                caller.cache += self._clock() - began
            if span is not None:
                span.end(error_type)

    async def batch(
        self, counts: BatchCounts, callers: Sequence[Operation | None], arrivals: Sequence[float], work: Awaitable[T]
    ) -> T:
        """Measure a batch, and add its times to those of its callers.

        Args:
            counts: those of its kind.
            callers: the operation of each item.
            arrivals: when each item was submitted, by the monotonic clock.
            work: runs the batch.
        """
        began = self._clock()
        waits = [began - arrival for arrival in arrivals]
        for seconds in waits:
            counts.wait.add(seconds)
        spans = [span for caller in callers if caller is not None for span in caller.spans]
        batch = Operation(spans, batch=len(callers))
        token = work_for(batch)
        try:
            return await work
        finally:
            token.var.reset(token)
            for caller, seconds in zip(callers, waits, strict=True):
                if caller is not None:
                    caller.add(batch, seconds)

    def _begin(self, name: str, *, is_block: bool) -> tuple[Operation, Span | None]:
        span = None if self.tracer is None else self.tracer.operation(f"agent_persistence.{name}")
        return Operation([] if span is None else [span], is_block), span

    def _end(  # noqa: PLR0917 - keywords cost a tenth of it
        self,
        name: str,
        seconds: float,
        operation: Operation,
        span: Span | None,
        error_type: str,
        thread_id: Any,
        owner: Any,
    ) -> None:
        self._operation_histogram(OperationKey(name, error_type)).add(seconds)
        if span is not None:
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

    def _call(self, name: str, caller: Operation | None, attributes: dict[str, Attribute]) -> Span | None:
        if self.tracer is None or caller is None or not caller.spans:
            return None
        if caller.batch > 1:
            attributes["db.operation.batch.size"] = caller.batch
        return self.tracer.call(name, caller.spans, attributes)

    def _operation_histogram(self, key: OperationKey) -> Histogram:
        found = self.operations.get(key)
        if found is None:
            attributes = operation_attributes(*key)
            found = self.operations[key] = self._histograms.make(OPERATION_DURATION, SECONDS, attributes)
        return found

    def _statement_histogram(self, key: StatementKey) -> Histogram:
        found = self.statements.get(key)
        if found is None:
            attributes = statement_attributes(*key)
            found = self.statements[key] = self._histograms.make(STATEMENT_DURATION, SECONDS, attributes)
        return found


def type_of(error: BaseException) -> str:
    """Return the name of an error's class, of which there are few: those of this package, and a class of sqlstates.

    Never its text: the driver's may quote a row. An error of the host has no name here, because a host may have many.
    """
    if isinstance(error, PersistenceError) and type(error).__module__.startswith("agent_persistence."):
        return type(error).__name__
    if isinstance(error, asyncio.CancelledError):
        return "CancelledError"
    sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
    if isinstance(sqlstate, str):
        return sqlstate[:2]
    return "ConnectionError" if isinstance(error, OSError) else _OTHER


def _of_statement(operation: str, collection: str) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {
        **POSTGRESQL,
        "db.operation.name": operation,
        "db.query.summary": f"{operation} {collection}".rstrip(),
    }
    if collection:
        found["db.collection.name"] = collection
    return found
