"""A PostgreSQL that a test may ill-treat, and a proxy before it that can lose a COMMIT."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from torture.proxy import Proxy, is_commit
from torture.servers import PostgreSQL, stop_all

from agent_persistence import migrate
from agent_persistence.database import driver_errors, pinned_connection
from agent_persistence.database.driver_errors import translated
from agent_persistence.embedded.server_user import server_user
from agent_persistence.errors import PersistenceError
from agent_persistence.operations import commit
from agent_persistence.persistence import Persistence
from agent_persistence.sessions.commit_evidence import CommitEvidence, evidence_of, was_committed
from agent_persistence.settings import PersistenceSettings

Store = Persistence[Any, Any]

REPLY_LOST = "reply lost"
NEVER_ARRIVED = "never arrived"


@asynccontextmanager
async def own_postgresql() -> AsyncIterator[PostgreSQL]:
    folder = Path(tempfile.mkdtemp(prefix="agent-persistence-tests-"))
    server = PostgreSQL(folder, "primary", server_user())
    # What no COMMIT forces to the disk stays off it: the numbers of unfinished transactions are forgotten in a crash.
    server.options = ("-c", "wal_writer_delay=10s", "-c", "autovacuum=off")
    try:
        await server.create(standby=False)
        yield server
    finally:
        await stop_all([server], folder)


async def crash(server: PostgreSQL) -> None:
    """``pg_ctl restart -m immediate``."""
    await server.end(signal.SIGQUIT)
    server.start()
    await server.answers()


async def migrated_settings(server: PostgreSQL, **values: Any) -> PersistenceSettings:
    """Settings of a new database on this server, with its tables."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    await server.fetch(f"CREATE DATABASE {name}")
    settings = settings_of(server.port, name, **values)
    await migrate.upgrade(settings)
    return settings


def settings_of(port: int, database: str, **values: Any) -> PersistenceSettings:
    address = f"postgresql://postgres@127.0.0.1:{port}/{database}"
    patient = {"cache_timeout_ms": 2_000, "cache_budget_ms": 4_000, "cache_sweep_interval": 3_600}
    return PersistenceSettings(
        _env_file=None, **{"database_url": address, "cache_namespace": database, **patient, **values}
    )


async def ask(store: Store, proof: CommitEvidence) -> bool | None:
    """Ask a store's server what became of a transaction."""
    async with store.engine.connect() as connection:

        async def execute(statement: Any) -> Any:
            with translated():
                return await connection.execute(statement)

        return await was_committed(proof, execute)


def proven(uow: Any) -> CommitEvidence:
    """What will show that a unit of work was committed."""
    transaction = getattr(uow._transaction, "transaction", None)  # noqa: SLF001 - asking for the session would make one
    is_pinned = transaction is not None and transaction.session is None
    proof = transaction.evidence if is_pinned else evidence_of(uow.session.sync_session)
    assert proof is not None
    return proof


@contextmanager
def errors_of_the_driver(at_each: Callable[[], None] = lambda: None) -> Iterator[list[str]]:
    """Collect the names of the errors that the driver raises, whoever hides them."""
    names: list[str] = []
    translate = driver_errors.translate

    def note(error: BaseException, **options: Any) -> PersistenceError:
        adapted = getattr(error, "orig", None) or error
        names.append(type(adapted.__cause__ or adapted).__name__)
        at_each()
        return translate(error, **options)

    # Not by a listener of the engine: statements take another way where somebody listens.
    with pytest.MonkeyPatch.context() as patch:
        for module in (driver_errors, pinned_connection, commit):
            patch.setattr(module, "translate", note)
        yield names


class LossyProxy:
    """A proxy that loses one COMMIT, or the reply to it, when it is told to."""

    def __init__(self, server: PostgreSQL) -> None:
        self._proxy = Proxy(server.port, self._is_to_be_lost)
        self._fate = REPLY_LOST
        self._content: bytes | None = None
        self._then_away = False

    @property
    def port(self) -> int:
        return self._proxy.port

    async def __aenter__(self) -> LossyProxy:
        await self._proxy.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go_away()

    def go_away(self) -> None:
        """The server behind it seems to be dead."""
        self._proxy.refuse()

    async def come_back(self) -> None:
        """The server behind it seems to have started again."""
        self._proxy.refuse()
        await self._proxy.listen()

    @asynccontextmanager
    async def losing_a_commit(
        self, fate: str, *, of: bytes | None = None, then_away: bool = False
    ) -> AsyncIterator[None]:
        """The first COMMIT of the block, or the reply to it, is lost, and its connection with it; there must be one.

        Args:
            of: a statement with this text in its parameters commits by itself, and is what is lost.
            then_away: the server seems to have died of it.
        """
        self._fate, self._content, self._then_away = fate, of, then_away
        loss = asyncio.create_task(self._proxy.lose_a_reply(within_seconds=30))
        await asyncio.sleep(0)
        try:
            yield
            assert loss.done(), "no COMMIT came by"
        finally:
            loss.cancel()

    def _is_to_be_lost(self, sent: bytes) -> bool:
        is_meant = is_commit(sent) if self._content is None else self._content in sent
        if is_meant and self._fate == NEVER_ARRIVED:
            self._proxy.cut()  # what is written to a connection that was cut goes nowhere
        if is_meant and self._then_away:
            asyncio.get_running_loop().call_soon(self.go_away)
        return is_meant
