"""The primary dies, its standby is promoted: the same store writes on, and nobody is told of a loss that was none."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hardening.hardening_servers import Store, ask, proven, settings_of
from torture.servers import PostgreSQL, stop_all

from agent_persistence import migrate
from agent_persistence.cli.checkup import examine_database
from agent_persistence.cli.finding import Level
from agent_persistence.embedded.server_user import server_user
from agent_persistence.errors import UnavailableError

USER = "ada"


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[PostgreSQL, PostgreSQL]]:
    """A primary that waits for its standby at every COMMIT, and the standby."""
    folder = Path(tempfile.mkdtemp(prefix="agent-persistence-tests-"))
    user = server_user()
    primary, standby = PostgreSQL(folder, "primary", user), PostgreSQL(folder, "standby", user)
    try:
        await primary.create(standby=True)
        await standby.clone(primary)
        yield primary, standby
    finally:
        await stop_all([primary, standby], folder)


@pytest.mark.slow
async def test_after_a_promotion_the_same_store_writes_to_the_new_primary(
    pair: tuple[PostgreSQL, PostgreSQL],
) -> None:
    primary, standby = pair
    hosts = f"host=127.0.0.1,127.0.0.1&port={standby.port},{primary.port}&target_session_attrs=primary"
    settings = settings_of(primary.port, "postgres", database_url=f"postgresql://postgres@/postgres?{hosts}")
    await migrate.upgrade(settings)
    async with Store(settings) as store:
        before = await store.threads.create(user_id=USER)
        promotion = standby.fetch("SELECT pg_promote()")

        await primary.end(signal.SIGQUIT)
        await promotion
        after = await store.threads.create(user_id=USER)

        assert (await store.threads.page(user_id=USER)).items == (after, before)


@pytest.mark.slow
async def test_a_standby_does_not_say_what_became_of_a_transaction_before_it_is_promoted(
    pair: tuple[PostgreSQL, PostgreSQL],
) -> None:
    """It knows what it was sent so far: of the last commits it has not heard."""
    primary, standby = pair
    await migrate.upgrade(settings_of(primary.port, "postgres"))
    async with Store(settings_of(primary.port, "postgres")) as store, store.begin(user_id=USER) as uow:
        await uow.threads.create()
        proof = proven(uow)

    async with Store(settings_of(standby.port, "postgres")) as promoted:
        with pytest.raises(UnavailableError, match="still in progress"):
            await ask(promoted, proof)
        await primary.end(signal.SIGQUIT)
        await standby.fetch("SELECT pg_promote()")

        assert await ask(promoted, proof) is True


@pytest.mark.slow
async def test_the_doctor_names_a_standby_and_the_way_to_its_primary(pair: tuple[PostgreSQL, PostgreSQL]) -> None:
    primary, standby = pair
    await migrate.upgrade(settings_of(primary.port, "postgres"))
    settings = settings_of(standby.port, "postgres")

    async with Store(settings) as store:
        failures = [one for one in await examine_database(store.engine, settings) if one.level is Level.FAIL]

    assert [(one.subject, one.detail) for one in failures] == [("database", "this is a standby, which takes no writes")]
    assert "target_session_attrs=primary" in str(failures[0].remedy)
