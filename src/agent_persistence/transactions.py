"""Units of work: opened, committed, and done again where that helps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from agent_persistence.cache import CachedStates, StateCache
from agent_persistence.driver_errors import DRIVER_ERRORS, sqlstate_of, translate, translated
from agent_persistence.errors import (
    ClosedError,
    CommitUnknown,
    PersistenceError,
    StatementTimeout,
    UnavailableError,
)
from agent_persistence.home import Home
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models
from agent_persistence.records import ANY_USER, AnyUser, StateRecord
from agent_persistence.repositories import Limits, MessageRepository, Scope, StateRepository, ThreadRepository
from agent_persistence.repositories.commit_hooks import Watch
from agent_persistence.repositories.identity import identity_of
from agent_persistence.repositories.proofs import Proof, proof_of, was_committed
from agent_persistence.repositories.sharing import is_shared, share
from agent_persistence.repositories.watched_sessions import WatchedSession, watch_session
from agent_persistence.retries import Retries
from agent_persistence.settings import QUARANTINE_SECONDS
from agent_persistence.shielding import start, to_the_end
from agent_persistence.unit_of_work import UnitOfWork

T = TypeVar("T")

LONGEST_IDLE: Final = QUARANTINE_SECONDS - 2
"""Seconds after which a transaction that idles before its COMMIT is ended: before its quarantine ends."""

_READ_ONLY_SERVER: Final = "25006"


class Transactions(Generic[IdT, UserIdT]):
    """Opens units of work on one engine.

    Args:
        longest_transaction: seconds after which the server ends a transaction, or one that idles.
        limits_idling: whether the engine's connections end transactions that idle, before the cache's quarantine ends.
        retry_seconds: for how long one piece of work is tried again.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        models: Models[IdT, UserIdT],
        limits: Limits[IdT],
        cache: StateCache | None,
        *,
        longest_transaction: float,
        limits_idling: bool,
        retry_seconds: float,
    ) -> None:
        self._engine = engine
        self._models = models
        self._limits = limits
        self._cache = cache
        self._longest_transaction = longest_transaction
        self._limits_idling = limits_idling
        self.home = Home()
        self._operations: set[asyncio.Task[Any]] = set()
        self._retries = Retries(retry_seconds, before_again=self._before_again)
        # Closed is closed: a unit of work that is used after its end raises, and does not lose what it writes then.
        options: dict[str, Any] = {"expire_on_commit": False, "close_resets_only": False}
        self.sessions = async_sessionmaker(engine, sync_session_class=WatchedSession, **options)
        # One statement needs no transaction around it: that is one round trip instead of three. Naming its owner does.
        alone = {} if limits.row_level_security else {"isolation_level": "AUTOCOMMIT"}
        self.single_reads = async_sessionmaker(engine.execution_options(**alone), **options)

    async def ready(self) -> None:
        """Be where this store belongs, and let the cache know which database it is for; asked once."""
        self.home.check()
        if self._cache is not None and not self._cache.is_named:
            async with _closed_quietly(self.single_reads()) as session:
                identity = await identity_of(self._scope(session, ANY_USER))
            if identity is not None and not self._cache.is_named:
                self._cache.name(identity)

    @asynccontextmanager
    async def begin(self, *, user_id: UserIdT | AnyUser) -> AsyncIterator[UnitOfWork[IdT, UserIdT]]:
        """Open a unit of work; commit it at the end of the block."""
        await self.ready()
        async with _closed_quietly(self.sessions()) as session:
            yield self._join(session, user_id)
            await self._commit(session)

    async def write(self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser) -> T:
        """Run work in a unit of its own, as often as it takes; to its end, even if the caller is cancelled."""

        async def attempt() -> T:
            async with self.begin(user_id=user_id) as uow:
                return await work(uow)

        return await self._to_the_end(attempt)

    async def run(self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser) -> T:
        """Run work of the host's, like ``write``."""

        async def attempt() -> T:
            started, took = time.monotonic(), 0.0
            try:
                async with self.begin(user_id=user_id) as uow:
                    try:
                        with translated():
                            return await work(uow)
                    finally:
                        took = time.monotonic() - started
            except UnavailableError as error:
                if took < self._longest_transaction:
                    raise
                # The server closes a connection that idles without a word, and would do so the next time as well.
                raise StatementTimeout("the transaction was open for longer than its time limits allow") from error

        return await self._to_the_end(attempt)

    async def read(self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser) -> T:
        """Run one of our own operations that only reads, by one statement."""

        async def attempt() -> T:
            await self.ready()
            async with _closed_quietly(self.single_reads()) as session:
                return await work(self._unit_of_work(session, user_id))

        return await self._to_the_end(attempt)

    async def maintain(self, work: Callable[[Scope[IdT, UserIdT]], Awaitable[T]]) -> T:
        """Run work on everybody's rows, in a transaction of its own; it must be safe to do it twice."""

        async def attempt() -> T:
            await self.ready()
            async with _closed_quietly(self.sessions()) as session:
                result = await work(self._scope(session, ANY_USER))
                await self._commit(session)
            return result

        return await self._to_the_end(attempt)

    def join(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> UnitOfWork[IdT, UserIdT]:
        """Make a unit of work in a session of the host's."""
        self.home.check_open()
        share(session.sync_session)
        return self._join(session, user_id)

    async def aclose(self, timeout_seconds: float) -> None:
        """Let nothing begin any more, wait for what is under way, and end what takes too long."""
        self.home.close()
        if self._operations:
            await asyncio.wait(self._operations, timeout=timeout_seconds)
        for operation in self._operations:
            operation.cancel()
        await asyncio.gather(*self._operations, return_exceptions=True)

    def _join(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> UnitOfWork[IdT, UserIdT]:
        if self._cache is not None:
            own = session.get_bind(self._models.Thread).engine.pool is self._engine.sync_engine.pool
            idle_limit = None if own and self._limits_idling else LONGEST_IDLE
            rls = self._limits.row_level_security
            watch_session(session.sync_session, Watch(self._cache, self._models, idle_limit, rls))
        return self._unit_of_work(session, user_id)

    async def _to_the_end(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make attempts, and let the one that is under way go on when the caller is cancelled; no other begins then.

        A caller who has given up may have asked for something else meanwhile, which a late attempt would undo.
        """
        is_wanted = True
        task = start(self._retries.run(attempt, is_wanted=lambda: is_wanted))
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            is_wanted = False
            if task.cancelled():
                raise ClosedError from None  # by aclose, and not by the caller
            raise

    def _unit_of_work(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> UnitOfWork[IdT, UserIdT]:
        scope = self._scope(session, user_id)
        return UnitOfWork(
            threads=ThreadRepository(scope),
            messages=MessageRepository(scope),
            states=CachedStates(scope, self._cache if self._shares_rows(session) else None, self._read_latest_state),
            _session=session,
        )

    def _scope(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> Scope[IdT, UserIdT]:
        if user_id is not ANY_USER:
            user_id = self._models.id_types.user.validate(user_id, "user_id")
        return Scope(session, self._models, user_id, self._limits)

    def _shares_rows(self, session: AsyncSession) -> bool:
        """Whether what the cache holds is what this session would read.

        It is not for another database, and not for a session joined to a transaction of its connection, which may hold
        uncommitted states that the session itself knows nothing of.
        """
        bind, own = session.get_bind(self._models.Thread), self._engine.sync_engine
        if not isinstance(bind, Engine) or "schema_translate_map" in bind.get_execution_options():
            return False
        return bind.pool is own.pool or bind.url == own.url

    async def _read_latest_state(self, thread_id: IdT, user_id: UserIdT) -> StateRecord[IdT] | None:
        async with _closed_quietly(self.single_reads()) as session:
            return await StateRepository(self._scope(session, user_id)).get(thread_id)

    async def _commit(self, session: AsyncSession) -> None:
        proof, shared = proof_of(session.sync_session), is_shared(session.sync_session)
        if shared:
            with translated():
                await session.flush()  # the host's objects, apart from COMMIT: what fails here was certainly undone
        try:
            await session.commit()
        except DRIVER_ERRORS as error:
            failure = translate(error, committing=True)
            if not isinstance(failure, CommitUnknown):
                raise failure from error
            committed = await self._settle(proof) if proof else None if shared else False
            if committed is None:
                raise failure from error
            if not committed:
                raise UnavailableError("the connection closed before COMMIT took effect; try again") from error

    async def _settle(self, proof: Proof) -> bool | None:
        """Ask the database what became of a transaction; ``None`` if it stays away, or cannot tell."""

        async def ask() -> bool | None:
            async with _closed_quietly(self.single_reads()) as session:
                return await was_committed(proof, self._scope(session, ANY_USER).execute)

        try:
            return await self._retries.run(ask, waits_for_pool=True)
        except PersistenceError:
            return None

    async def _before_again(self, error: PersistenceError) -> None:
        if sqlstate_of(error) == _READ_ONLY_SERVER:
            await self._engine.dispose()  # its connections lead to a server that is no longer the primary


@asynccontextmanager
async def _closed_quietly(session: AsyncSession) -> AsyncIterator[AsyncSession]:
    """Close a session at the end of the block, and let no error of that take the place of the block's own.

    What was not committed goes with its connection: that a ROLLBACK did not arrive is not worth an error.
    """
    try:
        yield session
    finally:
        with suppress(*DRIVER_ERRORS):
            await to_the_end(session.close())
