"""The PostgreSQL backend beyond the contract: it shares its rows with ``Persistence``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_persistence import (
    CheckpointingDisabledError,
    InvalidInputError,
    Persistence,
    PersistenceSettings,
    SettingsError,
    ThreadExistsError,
)
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]


async def test_the_checkpointer_and_the_persistence_share_their_states(
    persistence: Persistence[str, str], user_id: str
) -> None:
    checkpointer = PostgreSQLCheckpointer(persistence=persistence, user_id=user_id)
    thread_id = f"t-{user_id}"

    saved = await checkpointer.save_state(thread_id, {"step": 1})
    found = await persistence.states.require(thread_id, user_id=user_id)
    assert (found.version, found.data) == (saved.version, {"step": 1})
    put = await persistence.states.put(thread_id, {"step": 2}, user_id=user_id)
    loaded = await checkpointer.load_state(thread_id)
    assert loaded is not None
    assert (loaded.version, loaded.state) == (put.version, {"step": 2})


async def test_a_thread_of_messages_is_listed_and_deleted_with_them(
    persistence: Persistence[str, str], user_id: str
) -> None:
    checkpointer = PostgreSQLCheckpointer(persistence=persistence, user_id=user_id)
    thread = await persistence.threads.create(user_id=user_id)
    await persistence.messages.append(thread.thread_id, {"role": "user", "content": "Hi"}, user_id=user_id)

    assert [one.thread_id for one in await checkpointer.list_threads()] == [thread.thread_id]
    assert await checkpointer.load_state(thread.thread_id) is None
    assert await checkpointer.delete_thread(thread.thread_id)
    assert await persistence.threads.get(thread.thread_id, user_id=user_id) is None


async def test_of_two_owners_that_create_a_thread_at_once_one_succeeds(
    persistence: Persistence[str, str], user_id: str
) -> None:
    both = [PostgreSQLCheckpointer(persistence=persistence, user_id=f"{user_id}-{n}") for n in range(2)]
    thread_id = f"t-{user_id}"

    ended = await asyncio.gather(*(one.save_state(thread_id, "mine") for one in both), return_exceptions=True)

    assert sorted(type(end).__name__ for end in ended) == ["Checkpoint", ThreadExistsError.__name__]
    found = [await one.load_state(thread_id) for one in both]
    assert [state is not None for state in found] == [not isinstance(end, ThreadExistsError) for end in ended]


async def test_ids_of_every_type_are_strings(any_persistence: Persistence[Any, Any], any_ids: Any) -> None:
    user_id, thread_id = str(any_ids.user()), str(any_ids.thread())
    checkpointer = PostgreSQLCheckpointer(persistence=any_persistence, user_id=user_id)

    saved = await checkpointer.save_state(thread_id, {})

    assert saved.thread_id == thread_id
    assert await checkpointer.load_state(thread_id) == saved
    assert [thread.thread_id for thread in await checkpointer.list_threads()] == [thread_id]


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("int", "seven"),
        ("int", "007"),
        ("int", " 7"),
        ("int", "1_000"),
        ("int", str(2**31)),
        ("uuid", "01A1FC1A-0000-7000-8000-000000000000"),
        ("uuid", "{01a1fc1a-0000-7000-8000-000000000000}"),
        ("string", ""),
    ],
)
async def test_an_id_in_an_unusual_notation_is_refused(open_store: Any, kind: str, bad: str) -> None:
    persistence = await open_store((kind, "string"))
    checkpointer = PostgreSQLCheckpointer(persistence=persistence, user_id="u")

    with pytest.raises(InvalidInputError, match="^thread_id: "):
        await checkpointer.load_state(bad)


async def test_a_persistence_that_was_given_stays_open(persistence: Persistence[str, str], user_id: str) -> None:
    async with PostgreSQLCheckpointer(persistence=persistence, user_id=user_id):
        pass

    assert (await persistence.health()).database == "up"


async def test_it_opens_a_database_by_its_address(settings_for: SettingsFor, user_id: str) -> None:
    settings = await settings_for()
    assert settings.database_url is not None

    async with PostgreSQLCheckpointer(url=settings.database_url.get_secret_value(), user_id=user_id) as checkpointer:
        saved = await checkpointer.save_state(f"t-{user_id}", 1)
        assert await checkpointer.load_state(f"t-{user_id}") == saved

    with pytest.raises(InvalidInputError, match="^persistence: "):
        PostgreSQLCheckpointer(user_id=user_id)


async def test_settings_that_postgresql_cannot_apply_are_refused(settings_for: SettingsFor, user_id: str) -> None:
    with pytest.raises(SettingsError, match="^PERSISTENCE_CHECKPOINT_TTL_SECONDS: "):
        PostgreSQLCheckpointer.from_settings(await settings_for(checkpoint_ttl_seconds=60), user_id=user_id)


async def test_states_can_be_turned_off(settings_for: SettingsFor, user_id: str) -> None:
    settings = await settings_for(enable_checkpointing=False)
    async with PostgreSQLCheckpointer.from_settings(settings, user_id=user_id) as checkpointer:
        with pytest.raises(CheckpointingDisabledError):
            await checkpointer.save_state(f"t-{user_id}", {})
        assert len(await checkpointer.list_threads()) == 0
