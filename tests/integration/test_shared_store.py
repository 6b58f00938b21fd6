"""The store that a program shares: one for each event loop, made once, closed with the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from agent_persistence import (
    ClosedError,
    NotMigratedError,
    Persistence,
    SettingsError,
    close_shared_persistence,
    migrate,
    replaced_shared_persistence,
    shared_persistence,
)
from agent_persistence.settings import PersistenceSettings


@pytest_asyncio.fixture
async def environment(settings_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> AsyncIterator[None]:
    """Variables that name a migrated database."""
    settings = await settings_for()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSISTENCE_DATABASE_URL", settings.database_url.get_secret_value())
    yield
    await close_shared_persistence()


@pytest.mark.usefixtures("environment")
async def test_all_who_ask_at_once_get_one_open_store(user_id: str) -> None:
    stores = await asyncio.gather(*[shared_persistence() for _ in range(20)])

    assert {id(store) for store in stores} == {id(await shared_persistence())}
    assert await stores[0].threads.get("absent", user_id=user_id) is None


@pytest.mark.usefixtures("environment")
async def test_a_first_caller_who_is_cancelled_spoils_it_for_nobody() -> None:
    first = asyncio.create_task(shared_persistence())
    await asyncio.sleep(0)
    second = asyncio.create_task(shared_persistence())
    await asyncio.sleep(0)

    first.cancel()

    assert not (await second).closed
    assert await second is await shared_persistence()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("way", ["close_shared_persistence", "aclose"])
async def test_after_it_was_closed_the_next_caller_gets_another_one(way: str, user_id: str) -> None:
    first = await shared_persistence()

    await (first.aclose() if way == "aclose" else close_shared_persistence())
    second = await shared_persistence()

    with pytest.raises(ClosedError):
        await first.threads.get("absent", user_id=user_id)
    assert await second.threads.get("absent", user_id=user_id) is None


@pytest.mark.usefixtures("environment")
async def test_another_event_loop_has_a_store_of_its_own_which_closes_with_it(user_id: str) -> None:
    async def main() -> Persistence[Any, Any]:
        store = await shared_persistence()
        assert await store.threads.get("absent", user_id=user_id) is None
        return store

    mine = await shared_persistence()
    theirs = await asyncio.to_thread(asyncio.run, main())

    assert theirs is not mine
    assert (theirs.closed, mine.closed) == (True, False)
    assert theirs.engine.pool.checkedin() == 0


@pytest.mark.usefixtures("environment")
async def test_a_store_that_cannot_be_opened_is_tried_again(
    make_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await make_database()
    monkeypatch.setenv("PERSISTENCE_DATABASE_URL", url)
    failures = await asyncio.gather(shared_persistence(), shared_persistence(), return_exceptions=True)

    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=url))

    assert [type(failure) for failure in failures] == [NotMigratedError, NotMigratedError]
    assert not (await shared_persistence()).closed


@pytest.mark.usefixtures("environment")
async def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSISTENCE_DATABASE_URL")

    with pytest.raises(SettingsError, match="PERSISTENCE_DATABASE_URL"):
        await shared_persistence()


async def test_a_test_puts_its_own_store_in_its_place(persistence: Persistence[str, str]) -> None:
    with replaced_shared_persistence(persistence):
        assert await shared_persistence() is persistence

    assert not persistence.closed


async def test_to_close_what_nobody_made_does_nothing() -> None:
    await close_shared_persistence()
