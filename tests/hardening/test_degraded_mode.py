"""During an outage agents continue in memory; states are written afterwards, or handed back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from hardening.hardening_servers import NEVER_ARRIVED, REPLY_LOST, LossyProxy, Store, migrated_settings
from torture.servers import PostgreSQL

from agent_persistence import (
    Checkpoint,
    CommitUnknownError,
    InvalidInputError,
    StateConflictError,
    ThreadExistsError,
    UnavailableError,
    UnsavedStatesError,
)
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.degraded import DegradedCheckpointer, DegradedMode
from agent_persistence.degraded import mode as degraded_mode
from agent_persistence.testing import CheckpointerContract

FAST = {
    "retry_deadline": 0.2,
    "lock_timeout": 0.2,
    "pool_timeout": 1.0,
    "thread_touch_interval": 0,
    "checkpointer_cleanup_timeout": 0.5,
}


class World:
    """A store whose connection to the database can be cut, and another one that always has it."""

    def __init__(self, store: Store, beside: Store, proxy: LossyProxy) -> None:
        self.store, self.beside, self.proxy = store, beside, proxy

    async def saved(self, thread_id: str, user_id: str) -> list[Any]:
        """Return the states in the database, the oldest first."""
        return [state.data for state in await self.beside.states.page(thread_id, user_id=user_id)][::-1]


@pytest_asyncio.fixture(scope="module")
async def world(postgresql: PostgreSQL) -> AsyncIterator[World]:
    settings = await migrated_settings(postgresql, **FAST)
    async with LossyProxy(postgresql) as proxy:
        url = settings.database_url.get_secret_value().replace(f":{postgresql.port}/", f":{proxy.port}/")
        values = settings.model_dump(exclude_unset=True)
        behind_proxy = type(settings)(_env_file=None, **values | {"database_url": url})
        async with Store(behind_proxy) as store, Store(settings) as beside:
            yield World(store, beside, proxy)


@pytest_asyncio.fixture(scope="module")
async def namespaces(postgresql: PostgreSQL) -> AsyncIterator[dict[str, DegradedMode]]:
    """A database and a degraded mode for each namespace."""
    async with AsyncExitStack() as opened:
        modes = {}
        for namespace in ("contract-a", "contract-b"):
            store = await opened.enter_async_context(
                Store(await migrated_settings(postgresql, thread_touch_interval=0))
            )
            modes[namespace] = await opened.enter_async_context(DegradedMode(store))
        yield modes


@pytest_asyncio.fixture
async def mode(world: World) -> AsyncIterator[DegradedMode]:
    async with DegradedMode(world.store, check_seconds=0.05) as mode:
        yield mode
        await world.proxy.come_back()
        mode.forget_unsaved()


@pytest.fixture
def ada(mode: DegradedMode, user_id: str) -> DegradedCheckpointer:
    return mode.checkpointer(user_id)


class TestWithTheDatabase(CheckpointerContract):
    """While the database is up, the degraded checkpointer keeps the contract."""

    backend = DegradedCheckpointer

    @pytest.fixture
    def open_checkpointer(self, namespaces: dict[str, DegradedMode]) -> Any:
        async def open_checkpointer(user_id: str, *, namespace: str = "contract-a") -> DegradedCheckpointer:
            return namespaces[namespace].checkpointer(user_id)

        return open_checkpointer


async def test_an_agent_continues_during_an_outage_and_the_database_has_all_states_afterwards(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    thread_id = f"t-{user_id}"
    assert (await ada.save_state(thread_id, {"step": 1})).durable
    world.proxy.go_away()

    with caplog.at_level(logging.WARNING, "agent_persistence"):
        known = await ada.load_state(thread_id)
        assert known is not None
        assert (known.state, known.durable) == ({"step": 1}, False)
        told = [await ada.save_state(thread_id, {"step": step}) for step in (2, 3)]
        begun = await ada.save_state(f"{thread_id}-new", "hello")
        assert [one.durable for one in (*told, begun)] == [False] * 3
        assert await ada.load_state(thread_id) == told[1]
        assert await ada.load_state(thread_id, version=told[0].version) == told[0]
        assert mode.is_on
        assert mode.pending == 3

        await world.proxy.come_back()
        await mode.until_over()

    assert not mode.is_on
    assert mode.pending == 0
    assert await world.saved(thread_id, user_id) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert await world.saved(f"{thread_id}-new", user_id) == ["hello"]
    assert (await ada.save_state(thread_id, {"step": 4})).durable
    levels = [record.levelname for record in caplog.records if "DEGRADED MODE" in record.message]
    assert levels == ["ERROR", "WARNING"]


async def test_a_provisional_version_can_be_expected_and_loaded_after_the_outage(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str
) -> None:
    thread_id = f"t-{user_id}"
    first = await ada.save_state(thread_id, 1, expected_version=0)
    world.proxy.go_away()

    second = await ada.save_state(thread_id, 2, expected_version=first.version)
    third = await ada.save_state(thread_id, 3, expected_version=second.version)
    for passed in (first, second):
        with pytest.raises(StateConflictError):
            await ada.save_state(thread_id, "late", expected_version=passed.version)
    await world.proxy.come_back()
    await mode.until_over()

    assert await world.saved(thread_id, user_id) == [1, 2, 3]
    loaded = await ada.load_state(thread_id, version=second.version)
    assert loaded is not None
    assert (loaded.state, loaded.durable) == (2, True)
    assert (await ada.save_state(thread_id, 4, expected_version=third.version)).durable
    with pytest.raises(StateConflictError):
        await ada.save_state(thread_id, "late", expected_version=third.version)


async def test_a_provisional_version_of_an_ended_process_is_refused(
    world: World, ada: DegradedCheckpointer, user_id: str
) -> None:
    thread_id = f"t-{user_id}"
    world.proxy.go_away()
    async with DegradedMode(world.store) as former:
        made_up = await former.checkpointer(user_id).save_state(thread_id, 1)
        await world.proxy.come_back()
    world.proxy.go_away()

    for one in (thread_id, f"{thread_id}-other"):
        with pytest.raises(StateConflictError):
            await ada.save_state(one, 2, expected_version=made_up.version)


async def test_states_that_another_process_overtook_are_set_aside_and_logged(
    world: World, user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    mode = DegradedMode(world.store, check_seconds=0.05)
    ada, thread_id = mode.checkpointer(user_id), f"t-{user_id}"
    first = await ada.save_state(thread_id, "first")
    world.proxy.go_away()
    kept = await ada.save_state(thread_id, "kept", expected_version=first.version)
    after = await ada.save_state(thread_id, "after it", expected_version=kept.version)
    other = await ada.save_state(f"{thread_id}-other", "of another thread")
    await world.beside.states.put(thread_id, "faster", user_id=user_id)

    with caplog.at_level(logging.CRITICAL, "agent_persistence"):
        await world.proxy.come_back()
        await mode.until_over()

    assert [(one.user_id, one.checkpoint, type(one.reason)) for one in mode.unsaved] == [
        (user_id, kept, StateConflictError),
        (user_id, after, StateConflictError),
    ]
    told = [record.levelname for record in caplog.records if record.levelno > logging.INFO]  # retries are INFO
    assert told == ["ERROR", "CRITICAL"]
    assert await world.saved(thread_id, user_id) == ["first", "faster"]
    assert await world.saved(f"{thread_id}-other", user_id) == [other.state]
    world.proxy.go_away()
    with pytest.raises(UnavailableError):  # it is known to be further on
        await ada.load_state(thread_id)
    await world.proxy.come_back()
    with pytest.raises(UnsavedStatesError) as caught:
        await mode.aclose()
    assert caught.value.states == mode.unsaved
    assert "kept" not in str(caught.value)


async def test_states_of_a_thread_that_turns_out_to_be_another_owners_are_set_aside(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str
) -> None:
    thread_id = f"t-{user_id}"
    await world.beside.threads.create(user_id="somebody else", thread_id=thread_id)
    world.proxy.go_away()
    await ada.save_state(thread_id, "mine")

    await world.proxy.come_back()
    await mode.until_over()

    assert [type(one.reason) for one in mode.unsaved] == [ThreadExistsError]


async def test_closing_during_the_outage_raises_with_the_waiting_states(world: World, user_id: str) -> None:
    mode = DegradedMode(world.store, check_seconds=0.05)
    ada = mode.checkpointer(user_id)
    world.proxy.go_away()
    told = [await ada.save_state(f"t-{user_id}", number) for number in range(3)]

    with pytest.raises(UnsavedStatesError) as caught:
        await mode.aclose()

    assert [(one.user_id, one.checkpoint, one.reason) for one in caught.value.states] == [
        (user_id, one, None) for one in told
    ]
    with pytest.raises(UnavailableError):
        await ada.save_state(f"t-{user_id}", "later")
    await world.proxy.come_back()


async def test_closing_writes_waiting_states_without_waiting_for_the_next_check(world: World, user_id: str) -> None:
    mode = DegradedMode(world.store, check_seconds=3_600)
    world.proxy.go_away()
    await mode.checkpointer(user_id).save_state(f"t-{user_id}", "hello")
    await asyncio.sleep(0)
    await world.proxy.come_back()

    await mode.aclose()

    assert await world.saved(f"t-{user_id}", user_id) == ["hello"]


async def test_states_beyond_the_limit_of_memory_are_refused_as_without_degraded_mode(
    world: World, user_id: str
) -> None:
    async with DegradedMode(world.store, most_bytes=100, check_seconds=0.05) as mode:
        ada = mode.checkpointer(user_id)
        world.proxy.go_away()
        await ada.save_state(f"t-{user_id}", "x" * 80)
        with pytest.raises(UnavailableError):
            await ada.save_state(f"t-{user_id}", "x" * 80)
        await world.proxy.come_back()
        await mode.until_over()
        await ada.save_state(f"t-{user_id}", "y" * 200)

    assert await world.saved(f"t-{user_id}", user_id) == ["x" * 80, "y" * 200]


async def test_a_state_in_doubt_beyond_the_limit_of_memory_is_not_said_to_be_unsaved(
    world: World, user_id: str
) -> None:
    async with DegradedMode(world.store, most_bytes=100, check_seconds=0.05) as mode:
        async with world.proxy.losing_a_commit(REPLY_LOST, of=b"in doubt", then_away=True):
            with pytest.raises(CommitUnknownError):
                await mode.checkpointer(user_id).save_state(f"t-{user_id}", "in doubt" * 20)
        assert mode.pending == 0
        await world.proxy.come_back()


async def test_a_database_that_answers_that_it_cannot_tell_is_not_taken_to_be_down(
    mode: DegradedMode, ada: DegradedCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: Any, **__: Any) -> Checkpoint:
        raise CommitUnknownError("states of the thread were deleted meanwhile")

    monkeypatch.setattr(PostgreSQLCheckpointer, "save_state", answer)

    with pytest.raises(CommitUnknownError, match="deleted meanwhile"):
        await ada.save_state("t", "in doubt")

    assert not mode.is_on


async def test_a_long_outage_is_logged_again_with_the_number_of_waiting_states(
    world: World,
    mode: DegradedMode,
    ada: DegradedCheckpointer,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(degraded_mode, "_REMIND", 0.0)
    world.proxy.go_away()
    await ada.save_state(f"t-{user_id}", "waits")

    async with asyncio.timeout(10):
        while "DEGRADED MODE for 0 s: 1 states are in memory only" not in caplog.text:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)
    await world.proxy.come_back()
    await mode.until_over()


async def test_nothing_is_accepted_that_the_database_would_refuse(
    world: World, ada: DegradedCheckpointer, user_id: str
) -> None:
    world.proxy.go_away()
    await ada.save_state(f"t-{user_id}", "fine")

    for thread_id, state, arguments in (
        ("", "x", {}),
        (["t"], "x", {}),
        ("t", float("nan"), {}),
        ("t", "x" * 30_000_000, {}),
        ("t", "x", {"expected_version": -1}),
        ("t", "x", {"ttl": 60}),
    ):
        with pytest.raises(InvalidInputError):
            await ada.save_state(thread_id, state, **arguments)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InvalidInputError):
        await ada.load_state(["t"])  # type: ignore[arg-type]  # on purpose


async def test_an_unknown_thread_is_an_error_and_not_an_absent_one(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str
) -> None:
    await ada.save_state(f"t-{user_id}", "known")
    world.proxy.go_away()

    with pytest.raises(UnavailableError):
        await ada.load_state(f"t-{user_id}-unknown")
    assert mode.is_on
    with pytest.raises(UnavailableError):
        await ada.load_state(f"t-{user_id}", version=1)
    await ada.save_state(f"t-{user_id}", "waits")
    for call in (ada.delete_thread, ada.state_history):
        with pytest.raises(UnavailableError, match="wait"):
            await call(f"t-{user_id}")


async def test_a_cached_state_is_read_from_redis_during_the_outage(world: World, servers: Any, user_id: str) -> None:
    values = world.store.settings.model_dump(exclude_unset=True) | {"redis_url": servers.redis_url}
    async with Store(type(world.store.settings)(_env_file=None, **values)) as store, DegradedMode(store) as mode:
        thread = await store.threads.create(user_id=user_id)
        await store.states.put(thread.thread_id, "of another process", user_id=user_id)
        assert await store.states.get(thread.thread_id, user_id=user_id) is not None
        world.proxy.go_away()

        found = await mode.checkpointer(user_id).load_state(thread.thread_id)
    await world.proxy.come_back()

    assert found is not None
    assert (found.state, found.durable) == ("of another process", True)


async def test_a_deleted_thread_is_not_remembered(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str
) -> None:
    thread_ids = [f"t-{user_id}-{number}" for number in range(2)]
    for thread_id in thread_ids:
        await ada.save_state(thread_id, "old")
    assert await ada.delete_thread(thread_ids[0])
    await world.beside.threads.delete(thread_ids[1], user_id=user_id)
    assert await ada.load_state(thread_ids[1]) is None
    world.proxy.go_away()
    await ada.save_state(f"t-{user_id}-2", "begins it")
    assert mode.is_on

    for thread_id in thread_ids:
        with pytest.raises(UnavailableError):
            await ada.load_state(thread_id)


async def test_a_thread_whose_deletion_failed_is_not_remembered_either(
    world: World, ada: DegradedCheckpointer, user_id: str
) -> None:
    await ada.save_state(f"t-{user_id}", "old")
    world.proxy.go_away()

    with pytest.raises(UnavailableError):
        await ada.delete_thread(f"t-{user_id}")
    with pytest.raises(UnavailableError):
        await ada.load_state(f"t-{user_id}")


async def test_a_lost_reply_during_the_recovery_saves_no_state_twice(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str
) -> None:
    thread_id = f"t-{user_id}"
    first = await ada.save_state(thread_id, "first")
    world.proxy.go_away()
    told: list[Checkpoint] = [await ada.save_state(thread_id, "second", expected_version=first.version)]
    told.append(await ada.save_state(thread_id, "third", expected_version=told[0].version))

    async with world.proxy.losing_a_commit(REPLY_LOST, then_away=True):
        await world.proxy.come_back()
        async with asyncio.timeout(30):
            while not any(state.in_doubt for state in mode._outage.journal):  # noqa: ASYNC110, SLF001 - no event tells of it
                await asyncio.sleep(0.01)
    await world.proxy.come_back()
    await mode.until_over()

    assert await world.saved(thread_id, user_id) == ["first", "second", "third"]
    assert mode.unsaved == ()


@pytest.mark.parametrize("fate", [REPLY_LOST, NEVER_ARRIVED])
async def test_a_save_that_an_outage_leaves_in_doubt_is_kept_and_is_saved_once(
    world: World, ada: DegradedCheckpointer, mode: DegradedMode, user_id: str, fate: str
) -> None:
    thread_id = f"t-{user_id}"
    await ada.save_state(thread_id, "first")

    async with world.proxy.losing_a_commit(fate, of=b"in doubt", then_away=True):
        told = await ada.save_state(thread_id, "in doubt")
    await world.proxy.come_back()
    await mode.until_over()

    assert not told.durable
    assert await world.saved(thread_id, user_id) == ["first", "in doubt"]


@pytest.mark.parametrize("is_let_go", [True, False])
async def test_the_recovery_waits_for_a_lock_but_not_without_limit(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str, *, is_let_go: bool
) -> None:
    thread_id = f"t-{user_id}"
    await ada.save_state(thread_id, "first")
    world.proxy.go_away()
    second = await ada.save_state(thread_id, "second")
    await ada.save_state(f"{thread_id}-other", "behind it")

    async with world.beside.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, "by the owner of the lock")
        await world.proxy.come_back()
        if not is_let_go:
            await mode.until_over()
        async with asyncio.timeout(30):
            while mode.is_on and not _has_timed_out(mode):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
    await mode.until_over()

    saved, unsaved = (["second"], []) if is_let_go else ([], [second])
    assert [one.checkpoint for one in mode.unsaved] == unsaved
    assert await world.saved(thread_id, user_id) == ["first", "by the owner of the lock", *saved]
    assert await world.saved(f"{thread_id}-other", user_id) == ["behind it"]


async def test_a_locked_thread_holds_up_no_other_thread_and_keeps_its_own_order(
    world: World, mode: DegradedMode, ada: DegradedCheckpointer, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_persistence.degraded.mode._MOST_TIMEOUTS", 1000)  # a slow machine does not set it aside
    thread_id = f"t-{user_id}"
    others = [f"{thread_id}-{number}" for number in range(20)]
    await ada.save_state(thread_id, "first")
    world.proxy.go_away()
    await ada.save_state(thread_id, "second")
    for step in (1, 2):
        for other in others:
            await ada.save_state(other, step)

    async with world.beside.begin(user_id=user_id) as uow:
        await uow.messages.append(thread_id, {"role": "user", "content": "keeps the lock"})
        await world.proxy.come_back()
        async with asyncio.timeout(30):
            while mode.pending > 1 or not _has_timed_out(mode):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
        beside = [await ada.save_state(one, 3) for one in (others[0], f"{thread_id}-new")]
        behind = await ada.save_state(thread_id, "third")
        known = await ada.load_state(others[0])
        assert mode.is_on
    await mode.until_over()

    assert [one.durable for one in (*beside, behind)] == [True, True, False]
    assert known == beside[0]
    assert [await world.saved(other, user_id) for other in others] == [[1, 2, 3], *[[1, 2]] * 19]
    assert await world.saved(thread_id, user_id) == ["first", "second", "third"]
    assert mode.unsaved == ()


def _has_timed_out(mode: DegradedMode) -> bool:
    return any(state.timeouts for state in mode._outage.journal)  # noqa: SLF001 - as above
