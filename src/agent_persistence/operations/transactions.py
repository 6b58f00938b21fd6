"""Transactions: opened, committed, and repeated as a whole where a retry may help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.concurrency.batching import Alone, Batch, Batcher
from agent_persistence.concurrency.retries import Attempt, Retries
from agent_persistence.concurrency.shielding import start
from agent_persistence.concurrency.time_limit import made_at
from agent_persistence.database.driver_errors import sqlstate_of, translated
from agent_persistence.database.shared_reads import SharedReads
from agent_persistence.errors import ClosedError, PersistenceError, UnavailableError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.commit import Commit
from agent_persistence.operations.session_factory import SessionFactory
from agent_persistence.operations.state_reader import StateReader
from agent_persistence.operations.unit_of_work import Repositories, UnitOfWork
from agent_persistence.records import ANY_USER, AnyUser
from agent_persistence.repositories import EntityRepository
from agent_persistence.sessions.scope import Scope
from agent_persistence.sessions.session_scope import SessionScope, TransactionScope

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_READ_ONLY_SERVER: Final = "25006"


class Transactions(Generic[IdT, UserIdT]):
    """Runs work in transactions.

    Work runs in a task, which continues if the caller is cancelled; no further attempt starts then. A caller that was
    cancelled may have asked for something else since, which a late attempt would undo.

    Args:
        longest_transaction: seconds after which the server ends a transaction, or one that idles.
        retry_seconds: how long after a call another attempt may start.
        call_seconds: the longest time that a call of this package may take.

    Attributes:
        sessions: opens the sessions.
        commit: commits them.
        retries: the retries of this store's operations.
        state_reader: reads latest states outside of the caller's transaction.
    """

    def __init__(
        self,
        sessions: SessionFactory[IdT, UserIdT],
        *,
        longest_transaction: float,
        retry_seconds: float,
        call_seconds: float,
    ) -> None:
        self.sessions = sessions
        self.retries = Retries(
            retry_seconds,
            call_seconds=call_seconds,
            before_retry=self._before_retry,
            telemetry=sessions.telemetry,
        )
        self.commit = Commit(sessions, self.retries, longest_transaction=longest_transaction)
        self.state_reader = StateReader(sessions, self.retries)
        self._shared_reads = SharedReads(sessions.connections, self.retries, sessions.telemetry)
        self._running: set[asyncio.Task[Any]] = set()
        self._batchers: list[Batcher[Any, Any]] = [self.state_reader.batcher]

    def batcher(
        self,
        together: Callable[[Batch[ItemT]], Awaitable[Sequence[ResultT | Exception | Alone]]],
        alone: Callable[[ItemT, Alone], Awaitable[ResultT]],
        *,
        kind: str,
        turns: int = 1,
    ) -> Batcher[ItemT, ResultT]:
        """Make a batcher that ``aclose`` flushes and closes; see its class for ``kind`` and ``turns``."""
        batcher = Batcher(
            together,
            alone,
            retry_seconds=self.retries.deadline_seconds,
            call_seconds=self.retries.call_seconds,
            turns=turns,
            in_halves=True,
            kind=kind,
            telemetry=self.sessions.telemetry,
        )
        self._batchers.append(batcher)
        return batcher

    @asynccontextmanager
    async def begin(self, *, user_id: UserIdT | AnyUser) -> AsyncIterator[UnitOfWork[IdT, UserIdT]]:
        """Open a unit of work; commit it at the end of the block."""
        async with self._transaction(self.sessions.unit_of_work(user_id)) as scope:
            yield self._unit_of_work(scope)

    def join(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> UnitOfWork[IdT, UserIdT]:
        """Make a unit of work in a session of the host, which commits it."""
        return self._unit_of_work(self.sessions.join(session, user_id))

    async def run(self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser) -> T:
        """Run work in a unit of work: the host's, which may take its time, or a part of a call of ``one_call``.

        Raises:
            StatementTimeoutError: the transaction was open for longer than its limits allow.
            PersistenceError: the error of the last attempt.
        """
        is_part_of_a_call = made_at() is not None
        return await self._complete(partial(self._run_once, work, user_id), is_limited=is_part_of_a_call)

    async def write(self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser) -> T:
        """Run this package's work in a unit of work."""
        return await self._complete(partial(self._write_once, work, user_id))

    async def write_in_scope(
        self, work: Callable[[TransactionScope[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run this package's work on a scope, in a transaction."""
        return await self._complete(partial(self._write_in_scope_once, work, user_id))

    async def maintain(
        self, work: Callable[[TransactionScope[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser = ANY_USER
    ) -> T:
        """Run idempotent work on the rows of every owner or of one, in a transaction that the cache does not follow."""
        return await self._complete(partial(self._maintain_once, work, user_id))

    async def read(
        self, work: Callable[[Repositories[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run a read of this package, without a transaction around its statements."""
        return await self._complete(partial(self._read_once, work, user_id))

    async def look_up(
        self, work: Callable[[Repositories[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run a read of this package that is one compiled statement, which those of concurrent callers share."""
        if not self.sessions.groups:
            return await self.read(work, user_id=user_id)
        await self.sessions.ready()
        # No task around it: the statement runs in one of the batch, and goes on if this caller is cancelled.
        scope = self.sessions.sharing(user_id, self._shared_reads)
        return await work(Repositories(scope, self.sessions.cache, self.state_reader))

    async def read_in_scope(
        self, work: Callable[[Scope[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run a read of this package on a scope, without a transaction around its statements."""
        return await self._complete(partial(self._read_in_scope_once, work, user_id))

    async def read_entities(
        self, work: Callable[[EntityRepository[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run a read of mapped objects, which are detached afterwards."""
        return await self._complete(partial(self._read_entities_once, work, user_id))

    async def aclose(self, timeout_seconds: float) -> None:
        """Refuse new work, wait for running work until the timeout, and cancel the rest."""
        self.sessions.affinity.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for batcher in [*self._batchers, *self._shared_reads.batchers]:
                    await batcher.flush()
                if self._running:
                    await asyncio.wait(self._running)
        for batcher in [*self._batchers, *self._shared_reads.batchers]:
            await batcher.aclose()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.sessions.connections.aclose()

    async def _complete(self, attempt: Attempt[T], *, is_limited: bool = True) -> T:
        """Run attempts in a task that continues if the caller is cancelled; see the class."""
        caller = asyncio.get_running_loop().create_future()
        # A task, because cancelling a coroutine between COMMIT and its reply would leave the outcome unknown and skip
        # the cache's publish.
        task = start(self.retries.run(attempt, is_wanted=partial(_is_waiting, caller), is_limited=is_limited))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ClosedError from None  # by aclose, not by the caller
            raise
        finally:
            caller.cancel()

    async def _run_once(
        self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], user_id: UserIdT | AnyUser
    ) -> T:
        async with self.begin(user_id=user_id) as uow:
            with translated():
                return await work(uow)

    async def _write_once(
        self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], user_id: UserIdT | AnyUser
    ) -> T:
        async with self.begin(user_id=user_id) as uow:
            return await work(uow)

    async def _write_in_scope_once(
        self, work: Callable[[TransactionScope[IdT, UserIdT]], Awaitable[T]], user_id: UserIdT | AnyUser
    ) -> T:
        async with self._transaction(self.sessions.unit_of_work(user_id)) as scope:
            return await work(scope)

    async def _maintain_once(
        self, work: Callable[[TransactionScope[IdT, UserIdT]], Awaitable[T]], user_id: UserIdT | AnyUser
    ) -> T:
        # Not watched: maintenance deletes only states that are not the latest, so no cached value changes.
        async with self._transaction(self.sessions.transaction(user_id, watched=False)) as scope:
            return await work(scope)

    async def _read_once(
        self, work: Callable[[Repositories[IdT, UserIdT]], Awaitable[T]], user_id: UserIdT | AnyUser
    ) -> T:
        await self.sessions.ready()
        if self.sessions.groups:
            return await work(Repositories(self.sessions.reading(user_id), self.sessions.cache, self.state_reader))
        async with self.sessions.single_read(user_id) as scope:
            return await work(self._unit_of_work(scope))

    async def _read_in_scope_once(
        self, work: Callable[[Scope[IdT, UserIdT]], Awaitable[T]], user_id: UserIdT | AnyUser
    ) -> T:
        await self.sessions.ready()
        if self.sessions.groups:
            return await work(self.sessions.reading(user_id))
        async with self.sessions.single_read(user_id) as scope:
            return await work(scope)

    async def _read_entities_once(
        self, work: Callable[[EntityRepository[IdT, UserIdT]], Awaitable[T]], user_id: UserIdT | AnyUser
    ) -> T:
        await self.sessions.ready()
        async with self.sessions.single_read(user_id) as scope:
            return await work(EntityRepository(scope))

    @asynccontextmanager
    async def _transaction(
        self, opened: AbstractAsyncContextManager[TransactionScope[IdT, UserIdT]]
    ) -> AsyncIterator[TransactionScope[IdT, UserIdT]]:
        started, seconds_of_work = time.monotonic(), 0.0
        try:
            async with opened as scope:
                try:
                    yield scope
                finally:
                    seconds_of_work = time.monotonic() - started
                await self.commit.scope(scope)
        except UnavailableError as error:
            raise self.commit.judge(error, seconds_of_work=seconds_of_work) from error.__cause__

    def _unit_of_work(self, scope: TransactionScope[IdT, UserIdT]) -> UnitOfWork[IdT, UserIdT]:
        # A pinned connection is of the engine of the cache; a session may be of another one.
        cache = self.sessions.cache_for(scope.session) if isinstance(scope, SessionScope) else self.sessions.cache
        return UnitOfWork(scope, cache, self.state_reader)

    async def _before_retry(self, error: PersistenceError) -> None:
        # After a failover the pool's connections still lead to the old primary, which is a standby now and refuses
        # writes.
        if sqlstate_of(error) == _READ_ONLY_SERVER:
            await self.sessions.discard_connections()


def _is_waiting(caller: asyncio.Future[None]) -> bool:
    return not caller.done()
