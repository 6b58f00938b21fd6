"""Sessions and scopes on one engine, bound to one process, one event loop and one cache."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, Generic

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from agent_persistence.cache import StateCache
from agent_persistence.concurrency.affinity import Affinity
from agent_persistence.concurrency.shielding import to_the_end
from agent_persistence.database.connections import PinnedConnections
from agent_persistence.database.driver_errors import DRIVER_ERRORS
from agent_persistence.database.engine import obey_time_limits, run_or_terminate, wants_sessions
from agent_persistence.database.shared_reads import SharedReads
from agent_persistence.encoding.recent_states import RecentStates
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.records import ANY_USER, AnyUser
from agent_persistence.repositories.maintenance.database_identity import identity_behind, identity_of
from agent_persistence.sessions.commit_hooks import CacheWatch, share
from agent_persistence.sessions.orm_writes import WatchedSession, observes_sessions, watch_session
from agent_persistence.sessions.pinned_scope import PinnedScope, PinnedTransaction
from agent_persistence.sessions.pooled_scope import PooledScope
from agent_persistence.sessions.scope import StoreOptions
from agent_persistence.sessions.session_scope import Lifetime, SessionScope, TransactionScope
from agent_persistence.sessions.shared_scope import SharedScope
from agent_persistence.settings import QUARANTINE_SECONDS

logger = logging.getLogger("agent_persistence")

LONGEST_IDLE: Final = QUARANTINE_SECONDS - 2
"""Seconds after which the server ends a transaction that idles before its COMMIT: before its quarantine expires."""

_MOST_MOVES: Final = 3
"""How often a database is asked for its identity before an address that leads to several stays without a cache."""

_MOST_PINNED: Final = 10
"""How many connections are pinned where the engine's pool has no size."""


class SessionFactory(Generic[IdT, UserIdT]):
    """Opens sessions and scopes on one engine.

    Args:
        limits_idling: whether the engine's connections end idle transactions before the cache's quarantine expires.
        groups: whether concurrent operations may share statements, on connections that stay pinned between them.
        pins_transactions: whether transactions may run on pinned connections.
        identifies_connections: whether each new connection is asked which database it leads to. Behind a transaction
            pooler it could not answer for the next statement.

    Attributes:
        affinity: the process and event loop to which the sessions belong.
        connections: the pinned connections.
        groups: whether concurrent operations share statements. Not under row-level security, where each transaction
            names one owner, and not where schemas are translated, which only SQLAlchemy can do.
        recent: states that this process saved last, to compute changes against.
        telemetry: counts and measures.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        models: Models[IdT, UserIdT],
        options: StoreOptions[IdT],
        cache: StateCache | None,
        *,
        limits_idling: bool,
        groups: bool,
        pins_transactions: bool,
        identifies_connections: bool = False,
    ) -> None:
        self.engine = engine
        self.telemetry = options.telemetry
        obey_time_limits(engine)
        self.models = models
        self.options = options
        self.cache = cache
        self.limits_idling = limits_idling
        self.affinity = Affinity()
        self.recent = RecentStates(self.telemetry.counts.states)
        self.connections = PinnedConnections(
            engine,
            most=_most_pinned(engine),
            wait_seconds=options.wait_seconds,
            reply_seconds=options.reply_seconds,
            telemetry=self.telemetry,
        )
        translates = "schema_translate_map" in engine.get_execution_options()
        is_plain = not options.row_level_security and not translates
        self.groups = groups and is_plain
        self._pins_transactions = pins_transactions and is_plain
        # close_resets_only=False: a unit of work that is used after its end raises, instead of losing what it writes.
        session_options: dict[str, Any] = {"expire_on_commit": False, "close_resets_only": False}
        # Said, and not left to the default of the role or the database: a statement must see what was committed before
        # it began. Costs no round trip.
        committed = engine.execution_options(isolation_level="READ COMMITTED")
        self._sessions = async_sessionmaker(committed, sync_session_class=WatchedSession, **session_options)
        # AUTOCOMMIT: one statement without a transaction is one round trip instead of three. Setting the owner needs
        # the transaction.
        alone = committed if options.row_level_security else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._single_reads = async_sessionmaker(alone, **session_options)
        self._database: str | None = None
        self._has_moved = False
        self._naming = asyncio.Lock()
        if cache is not None and identifies_connections:
            event.listen(engine.sync_engine, "connect", self._identify_connection)

    async def ready(self) -> None:
        """Check process and event loop; on first use, name the cache after this database.

        Raises:
            MisuseError: the store is closed, or used in another process or event loop.
        """
        self.affinity.check()
        if self.cache is not None and not self.cache.is_named:
            async with self._naming:
                if not self.cache.is_named:
                    await self._name(self.cache)

    async def identify(self) -> None:
        """Ask again which database the connections lead to.

        It changes in the life of a process: the server was upgraded by pg_upgrade, a restored database got the name of
        the old one, or the address leads elsewhere. Other processes use the new database's keys then.
        """
        if self.cache is not None:
            async with self._naming:
                await self._name(self.cache)

    async def _name(self, cache: StateCache) -> None:
        for _ in range(_MOST_MOVES):
            if self._has_moved:
                # A reader that leases a key of the new database must not fill it through a connection to the old one.
                await self.discard_connections()
                self._has_moved = False
            async with self.single_read(ANY_USER) as scope:
                found = await identity_of(scope)
            self._found(found)
            if found is not None and not self._has_moved:
                cache.name(found)
                return

    def forget_engine(self) -> None:
        """Ask new connections of the engine, which may be the host's, no more."""
        if event.contains(self.engine.sync_engine, "connect", self._identify_connection):
            event.remove(self.engine.sync_engine, "connect", self._identify_connection)

    def _identify_connection(self, connection: Any, _record: Any) -> None:
        threads = self.engine.dialect.identifier_preparer.format_table(table_of(self.models.Thread))
        self._found(run_or_terminate(connection, lambda driver: identity_behind(driver, threads)))

    def _found(self, database: str | None) -> None:
        if self.cache is None or database in {None, self._database}:
            return
        if self._database is not None:
            # At once: a commit on this connection must not quarantine only keys of the old database.
            self.cache.forget_name()
            self._has_moved = True
            logger.warning(
                "the connections lead to another database than before; its states are cached apart",
                extra={"event_name": "database.changed"},
            )
        self._database = database

    @asynccontextmanager
    async def transaction(
        self, user_id: UserIdT | AnyUser, *, watched: bool = True
    ) -> AsyncIterator[SessionScope[IdT, UserIdT]]:
        """Open a session, which the caller commits.

        Args:
            watched: whether the cache follows its commits.
        """
        await self.ready()
        async with self._closed_quietly(self._sessions()) as session:
            if watched:
                self._watch(session)
            yield self._scope(session, user_id)

    def unit_of_work(self, user_id: UserIdT | AnyUser) -> AbstractAsyncContextManager[TransactionScope[IdT, UserIdT]]:
        """Open a transaction, which the caller commits: on a pinned connection where no listener is missed.

        Listeners of the engine or of all sessions want a session.
        """
        is_observed = wants_sessions(self.engine.sync_engine) or observes_sessions()
        if self._pins_transactions and not is_observed:
            return self._pinned_transaction(user_id)
        return self.transaction(user_id)

    @asynccontextmanager
    async def _pinned_transaction(self, user_id: UserIdT | AnyUser) -> AsyncIterator[PinnedScope[IdT, UserIdT]]:
        owner = self._owner(user_id)
        await self.ready()
        transaction = PinnedTransaction(self.connections, self._watched_session)
        try:
            yield PinnedScope(self.models, owner, self.options, self.recent, transaction)
        finally:
            await transaction.close()

    def _watched_session(self, connection: AsyncConnection | None) -> AsyncSession:
        session: AsyncSession = self._sessions() if connection is None else self._sessions(bind=connection)
        self._watch(session)
        return session

    @asynccontextmanager
    async def single_read(self, user_id: UserIdT | AnyUser) -> AsyncIterator[SessionScope[IdT, UserIdT]]:
        """Open a session for one statement that reads."""
        async with self._closed_quietly(self._single_reads()) as session:
            yield self._scope(session, user_id)

    def reading(self, user_id: UserIdT | AnyUser) -> PooledScope[IdT, UserIdT]:
        """Return a scope whose statements run on pinned connections."""
        return PooledScope(self.models, self._owner(user_id), self.options, self.recent, self.connections)

    def sharing(self, user_id: UserIdT | AnyUser, reads: SharedReads) -> SharedScope[IdT, UserIdT]:
        """Return a scope whose statements are shared with other callers."""
        return SharedScope(self.models, self._owner(user_id), self.options, self.recent, self.connections, reads)

    def join(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> SessionScope[IdT, UserIdT]:
        """Return a scope in a session of the host, whose commits the cache follows from now on.

        Raises:
            ClosedError: the store is closed.
            InvalidInputError: the session is bound to another ``Persistence``.
        """
        self.affinity.check_open()
        share(session.sync_session)
        self._watch(session)
        return SessionScope(self.models, self._owner(user_id), self.options, self.recent, session, Lifetime())

    def cache_for(self, session: AsyncSession) -> StateCache | None:
        """Return the cache if it holds what this session would read, else ``None``.

        It does not for another database, nor for a session that joined a transaction of its connection, which may hold
        uncommitted states that the session does not know of.
        """
        bind, own = session.get_bind(self.models.Thread), self.engine.sync_engine
        if not isinstance(bind, Engine) or "schema_translate_map" in bind.get_execution_options():
            return None
        return self.cache if bind.pool is own.pool or bind.url == own.url else None

    async def discard_connections(self) -> None:
        """Close all connections of the engine: they lead to a server that is no longer the primary."""
        await self.connections.invalidate()
        await self.engine.dispose()

    @asynccontextmanager
    async def _closed_quietly(self, session: AsyncSession) -> AsyncIterator[AsyncSession]:
        """Close a session at the end of the block without replacing the block's error.

        A ROLLBACK that does not arrive is no error: the uncommitted work ends with its connection.
        """
        try:
            yield session
        finally:
            with suppress(*DRIVER_ERRORS):
                await to_the_end(self._close(session))

    async def _close(self, session: AsyncSession) -> None:
        async with asyncio.timeout(self.options.reply_seconds):  # on an engine of the host, nothing else limits it
            await session.close()

    def _watch(self, session: AsyncSession) -> None:
        if self.cache is not None:
            own = session.get_bind(self.models.Thread).engine.pool is self.engine.sync_engine.pool
            idle_limit = None if own and self.limits_idling else LONGEST_IDLE
            rls = self.options.row_level_security
            watch_session(session.sync_session, CacheWatch(self.cache, self.models, idle_limit, rls))

    def _scope(self, session: AsyncSession, user_id: UserIdT | AnyUser) -> SessionScope[IdT, UserIdT]:
        return SessionScope(self.models, self._owner(user_id), self.options, self.recent, session)

    def _owner(self, user_id: UserIdT | AnyUser) -> UserIdT | AnyUser:
        return user_id if user_id is ANY_USER else self.models.id_types.user.validate(user_id, "user_id")


def _most_pinned(engine: AsyncEngine) -> int:
    """Return the size of the engine's pool; its overflow is left to units of work and to the host."""
    pool = engine.sync_engine.pool
    return pool.size() if isinstance(pool, QueuePool) and pool.size() else _MOST_PINNED
