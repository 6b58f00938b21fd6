"""Units of work: opened, committed, and done again where that helps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from agent_persistence.cache import StateCache
from agent_persistence.concurrency.affinity import Affinity
from agent_persistence.concurrency.batching import ALONE, IN_DOUBT, Alone, Batcher
from agent_persistence.concurrency.retries import Retries
from agent_persistence.concurrency.shielding import start, to_the_end
from agent_persistence.database.connections import ConnectionPins
from agent_persistence.database.driver_errors import DRIVER_ERRORS, sqlstate_of, translate, translated
from agent_persistence.encoding.recent_states import RecentStates
from agent_persistence.errors import (
    ClosedError,
    CommitUnknownError,
    ConflictError,
    NotFoundError,
    PersistenceError,
    StatementTimeoutError,
    UnavailableError,
)
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.operations.group_commit import NO_REPLY, GroupCommit
from agent_persistence.operations.group_writes import (
    has_one_kind_of_id,
    is_repeatable,
    writer_of_messages,
    writer_of_states,
)
from agent_persistence.operations.state_reader import Wanted, reader_of_latest_states
from agent_persistence.operations.unit_of_work import Repositories, UnitOfWork
from agent_persistence.records import ANY_USER, AnyUser, MessageRecord, NewThread, StateRecord
from agent_persistence.repositories import (
    CheckpointRepository,
    EntityRepository,
    MessageRepository,
    StateRepository,
    StoreOptions,
    ThreadRepository,
    ToolResultRepository,
)
from agent_persistence.repositories.maintenance.database_identity import identity_of
from agent_persistence.repositories.messages.append import MessageAppender, is_copied
from agent_persistence.repositories.messages.prepared import PreparedAppend, prepare_append
from agent_persistence.repositories.states.prepared import PreparedState, prepare_state
from agent_persistence.repositories.states.repository import save_state
from agent_persistence.repositories.states.streams import Upload, prepare_stream
from agent_persistence.repositories.threads.bulk import PreparedThread, prepare_thread
from agent_persistence.sessions.commit_evidence import CommitEvidence, evidence_of, was_committed
from agent_persistence.sessions.commit_hooks import CacheWatch
from agent_persistence.sessions.pooled_scope import PooledScope
from agent_persistence.sessions.session_scope import SessionScope
from agent_persistence.sessions.sharing import is_shared, share
from agent_persistence.sessions.watched_sessions import WatchedSession, watch_session
from agent_persistence.settings import QUARANTINE_SECONDS

T = TypeVar("T")

LONGEST_IDLE: Final = QUARANTINE_SECONDS - 2
"""Seconds after which a transaction that idles before its COMMIT is ended: before its quarantine ends."""

_WITHOUT_A_LIMIT: Final = 10
_READ_ONLY_SERVER: Final = "25006"


class Transactions(Generic[IdT, UserIdT]):
    """Opens units of work on one engine.

    Args:
        longest_transaction: seconds after which the server ends a transaction, or one that idles.
        limits_idling: whether the engine's connections end transactions that idle, before the cache's quarantine ends.
        retry_seconds: for how long one piece of work is tried again.
        groups: whether simultaneous operations share statements, and connections that are kept between them.
        wait_seconds: the longest wait for a connection.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        models: Models[IdT, UserIdT],
        limits: StoreOptions[IdT],
        cache: StateCache | None,
        *,
        longest_transaction: float,
        limits_idling: bool,
        retry_seconds: float,
        groups: bool,
        wait_seconds: float,
    ) -> None:
        self._engine = engine
        self._models = models
        self._limits = limits
        self._cache = cache
        self._longest_transaction = longest_transaction
        self._limits_idling = limits_idling
        self.home = Affinity()
        self._recent = RecentStates()
        self._operations: set[asyncio.Task[Any]] = set()
        self._retries = Retries(retry_seconds, before_again=self._before_again)
        # Closed is closed: a unit of work that is used after its end raises, and does not lose what it writes then.
        options: dict[str, Any] = {"expire_on_commit": False, "close_resets_only": False}
        self.sessions = async_sessionmaker(engine, sync_session_class=WatchedSession, **options)
        # One statement needs no transaction around it: that is one round trip instead of three. Naming its owner does.
        alone = {} if limits.row_level_security else {"isolation_level": "AUTOCOMMIT"}
        translates = "schema_translate_map" in engine.get_execution_options()
        self._groups = groups and not limits.row_level_security and not translates
        self._leases = ConnectionPins(engine, most=_leased_at_most(engine), wait_seconds=wait_seconds)
        together = GroupCommit(self._leases, models, cache, self._retries, self._settle)
        # Where the server does not end an idle transaction by itself, each writer has to ask it to.
        self._groups_states = self._groups and (cache is None or limits_idling) and not limits.max_states
        save = writer_of_states(models, limits, self._recent)
        append = writer_of_messages(models, limits.touch_interval)
        self._to_read = Batcher(
            reader_of_latest_states(self._leases, models, self._retries),
            lambda wanted, _: self._read_alone(wanted),
            in_halves=True,
        )
        self._to_save: Batcher[PreparedState[IdT], StateRecord[IdT]] = Batcher(
            lambda batch: together.run(batch, save), lambda new, _: self._save_alone(new), in_halves=True
        )
        self._to_append = Batcher(
            lambda batch: together.run(batch, append, is_repeatable=all(map(is_repeatable, batch.items))),
            self._append_alone,
            in_halves=True,
        )
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
        async with self._begin(user_id) as scope:
            yield self._unit_of_work(scope)

    @asynccontextmanager
    async def _begin(self, user_id: UserIdT | AnyUser) -> AsyncIterator[SessionScope[IdT, UserIdT]]:
        await self.ready()
        async with _closed_quietly(self.sessions()) as session:
            self._watch(session)
            yield self._scope(session, user_id)
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
                raise StatementTimeoutError("the transaction was open for longer than its time limits allow") from error

        return await self._to_the_end(attempt)

    async def read(
        self, work: Callable[[Repositories[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run one of our own operations that only reads, by one statement."""

        async def attempt() -> T:
            await self.ready()
            if self._groups:
                return await work(self._readers(user_id))
            async with _closed_quietly(self.single_reads()) as session:
                return await work(self._unit_of_work(self._scope(session, user_id)))

        return await self._to_the_end(attempt)

    async def apart(
        self, work: Callable[[SessionScope[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run one step of a longer operation of ours, like ``write``."""

        async def attempt() -> T:
            async with self._begin(user_id) as scope:
                return await work(scope)

        return await self._to_the_end(attempt)

    async def read_entities(
        self, work: Callable[[EntityRepository[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser
    ) -> T:
        """Run one of our own reads of mapped objects, which belong to no session afterwards."""

        async def attempt() -> T:
            await self.ready()
            async with _closed_quietly(self.single_reads()) as session:
                return await work(EntityRepository(self._scope(session, user_id)))

        return await self._to_the_end(attempt)

    async def latest_state(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, fresh: bool, min_version: int | None
    ) -> StateRecord[IdT] | None:
        """Return a thread's latest state, or ``None``."""
        if self._groups and user_id is not ANY_USER:  # what can fail is done again below, and is shielded there
            await self.ready()
            states = CachedStates(self._reading(user_id), self._cache, self._read_latest_state)
            return await states.get(thread_id, fresh=fresh, min_version=min_version)
        return await self.read(
            lambda found: found.states.get(thread_id, fresh=fresh, min_version=min_version), user_id=user_id
        )

    async def put_state(
        self,
        thread_id: IdT,
        data: Any,
        *,
        user_id: UserIdT | AnyUser,
        meta: Mapping[str, Any] | None,
        expected_version: int | None,
    ) -> StateRecord[IdT]:
        """Save a state as the thread's latest, together with what others save at the same time."""
        if not self._groups_states or user_id is ANY_USER or expected_version is not None:
            return await self.write(
                lambda uow: uow.states.put(thread_id, data, meta=meta, expected_version=expected_version),
                user_id=user_id,
            )
        await self.ready()
        new = prepare_state(self._reading(user_id), thread_id, data, meta)
        return await self._to_save.do(new, key=new.thread_id, weight=new.size)

    async def append(
        self, thread_id: IdT, messages: Sequence[Any], *, user_id: UserIdT | AnyUser, field: str
    ) -> tuple[MessageRecord[IdT], ...]:
        """Add messages at the end of a thread, together with what others add at the same time."""
        await self.ready()
        new = prepare_append(self._reading(user_id), thread_id, messages, field)
        if self._groups and user_id is not ANY_USER and has_one_kind_of_id(new) and not is_copied(new):
            return await self._to_append.do(new, key=new.thread_id, weight=new.size)
        return await self._append_alone(new)

    def upload(
        self,
        thread_id: IdT,
        source: AsyncIterable[bytes],
        *,
        user_id: UserIdT | AnyUser,
        meta: Mapping[str, Any] | None,
        expected_version: int | None,
    ) -> Upload[IdT]:
        """Check what is said about a state that is to be streamed in, each step in a transaction of its own."""
        new = prepare_stream(self._reading(user_id), thread_id, source, meta, expected_version)
        return Upload(partial(self.apart, user_id=user_id), new)

    def prepare_thread(self, new: NewThread[IdT], *, user_id: UserIdT | AnyUser) -> PreparedThread:
        """Check and encode a thread with all that is in it."""
        return prepare_thread(self._reading(user_id), new)

    async def maintain(self, work: Callable[[SessionScope[IdT, UserIdT]], Awaitable[T]]) -> T:
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
        self._watch(session)
        return self._unit_of_work(self._scope(session, user_id))

    async def aclose(self, timeout_seconds: float) -> None:
        """Let nothing begin any more, wait for what is under way, and end what takes too long."""
        self.home.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for batcher in self._batchers:
                    await batcher.drained()
                if self._operations:
                    await asyncio.wait(self._operations)
        for batcher in self._batchers:
            await batcher.aclose()
        for operation in self._operations:
            operation.cancel()
        await asyncio.gather(*self._operations, return_exceptions=True)
        await self._leases.aclose()

    @property
    def _batchers(self) -> tuple[Batcher[Any, Any], ...]:
        return self._to_read, self._to_save, self._to_append

    def _watch(self, session: AsyncSession) -> None:
        if self._cache is not None:
            own = session.get_bind(self._models.Thread).engine.pool is self._engine.sync_engine.pool
            idle_limit = None if own and self._limits_idling else LONGEST_IDLE
            rls = self._limits.row_level_security
            watch_session(session.sync_session, CacheWatch(self._cache, self._models, idle_limit, rls))

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

    def _unit_of_work(self, scope: SessionScope[IdT, UserIdT]) -> UnitOfWork[IdT, UserIdT]:
        session = scope.session
        return UnitOfWork(
            threads=ThreadRepository(scope),
            messages=MessageRepository(scope),
            states=CachedStates(scope, self._cache if self._shares_rows(session) else None, self._read_latest_state),
            entities=EntityRepository(scope),
            checkpoints=CheckpointRepository(scope),
            tool_results=ToolResultRepository(scope),
            _session=session,
        )

    def _reading(self, user_id: UserIdT | AnyUser) -> PooledScope[IdT, UserIdT]:
        return PooledScope(self._models, self._owner(user_id), self._limits, self._recent, self._leases)

    def _readers(self, user_id: UserIdT | AnyUser) -> Repositories[IdT, UserIdT]:
        scope = self._reading(user_id)
        states = CachedStates(scope, self._cache, self._read_latest_state)
        return Repositories(
            ThreadRepository(scope),
            MessageRepository(scope),
            states,
            CheckpointRepository(scope),
            ToolResultRepository(scope),
        )

    def _scope(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> SessionScope[IdT, UserIdT]:
        return SessionScope(self._models, self._owner(user_id), self._limits, self._recent, session)

    def _owner(self, user_id: UserIdT | AnyUser) -> UserIdT | AnyUser:
        return user_id if user_id is ANY_USER else self._models.id_types.user.validate(user_id, "user_id")

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
        if self._groups:
            return await self._to_read.do(Wanted(thread_id, user_id))
        return await self._read_alone(Wanted(thread_id, user_id))

    async def _save_alone(self, new: PreparedState[IdT]) -> StateRecord[IdT]:
        return await self.apart(lambda scope: save_state(scope, new), user_id=new.owner)

    async def _append_alone(self, new: PreparedAppend[IdT], said: Alone = ALONE) -> tuple[MessageRecord[IdT], ...]:
        async def attempt() -> tuple[MessageRecord[IdT], ...]:
            async with self._begin(new.owner) as scope:
                return tuple(await MessageAppender(scope).append(new)) if new.messages else ()

        try:
            return await self._to_the_end(attempt)
        except (NotFoundError, ConflictError):
            raise  # the database has answered
        except PersistenceError as error:
            if said is IN_DOUBT:
                raise CommitUnknownError(NO_REPLY) from error
            raise

    async def _read_alone(self, wanted: Wanted) -> StateRecord[IdT] | None:
        thread_id, user_id = wanted
        async with _closed_quietly(self.single_reads()) as session:
            return await StateRepository(self._scope(session, user_id)).get(thread_id)

    async def _commit(self, session: AsyncSession) -> None:
        proof, shared = evidence_of(session.sync_session), is_shared(session.sync_session)
        if shared:
            with translated():
                await session.flush()  # the host's objects, apart from COMMIT: what fails here was certainly undone
        try:
            await session.commit()
        except DRIVER_ERRORS as error:
            failure = translate(error, committing=True)
            if not isinstance(failure, CommitUnknownError):
                raise failure from error
            committed = await self._settle(proof) if proof else None if shared else False
            if committed is None:
                raise failure from error
            if not committed:
                raise UnavailableError("the connection closed before COMMIT took effect; try again") from error

    async def _settle(self, proof: CommitEvidence) -> bool | None:
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
            await self._leases.renew()
            await self._engine.dispose()  # its connections lead to a server that is no longer the primary


def _leased_at_most(engine: AsyncEngine) -> int:
    """As many connections as an engine keeps; the overflow is for units of work and for the host."""
    pool = engine.sync_engine.pool
    return pool.size() if isinstance(pool, QueuePool) and pool.size() else _WITHOUT_A_LIMIT


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
