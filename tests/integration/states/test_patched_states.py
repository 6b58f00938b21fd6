"""Large states, which are kept as what changed: what is written, and what happens to what they rest on."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from integration.repository_testing import SettingsFor, counted_statements, run_sql
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.util import await_only

from agent_persistence import migrate
from agent_persistence.encoding.state_patches import snapshot
from agent_persistence.errors import CorruptRowError, InvalidInputError, ThreadNotFoundError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Store = Persistence[str, str]


class UndoneError(Exception):
    """Ends a unit of work that is to be rolled back."""


def growing(steps: int) -> list[dict[str, Any]]:
    """The states of a conversation that gains a message at each step."""
    messages = [{"role": "user", "content": f"{step} " + 1000 * "x"} for step in range(steps + 10)]
    return [{"step": step, "messages": messages[: step + 10]} for step in range(steps)]


async def saved(store: Persistence[Any, Any], user_id: Any, states: list[Any]) -> tuple[Any, list[int]]:
    thread_id = (await store.threads.create(user_id=user_id)).thread_id
    return thread_id, [(await store.states.put(thread_id, state, user_id=user_id)).version for state in states]


async def kept_whole(store: Persistence[Any, Any], thread_id: Any) -> list[bool]:
    """Of each version, whether its row holds all of it."""
    rows = await run_sql(
        store, "SELECT base_id IS NULL FROM states WHERE thread_id = :id ORDER BY state_id", id=thread_id
    )
    return [row[0] for row in rows]


async def read_back(store: Persistence[Any, Any], thread_id: Any, user_id: Any) -> list[Any]:
    """Every version by the page, after each was seen to be the same by its number."""
    page = await store.states.page(thread_id, user_id=user_id, limit=1000)
    for state in page:
        assert await store.states.get_version(thread_id, state.version, user_id=user_id) == state
    latest = await store.states.require(thread_id, user_id=user_id, fresh=True)
    assert latest == page.items[0]
    return [state.data for state in reversed(page.items)]


@pytest.fixture
async def other_process(persistence: Store) -> AsyncIterator[Store]:
    """A store that remembers nothing of what the first one saved."""
    store = Store(persistence.settings)
    yield store
    await store.aclose()


async def test_a_growing_state_is_kept_as_its_changes_and_read_back_whole(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    states = growing(30)

    thread_id, _ = await saved(any_persistence, any_user, states)

    assert sum(await kept_whole(any_persistence, thread_id)) <= 3
    assert await read_back(any_persistence, thread_id, any_user) == states


async def test_the_patches_since_a_whole_state_weigh_no_more_than_it_does(persistence: Store, user_id: str) -> None:
    thread_id, _ = await saved(persistence, user_id, growing(60))

    [[whole, patches]] = await run_sql(
        persistence,
        "SELECT octet_length(w.state_data::text), (SELECT sum(octet_length(p.patch::text)) FROM states AS p "
        "WHERE p.thread_id = w.thread_id AND p.state_id > w.state_id) FROM states AS w "
        "WHERE w.thread_id = :id AND w.base_id IS NULL ORDER BY w.state_id DESC LIMIT 1",
        id=thread_id,
    )
    assert 0 < patches <= whole


async def test_a_small_state_is_kept_whole(persistence: Store, user_id: str) -> None:
    thread_id, _ = await saved(persistence, user_id, [{"step": step, "text": 7000 * "x"} for step in range(3)])

    assert await kept_whole(persistence, thread_id) == [True, True, True]


async def test_a_state_that_changed_altogether_is_kept_whole(persistence: Store, user_id: str) -> None:
    thread_id, _ = await saved(persistence, user_id, [{"text": 9000 * letter} for letter in "abc"])

    assert await kept_whole(persistence, thread_id) == [True, True, True]


@pytest.mark.parametrize("changes", [{"patch_states_from": 0}, {"max_checkpoint_history": 5}])
async def test_settings_keep_every_state_whole(
    settings_for: SettingsFor, user_id: str, changes: dict[str, int]
) -> None:
    async with Store(await settings_for(**changes)) as store:
        thread_id, _ = await saved(store, user_id, growing(4))

        assert await kept_whole(store, thread_id) == 4 * [True]


async def test_a_history_that_is_limited_later_on_stays_readable(settings_for: SettingsFor, user_id: str) -> None:
    settings = await settings_for()
    states = growing(8)
    async with Store(settings) as store:
        thread_id, _ = await saved(store, user_id, states[:6])
    async with Store(settings.model_copy(update={"max_checkpoint_history": 3})) as store:
        for state in states[6:]:
            await store.states.put(thread_id, state, user_id=user_id)

        assert await read_back(store, thread_id, user_id) == states[-3:]


async def test_what_a_process_knows_nothing_of_is_saved_whole(
    persistence: Store, other_process: Store, user_id: str
) -> None:
    states = growing(6)
    thread_id, _ = await saved(persistence, user_id, states[:2])
    await other_process.states.put(thread_id, states[2], user_id=user_id)
    for state in states[3:]:
        await persistence.states.put(thread_id, state, user_id=user_id)

    assert await kept_whole(persistence, thread_id) == [True, False, True, False, False, False]
    assert await read_back(persistence, thread_id, user_id) == states


async def test_a_state_is_kept_as_it_was_when_it_was_given(persistence: Store, user_id: str) -> None:
    thread_id, _ = await saved(persistence, user_id, growing(2))
    state = copy.deepcopy(growing(3)[2])
    await persistence.states.put(thread_id, state, user_id=user_id)
    state["messages"][0]["content"] = "changed after it was saved"
    last = {**state, "step": 4}
    await persistence.states.put(thread_id, last, user_id=user_id)

    assert await read_back(persistence, thread_id, user_id) == [*growing(3), last]


async def test_changes_are_kept_in_a_unit_of_work_as_well(persistence: Store, user_id: str) -> None:
    states = growing(6)
    thread_id, _ = await saved(persistence, user_id, states[:2])
    async with persistence.begin(user_id=user_id) as uow:
        for state in states[2:4]:
            await uow.states.put(thread_id, state)
            assert (await uow.states.require(thread_id)).data == state
    await persistence.states.put(thread_id, states[4], user_id=user_id)

    assert await kept_whole(persistence, thread_id) == [True, False, False, False, False]
    assert await read_back(persistence, thread_id, user_id) == states[:5]


async def test_what_was_rolled_back_is_no_base(persistence: Store, user_id: str) -> None:
    states = growing(4)
    thread_id, _ = await saved(persistence, user_id, states[:1])
    with suppress(UndoneError):
        async with persistence.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, states[1])
            raise UndoneError
    for state in states[2:]:
        await persistence.states.put(thread_id, state, user_id=user_id)

    assert await kept_whole(persistence, thread_id) == [True, True, False]
    assert await read_back(persistence, thread_id, user_id) == [states[0], *states[2:]]


@pytest.mark.parametrize(
    "change",
    [
        # In place, in another transaction; as a restored database might hold it; gone.
        "UPDATE states SET state_data = '{\"messages\": []}' WHERE thread_id = :id",
        "UPDATE states SET mark = mark + 1 WHERE thread_id = :id",
        "DELETE FROM states WHERE thread_id = :id",
    ],
)
async def test_a_version_that_is_not_there_as_it_was_is_no_base(persistence: Store, user_id: str, change: str) -> None:
    states = growing(3)
    thread_id, _ = await saved(persistence, user_id, states[:1])
    await run_sql(persistence, change, id=thread_id)
    for state in states[1:]:
        await persistence.states.put(thread_id, state, user_id=user_id)

    assert (await kept_whole(persistence, thread_id))[-2:] == [True, False]
    assert (await read_back(persistence, thread_id, user_id))[-2:] == states[1:]


async def test_a_version_that_its_own_transaction_changed_is_no_base(persistence: Store, user_id: str) -> None:
    states = growing(3)
    thread_id, _ = await saved(persistence, user_id, [])
    change = text("UPDATE states SET state_data = '{}' WHERE thread_id = :id")
    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, states[0])
        await uow.session.execute(change, {"id": thread_id})
    for state in states[1:]:
        await persistence.states.put(thread_id, state, user_id=user_id)

    assert await kept_whole(persistence, thread_id) == [True, True, False]
    assert await read_back(persistence, thread_id, user_id) == [{}, *states[1:]]


async def test_another_version_of_the_same_number_is_no_base(persistence: Store, user_id: str) -> None:
    states = growing(2)
    thread_id, _ = await saved(persistence, user_id, states[:1])
    recent = persistence._sessions.recent  # noqa: SLF001 - what a process remembers is nobody else's business
    remembered = recent.get(thread_id)
    assert remembered is not None
    # As if it had been lost in a failover, and its number had been given out again.
    recent.put(thread_id, remembered._replace(mark=remembered.mark ^ 1))
    await persistence.states.put(thread_id, states[1], user_id=user_id)

    assert await kept_whole(persistence, thread_id) == [True, True]


async def read_every_way(store: Store, thread_id: str, user_id: str) -> list[Any]:
    """The latest state alone, together with another one, and in a unit of work."""
    other = (await store.threads.create(user_id=user_id)).thread_id
    alone = await store.states.require(thread_id, user_id=user_id, fresh=True)
    together = await asyncio.gather(
        *(store.states.get(one, user_id=user_id, fresh=True) for one in (other, thread_id, other))
    )
    async with store.begin(user_id=user_id) as uow:
        inside = await uow.states.require(thread_id, fresh=True)
    assert together[0] is None
    assert together[2] is None
    assert together[1] == alone == inside
    return [alone.data, inside.data]


async def test_a_state_that_the_process_has_is_not_sent_again(persistence: Store, user_id: str) -> None:
    states = growing(3)
    thread_id, _ = await saved(persistence, user_id, states)
    recent = persistence._sessions.recent  # noqa: SLF001
    remembered = recent.get(thread_id)
    assert remembered is not None
    mine = snapshot({"mine": True})
    assert mine is not None
    recent.put(thread_id, remembered._replace(snapshot=mine))

    first, second = await read_every_way(persistence, thread_id, user_id)

    assert first == {"mine": True}
    assert first is not second


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE states SET meta = meta WHERE thread_id = :id",
        """UPDATE states SET state_data = '{"changed": 1}', base_id = NULL, patch = NULL """
        "WHERE thread_id = :id AND base_id IS NOT NULL",
        "DELETE FROM states WHERE thread_id = :id AND base_id IS NOT NULL",
    ],
)
async def test_a_state_whose_row_was_written_again_is_read_from_the_table(
    persistence: Store, other_process: Store, user_id: str, change: str
) -> None:
    thread_id, _ = await saved(persistence, user_id, growing(2))
    await run_sql(persistence, change, id=thread_id)

    assert await read_every_way(persistence, thread_id, user_id) == (
        await read_every_way(other_process, thread_id, user_id)
    )


async def test_a_state_that_another_process_saved_over_is_not_read_from_memory(
    persistence: Store, other_process: Store, user_id: str
) -> None:
    states = growing(3)
    thread_id, _ = await saved(persistence, user_id, states[:2])
    await other_process.states.put(thread_id, states[2], user_id=user_id)

    assert await read_every_way(persistence, thread_id, user_id) == [states[2], states[2]]


async def test_a_state_that_was_rolled_back_is_not_read_from_memory(persistence: Store, user_id: str) -> None:
    states = growing(2)
    thread_id, _ = await saved(persistence, user_id, states[:1])
    with suppress(UndoneError):
        async with persistence.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, states[1])
            assert (await uow.states.require(thread_id)).data == states[1]
            raise UndoneError

    assert await read_every_way(persistence, thread_id, user_id) == [states[0], states[0]]


@pytest.mark.parametrize("in_unit_of_work", [False, True])
async def test_a_base_that_is_deleted_while_a_save_waits_for_the_thread_is_no_base(
    persistence: Store, other_process: Store, user_id: str, *, in_unit_of_work: bool
) -> None:
    states = growing(3)
    thread_id, _ = await saved(persistence, user_id, states[:1])

    async def save(uow: UnitOfWork[str, str]) -> None:
        await uow.states.put(thread_id, states[2])

    async with other_process.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, states[1])
        await uow.states.prune(thread_id, keep_last=1)
        saving = asyncio.ensure_future(
            persistence.run(save, user_id=user_id)
            if in_unit_of_work
            else persistence.states.put(thread_id, states[2], user_id=user_id)
        )
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        while not (await uow.session.execute(waits)).scalar_one():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
    await saving

    assert await read_back(persistence, thread_id, user_id) == states[1:]
    assert await kept_whole(persistence, thread_id) == [True, True]


async def test_many_saves_at_once_find_their_bases_gone(persistence: Store, other_process: Store, user_id: str) -> None:
    states = growing(4)
    threads = [(await saved(persistence, user_id, states[:2]))[0] for _ in range(8)]
    for thread_id in threads[::2]:
        await other_process.states.clear(thread_id, user_id=user_id)

    await asyncio.gather(
        *(persistence.states.put(thread_id, state, user_id=user_id) for thread_id in threads for state in states[2:])
    )

    for place, thread_id in enumerate(threads):
        assert await read_back(persistence, thread_id, user_id) == states[2 if place % 2 == 0 else 0 :]


async def test_a_state_of_nobody_is_refused_as_ever(persistence: Store, user_id: str) -> None:
    thread_id, _ = await saved(persistence, user_id, growing(1))

    with pytest.raises(ThreadNotFoundError):
        await persistence.states.put(thread_id, growing(2)[1], user_id="somebody else")
    await persistence.threads.delete(thread_id, user_id=user_id)
    with pytest.raises(ThreadNotFoundError):
        await persistence.states.put(thread_id, growing(2)[1], user_id=user_id)


@pytest.mark.parametrize(("value", "where"), [(float("nan"), "data.messages[10]"), ((1, 2), "data.messages[10]")])
async def test_a_change_that_cannot_be_stored_is_refused_by_its_name(
    persistence: Store, user_id: str, value: Any, where: str
) -> None:
    [first] = growing(1)
    thread_id, _ = await saved(persistence, user_id, [first])

    with pytest.raises(InvalidInputError) as caught:
        await persistence.states.put(thread_id, {**first, "messages": [*first["messages"], value]}, user_id=user_id)

    assert caught.value.field == where


async def test_a_state_that_grew_beyond_the_limit_is_refused(settings_for: SettingsFor, user_id: str) -> None:
    async with Store(await settings_for(max_json_bytes=20_000)) as store:
        thread_id, _ = await saved(store, user_id, growing(9))

        with pytest.raises(InvalidInputError, match="limit is 20000"):
            await store.states.put(thread_id, growing(11)[-1], user_id=user_id)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE states SET state_data = '{}' WHERE thread_id = :id AND state_id = :first",
        "DELETE FROM states WHERE thread_id = :id AND state_id = :first",
    ],
)
async def test_nobody_takes_away_what_a_version_rests_on(persistence: Store, user_id: str, statement: str) -> None:
    states = growing(3)
    thread_id, versions = await saved(persistence, user_id, states)

    with pytest.raises(IntegrityError):
        await run_sql(persistence, statement, id=thread_id, first=versions[0])

    assert await read_back(persistence, thread_id, user_id) == states


async def test_pruning_makes_whole_what_stays(persistence: Store, user_id: str) -> None:
    states = growing(8)
    thread_id, _ = await saved(persistence, user_id, states)
    [[updated]] = await run_sql(persistence, "SELECT max(updated_at) FROM states WHERE thread_id = :id", id=thread_id)

    assert await persistence.states.prune(thread_id, user_id=user_id, keep_last=3) == 5

    assert await kept_whole(persistence, thread_id) == [True, False, False]
    assert await read_back(persistence, thread_id, user_id) == states[-3:]
    assert await run_sql(persistence, "SELECT max(updated_at) FROM states WHERE thread_id = :id", id=thread_id) == [
        (updated,)
    ]


async def test_purging_makes_whole_what_stays_of_every_thread(make_database: Any, user_id: str) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database())
    await migrate.upgrade(settings)
    async with Store(settings) as store:
        states = growing(8)
        threads = [(await saved(store, user_id, states[: count + 1]))[0] for count in range(8)]

        assert await store.purge(keep_last=2) == sum(range(7))

        for count, thread_id in enumerate(threads):
            assert await read_back(store, thread_id, user_id) == states[max(0, count - 1) : count + 1]


async def test_a_thread_goes_with_all_its_versions(persistence: Store, user_id: str) -> None:
    thread_id, _ = await saved(persistence, user_id, growing(5))

    assert await persistence.threads.delete(thread_id, user_id=user_id)

    assert await kept_whole(persistence, thread_id) == []


async def test_a_patch_that_others_spoilt_is_the_only_one_that_cannot_be_read(persistence: Store, user_id: str) -> None:
    states = growing(4)
    thread_id, versions = await saved(persistence, user_id, states)
    await run_sql(
        persistence,
        """UPDATE states SET patch = '{"gone": {}}' WHERE thread_id = :id AND state_id = :last""",
        id=thread_id,
        last=versions[-1],
    )

    page = await persistence.states.page(thread_id, user_id=user_id)
    with pytest.raises(CorruptRowError) as caught:
        await persistence.states.get(thread_id, user_id=user_id, fresh=True)

    assert [state.data for state in page.items] == states[2::-1]
    assert [error.key for error in page.corrupt] == [(thread_id, versions[-1])]
    assert (caught.value.column, caught.value.key) == ("patch", (thread_id, versions[-1]))


async def test_a_patched_state_is_read_and_saved_in_one_statement_each(persistence: Store, user_id: str) -> None:
    states = growing(4)
    thread_id, _ = await saved(persistence, user_id, states[:3])

    async with counted_statements(persistence) as read:
        await persistence.states.require(thread_id, user_id=user_id, fresh=True)
    async with counted_statements(persistence) as written:
        await persistence.states.put(thread_id, states[3], user_id=user_id)

    assert len(read) == 1
    assert len([statement for statement in written if "INSERT INTO" in statement]) == 1


@pytest.mark.parametrize("latest", [True, False])
async def test_a_version_that_goes_while_it_is_read_is_not_half_read(
    persistence: Store, other_process: Store, user_id: str, latest: bool
) -> None:
    states = growing(5)
    thread_id, versions = await saved(persistence, user_id, states)

    async def take_away() -> None:
        if latest:  # all of them: and there is another latest
            await other_process.states.clear(thread_id, user_id=user_id)
            await other_process.states.put(thread_id, "the only one", user_id=user_id)
        else:
            await other_process.states.prune(thread_id, user_id=user_id, keep_last=1)

    async with persistence.begin(user_id=user_id) as uow:
        with once_before(persistence, "WITH RECURSIVE", take_away):
            if latest:
                assert (await uow.states.require(thread_id, fresh=True)).data == "the only one"
            else:
                assert await uow.states.get_version(thread_id, versions[2]) is None


@contextmanager
def once_before(store: Store, part: str, work: Any) -> Iterator[None]:
    """Do something before the first statement with this part is sent."""
    done = []

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if part in statement and not done:
            done.append(statement)
            await_only(work())

    event.listen(store.engine.sync_engine, "before_cursor_execute", listen)
    try:
        yield
    finally:
        event.remove(store.engine.sync_engine, "before_cursor_execute", listen)
    assert done
