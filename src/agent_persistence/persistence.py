"""``Persistence``: the store that an application opens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from agent_persistence.cache import CircuitBreaker, StateCache, make_redis
from agent_persistence.concurrency.periodic import PeriodicTasks
from agent_persistence.concurrency.shielding import drain
from agent_persistence.concurrency.time_limit import EndsBy, call_made_at
from agent_persistence.database.driver_errors import translated
from agent_persistence.database.engine import make_engine, terminator_of
from agent_persistence.embedded.addresses import ServerAddresses
from agent_persistence.errors import UnavailableError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models, build_models
from agent_persistence.operations import host_objects
from agent_persistence.operations.batched_calls import BatchedCalls
from agent_persistence.operations.cache_audit import CacheAudit, audit
from agent_persistence.operations.cache_sweep import SWEEP_SECONDS, sweep_batch
from agent_persistence.operations.observed import measured_block, observe
from agent_persistence.operations.one_call import (
    OneCallCheckpoints,
    OneCallEntities,
    OneCallItems,
    OneCallMessages,
    OneCallStates,
    OneCallThreads,
    OneCallToolResults,
)
from agent_persistence.operations.probes import NOT_READY, Health, Readiness, ReadinessProbe, examine
from agent_persistence.operations.purging import Purging
from agent_persistence.operations.run_claims import RunClaim, RunClaims
from agent_persistence.operations.session_factory import SessionFactory
from agent_persistence.operations.store_options import store_options
from agent_persistence.operations.transactions import Transactions
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import ANY_USER, AnyUser
from agent_persistence.settings import PersistenceSettings
from agent_persistence.telemetry.identities import Identities
from agent_persistence.telemetry.metrics import Metrics
from agent_persistence.telemetry.telemetry import Telemetry
from agent_persistence.telemetry.timing import Timing
from agent_persistence.validation import check_limit

T = TypeVar("T")

_MOST_AUDITED: Final = 100_000
CHECK_SECONDS: Final = 15.0
_CUT_AHEAD_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 0.5  # for a due sweep to finish


class Persistence(Generic[IdT, UserIdT]):
    """A store of threads, messages and states in PostgreSQL, with a Redis cache of latest states.

    An async context manager: it checks the schema when it is entered, and closes what it opened.

    Args:
        settings: see ``PersistenceSettings``.
        engine: an engine of the host, which is not closed; created from the settings if left out. It decides which
            database is read, written and migrated, and which states in Redis are its own: ``database_url`` serves the
            command line only.
        redis: a client of the host without ``decode_responses``, which is not closed; created from the settings if left
            out.
        models: mapped classes of the host; built from the settings if left out.

    Attributes:
        threads, messages, states, checkpoints, tool_results, items: one-call operations, each in its own transaction.
        entities: rows as objects of the mapped classes, for code that uses SQLAlchemy's ORM.
        telemetry: what exporters of metrics and spans attach to.

    Raises:
        SettingsError: the settings name no database, or other id types than the models.
        InvalidInputError: ``redis`` decodes responses, or ``redis`` or ``engine`` is of another kind.
    """

    def __init__(
        self,
        settings: PersistenceSettings,
        *,
        engine: AsyncEngine | None = None,
        redis: Redis | None = None,
        models: Models[IdT, UserIdT] | None = None,
    ) -> None:
        host_objects.refuse_other_kinds(engine, redis)
        self.settings = settings
        self.models: Models[IdT, UserIdT] = models or build_models(settings.id_types, schema=settings.db_schema)
        host_objects.refuse_other_id_types(self.models, settings)
        host_objects.refuse_other_schema(self.models, settings, engine)
        # Closed in the reverse order of opening: connections first, then the embedded servers that they lead to.
        self._closing = AsyncExitStack()
        self._servers = ServerAddresses(settings, needs_database=engine is None, needs_redis=redis is None)
        self._closing.callback(self._servers.close)
        self.telemetry = Telemetry(Identities(settings.trace_ids), slow_ms=settings.slow_operation_ms)
        self._has_started = False
        self.cache = self._make_cache(redis or self._make_redis())
        # A host's engine keeps this: its connections serve the host as well, and are not cut when this store closes.
        self._cut_connections: Callable[[], None] = lambda: None
        self._hosts_engine = engine
        self.engine = engine or self._make_engine()
        self._sessions: SessionFactory[IdT, UserIdT] = SessionFactory(
            self.engine,
            self.models,
            store_options(settings, self.telemetry, is_cached=self.cache is not None),
            self.cache,
            # Other engines get the limit from each transaction that needs it, at the price of a round trip.
            limits_idling=engine is None and not settings.pgbouncer,
            groups=settings.batching and not settings.pgbouncer,
            pins_transactions=not settings.pgbouncer,
            identifies_connections=not settings.pgbouncer,
        )
        self._readiness = ReadinessProbe(self._sessions)
        self._closing.callback(self._sessions.forget_engine)
        self._transactions = Transactions(
            self._sessions,
            longest_transaction=min(settings.transaction_timeout, settings.idle_in_transaction_timeout),
            retry_seconds=settings.retry_deadline,
            call_seconds=settings.call_seconds,
        )
        batched = BatchedCalls(self._transactions)
        self._claims = RunClaims(self._transactions)
        self._background = PeriodicTasks()
        self._purging = Purging(
            self._transactions,
            keep_last=settings.max_checkpoint_history,
            interval=settings.checkpoint_cleanup_interval,
        )
        self.threads = OneCallThreads(self._transactions, batched)
        self.messages = OneCallMessages(self._transactions, batched)
        self.states = OneCallStates(self._transactions, batched)
        self.entities = OneCallEntities(self._transactions)
        self.checkpoints = OneCallCheckpoints(self._transactions, batched)
        self.tool_results = OneCallToolResults(self._transactions, batched)
        self.items = OneCallItems(self._transactions, batched)
        if settings.sql_log_level is not None:
            logging.getLogger("sqlalchemy.engine").setLevel(settings.sql_log_level)
        if settings.metrics:
            self.measure()

    @classmethod
    def from_env(cls) -> Self:
        """Create a store from ``PERSISTENCE_*`` and ``.env``; nothing connects yet.

        The id types are known at run time only: write ``Persistence[str, int].from_env()`` for exact types.

        Raises:
            SettingsError: a variable is missing or wrong.
        """
        return cls(PersistenceSettings())

    async def __aenter__(self) -> Self:
        if self._hosts_engine is not None:
            host_objects.warn_of_another_address(self._hosts_engine, self.settings)
        try:
            if self.settings.auto_migrate:
                # Not at the top: a store that is imported and never opened does not need Alembic.
                from agent_persistence import migrate  # noqa: PLC0415

                await migrate.upgrade(self._servers.settings, engine=self._hosts_engine)
            async with self._check_limit():
                await self._check()
                await self._sessions.ready()
        except BaseException:
            await self.aclose()
            raise
        self._has_started = True
        # After the check: in a database without tables, background work would fail at every interval.
        if interval := self.settings.checkpoint_cleanup_interval:
            self._background.every(interval, self._purging.purge_in_turn, "purge of old states")
        if self.cache is not None:
            # Only an open store has a sweeper, so only there can values wait for a sweep after an outage of Redis.
            self.cache.sweep_before_trust(self.sweep)
            self._background.every(self.settings.cache_sweep_interval, self._tend_cache, "sweep of the cache's outbox")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def closed(self) -> bool:
        """Whether the store is closed or closing: it cannot be used any more."""
        return self._sessions.affinity.is_closed

    @property
    def started(self) -> bool:
        """Whether the store has opened: the schema was checked once. For a startup probe."""
        return self._has_started

    @property
    def live(self) -> bool:
        """Whether the store is open. For a liveness probe: no restart cures a database that is down.

        That the caller runs at all shows that the event loop turns.
        """
        return self._has_started and not self.closed

    async def readiness(self) -> Readiness:
        """Return whether calls succeed. For a readiness probe: it takes a second at most, however busy the store is.

        An answer of the database to any caller counts for a second, and so does the result, so frequent probes cost one
        statement a second. None of them waits for a connection of the pool.
        """
        return await self._readiness.look() if self.live else NOT_READY

    def metrics(self) -> Metrics:
        """Return a snapshot of all counters since the store was made. It asks no server, and any thread may call it.

        Durations are in it with ``PERSISTENCE_METRICS=true``, or after ``measure``.
        """
        return self.telemetry.metrics(
            self._sessions.connections.metrics(), self._sessions.recent.memory, is_cached=self.cache is not None
        )

    def measure(self) -> Timing:
        """Measure durations from now on, as ``PERSISTENCE_METRICS=true`` does from the start. Exporters call it."""
        is_new = self.telemetry.timing is None
        timing = self.telemetry.measure()
        if is_new:
            for name in ("threads", "messages", "states", "entities", "checkpoints", "tool_results", "items"):
                observe(getattr(self, name), name, timing)
        return timing

    async def check(self) -> None:
        """Check the schema of the database, in 15 seconds at most; errors name the command that fixes it.

        Raises:
            UnavailableError: the database cannot be reached.
            NotMigratedError: the schema is older than this version, or missing.
            IdTypeMismatchError: the database was created with another id type.
            InvalidIndexError: an interrupted build has left an index invalid.
        """
        self._sessions.affinity.check()
        async with self._check_limit():
            await self._check()

    async def health(self, *, timeout_seconds: float | None = None) -> Health:
        """Return which servers answer; one that does not is no error.

        A busy pool does not count: the check then opens a connection beside it.

        Args:
            timeout_seconds: how long to wait for the database; ``PERSISTENCE_CONNECT_TIMEOUT`` if left out.
        """
        self._sessions.affinity.check()
        limit = self.settings.connect_timeout if timeout_seconds is None else timeout_seconds
        return await examine(self.engine, self.cache, timeout_seconds=limit)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of its first use, to which it belongs; ``None`` before.

        Raises:
            ForkedError: this is a child process.
        """
        return self._sessions.affinity.loop

    def begin(self, *, user_id: UserIdT | AnyUser) -> AbstractAsyncContextManager[UnitOfWork[IdT, UserIdT]]:
        """Open a unit of work of one owner: committed at the end of the block, rolled back by an exception.

        Args:
            user_id: the owner, or ``ANY_USER`` for administration.

        Raises:
            InvalidInputError: ``user_id`` is not of the configured type.
            UnavailableError: the connection was lost and the work is rolled back; ``run`` would repeat it.
            CommitUnknownError: the reply to COMMIT was lost, and the database cannot tell what became of it.
            DatabaseError: a statement failed and its error was caught in the block, so nothing was saved.
        """
        work, timing = self._transactions.begin(user_id=user_id), self.telemetry.timing
        return work if timing is None else measured_block("begin", work, timing, user_id)

    async def run(self, work: Callable[[UnitOfWork[IdT, UserIdT]], Awaitable[T]], *, user_id: UserIdT | AnyUser) -> T:
        """Run a function in a unit of work and commit it once, with retries.

        If the database restarts, fails over or resolves a deadlock, the function is called again with a new unit of
        work, for up to ``PERSISTENCE_RETRY_DEADLINE`` seconds, so it should have no effects outside the database. A
        lost reply to COMMIT is settled by asking the database, so nothing is done twice. If the caller is cancelled,
        the current attempt finishes and no retry starts.

        Args:
            work: called with the unit of work.
            user_id: the owner, or ``ANY_USER`` for administration.

        Returns:
            What ``work`` returns.

        Raises:
            PersistenceError: the error of the last attempt.
            CommitUnknownError: the reply to COMMIT was lost, and the database cannot tell what became of it.
        """
        timing = self.telemetry.timing
        if timing is None:
            return await self._transactions.run(work, user_id=user_id)
        async with timing.block("run", owner=user_id):
            return await self._transactions.run(work, user_id=user_id)

    def bind(self, session: AsyncSession, *, user_id: UserIdT | AnyUser) -> UnitOfWork[IdT, UserIdT]:
        """Join a session of the host: the host commits, and the cache follows that commit.

        Args:
            session: an ``AsyncSession`` on the same database.
            user_id: the owner, or ``ANY_USER`` for administration.

        Returns:
            The repositories in the session's transaction.

        Raises:
            InvalidInputError: it is no ``AsyncSession``, is in AUTOCOMMIT, or is bound to another ``Persistence``.
            ClosedError: this store is closed.
        """
        host_objects.refuse_unfit_session(session, self.models)
        return self._transactions.join(session, user_id)

    def claim_run(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> RunClaim[IdT, UserIdT]:
        """Claim a thread for a run of an agent, for an ``async with`` block: one run at a time, across processes.

        It holds no connection and no lock: other calls may read and write the thread. Closing the store ends it; if the
        process dies, it ends after 30 seconds.

        Args:
            thread_id: the thread, which must exist.
            user_id: its owner.

        Returns:
            The claim. Its ``release`` ends it before the block ends, for a stream.

        Raises:
            ThreadNotFoundError: the owner has no such thread.
            RunInProgressError: another run has claimed the thread.
            InvalidInputError: an argument cannot be valid.
        """
        return self._claims.claim(thread_id, user_id)

    async def purge(
        self,
        *,
        keep_last: int | None = None,
        older_than: datetime | timedelta | None = None,
        user_id: UserIdT | AnyUser = ANY_USER,
        dry_run: bool = False,
    ) -> int:
        """Delete old states and checkpoints of graphs, of every thread or of one owner's; return their number.

        The latest state of a thread and the latest checkpoint of a graph are never deleted. Other checkpoints read as
        before.

        It works in small batches. A thread that is being written to is skipped, so writers do not wait. Abandoned
        streams, begun more than a day ago, are swept too, unless an owner is given; so are expired items, which count
        for nothing. An open store purges in the background every ``PERSISTENCE_CHECKPOINT_CLEANUP_INTERVAL``.

        Args:
            keep_last: how many of a thread's newest states stay, and of the newest checkpoints of each namespace of its
                graph, at least 1. If both arguments are left out, ``PERSISTENCE_MAX_CHECKPOINT_HISTORY``.
            older_than: delete only what was saved longer ago by the database's clock, or before a time with a time
                zone.
            user_id: the owner of the threads; all threads if left out.
            dry_run: delete nothing, and return the number that would be deleted.

        Raises:
            InvalidInputError: an argument cannot be valid, or ``keep_last`` and ``older_than`` are left out and the
                history is unlimited.
            UnavailableError: the database cannot be reached.
        """
        work = self._purging.count if dry_run else self._purging.purge
        return await work(keep_last=keep_last, older_than=older_than, user_id=user_id)

    async def sweep(self) -> int:
        """Deliver the cache invalidations of the outbox to Redis; return their number.

        An open store does so in the background every ``PERSISTENCE_CACHE_SWEEP_INTERVAL`` seconds, for at most 5
        seconds each time; what is left then is for the next time.
        """
        total, cache = 0, self.cache
        while cache is not None and (count := await self._transactions.maintain(partial(sweep_batch, cache=cache))):
            total += count
        return total

    async def audit_cache(self, sample: int = 1000) -> CacheAudit:
        """Compare cached states with the database; compares nothing if Redis is down or not configured.

        If a cached state is stale, this waits ``PERSISTENCE_CACHE_SWEEP_INTERVAL`` and a little more before it compares
        that state again.

        Args:
            sample: the number of states to compare, at most 100,000.

        Returns:
            The numbers of compared and of stale states.

        Raises:
            InvalidInputError: ``sample`` is out of range.
            UnavailableError: the database cannot be reached.
        """
        wanted = check_limit(sample, "sample", _MOST_AUDITED)
        if self.cache is None:
            return CacheAudit(checked=0, stale=0, stale_beyond_bound=0, unreadable=0)
        await self._sessions.ready()

        async def let_bound_pass() -> None:
            await asyncio.sleep(self.settings.cache_sweep_interval + _GRACE_SECONDS)
            await self.sweep()

        return await audit(self.cache, self._transactions, sample=wanted, let_bound_pass=let_bound_pass)

    async def aclose(self) -> None:
        """Close the store: wait for running calls, then close what it opened.

        After ``PERSISTENCE_CHECKPOINTER_CLEANUP_TIMEOUT`` seconds, running calls fail and connections are closed
        without waiting for the server, so a database that hangs does not block the caller.

        Raises:
            ForkedError: this is a child process. It closes nothing, because the connections are those of the parent.
        """
        self._sessions.affinity.check_process()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.checkpointer_cleanup_timeout
        # A timer and not a timeout around the calls: a call that hangs in the database ends with an error when its
        # connection is cut, and the steps below still run.
        # A little before the calls are cancelled: SQLAlchemy would wait two seconds for a cancelled one's server.
        cutting = loop.call_at(deadline - _CUT_AHEAD_SECONDS, self._cut_connections)
        try:
            # First the work that would begin new transactions, then running calls, then what follows their commits; the
            # cache and the connections, which all of these use, come last.
            await self._background.stop(deadline - loop.time())
            # Half of the time, if the database does not answer: the saves that run have results to lose.
            await self._claims.release((deadline - loop.time()) / 2)
            await self._transactions.aclose(deadline - loop.time())
            await drain(max(deadline - loop.time(), 0))
            if self.cache is not None:
                await self.cache.aclose()
            await self._closing.aclose()
        finally:
            cutting.cancel()

    def _check_limit(self) -> EndsBy:
        # Not that of a call: a check has a dozen statements, and a program may allow its calls less than a second.
        return EndsBy(time.monotonic() + max(CHECK_SECONDS, self.settings.call_seconds))

    async def _tend_cache(self) -> None:
        end = time.monotonic() + min(SWEEP_SECONDS, self.settings.call_seconds)
        async with EndsBy(end):
            await self._sessions.identify()
        with call_made_at(end - self.settings.call_seconds):
            await self.sweep()

    async def _check(self) -> None:
        try:
            await self._verify()
        # A pooled connection may be from before a restart of the server; the next one is new.
        except UnavailableError:
            await self._verify()

    async def _verify(self) -> None:
        from agent_persistence import migrate  # noqa: PLC0415 - see above

        with translated():
            await migrate.verify(self.engine, self.settings)
            await host_objects.refuse_unchecked_schema(self.models, self.settings, self.engine)

    def _make_engine(self) -> AsyncEngine:
        engine = make_engine(self._servers.database, self.settings, keeps_cache=self.cache is not None)
        self._cut_connections = terminator_of(engine)
        self._closing.push_async_callback(engine.dispose)
        return engine

    def _make_redis(self) -> Redis | None:
        url = self._servers.redis_url
        if url is None:
            return None
        redis = make_redis(url, timeout_seconds=self.settings.cache_timeout_ms / 1000)
        self._closing.push_async_callback(redis.aclose)
        return redis

    def _make_cache(self, redis: Redis | None) -> StateCache | None:
        if redis is None:
            return None
        settings = self.settings
        guard = CircuitBreaker(
            call_seconds=settings.cache_timeout_ms / 1000,
            budget_seconds=settings.cache_budget_ms / 1000,
            telemetry=self.telemetry,
        )
        return StateCache(redis, guard, namespace=settings.cache_namespace, ttl_seconds=settings.cache_ttl_seconds)
