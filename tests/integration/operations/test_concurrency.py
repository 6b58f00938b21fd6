import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from integration.repository_testing import SettingsFor, until_somebody_waits_for_a_lock

from agent_persistence.errors import (
    IdempotencyConflictError,
    StateConflictError,
    ThreadExistsError,
    ThreadNotFoundError,
)
from agent_persistence.ids import ID_TYPES
from agent_persistence.persistence import Persistence
from agent_persistence.records import MessageRecord, NewMessage, StateRecord

WRITERS = 32


def said(text: object) -> dict[str, Any]:
    return {"role": "user", "content": str(text)}


PATIENT = {"lock_timeout": 20, "statement_timeout": 20, "pool_timeout": 20}  # a busy machine must fail no test


@pytest_asyncio.fixture(params=list(ID_TYPES))
async def store(request: pytest.FixtureRequest, settings_for: SettingsFor) -> AsyncIterator[Persistence[Any, str]]:
    """A store of each kind of thread and message ids; who owns them changes nothing here."""
    async with Persistence[Any, str](await settings_for(request.param, **PATIENT)) as store:
        yield store


@pytest_asyncio.fixture
async def persistence(settings_for: SettingsFor) -> AsyncIterator[Persistence[str, str]]:
    async with Persistence[str, str](await settings_for(**PATIENT)) as persistence:
        yield persistence


@pytest.fixture
def ids(store: Persistence[Any, str], new_ids: Any) -> Any:
    return replace(new_ids, id_types=store.models.id_types)


async def new_thread(store: Persistence[Any, Any], user_id: Any) -> Any:
    return (await store.threads.create(user_id=user_id)).thread_id


async def read_all(store: Persistence[Any, Any], thread_id: Any, user_id: Any) -> list[MessageRecord[Any]]:
    return list(await store.messages.page(thread_id, user_id=user_id, limit=1000))


@dataclass
class Write:
    """One append, with the moments between which its commit lies."""

    text: str
    asked: int
    answered: int
    seq: int


@dataclass
class Log:
    """What every writer did, on one clock."""

    clock: Any = field(default_factory=count)
    writes: list[Write] = field(default_factory=list)

    async def append(self, store: Persistence[Any, Any], thread_id: Any, user_id: Any, text: str) -> None:
        asked = next(self.clock)
        made = await store.messages.append(thread_id, said(text), user_id=user_id)
        self.writes.append(Write(text, asked, next(self.clock), made.seq))


@pytest.mark.slow
async def test_many_writers_in_one_thread_lose_nothing_and_stand_in_the_order_of_their_commits(
    store: Persistence[Any, str], user_id: str
) -> None:
    thread_id, log = await new_thread(store, user_id), Log()

    async def write(writer: int) -> None:
        for number in range(3):
            await log.append(store, thread_id, user_id, f"{writer}:{number}")

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))

    stored = [one.text for one in await read_all(store, thread_id, user_id)]
    assert sorted(stored) == sorted(f"{writer}:{number}" for writer in range(WRITERS) for number in range(3))
    for writer in range(WRITERS):
        assert [text for text in stored if text.startswith(f"{writer}:")] == [f"{writer}:{n}" for n in range(3)]
    # Whoever was answered before another one asked stands before it.
    by_answer = sorted(log.writes, key=lambda write: write.answered)
    for later in log.writes:
        assert all(earlier.seq < later.seq for earlier in by_answer if earlier.answered < later.asked)
    assert stored == [write.text for write in sorted(log.writes, key=lambda write: write.seq)]


async def test_who_commits_first_stands_first_whoever_asked_in_between(
    store: Persistence[Any, str], user_id: str
) -> None:
    thread_id = await new_thread(store, user_id)

    async with store.begin(user_id=user_id) as uow:
        await uow.messages.append(thread_id, said("first"))
        other = asyncio.create_task(store.messages.append(thread_id, said("third"), user_id=user_id))
        await until_somebody_waits_for_a_lock(store)
        await uow.messages.append(thread_id, said("second"))
    await other

    stored = await read_all(store, thread_id, user_id)
    assert [one.text for one in stored] == ["first", "second", "third"]


async def test_a_reader_beside_writers_sees_every_message_once_and_in_order(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)
    writers, transactions = 8, 12
    seen: list[str] = []

    async def write(writer: int) -> None:
        for number in range(transactions):
            async with persistence.begin(user_id=user_id) as uow:
                await uow.messages.append(thread_id, said(f"{writer}:{number}:a"))
                await uow.messages.append_many(thread_id, [said(f"{writer}:{number}:{part}") for part in "bc"])

    beginning = (await persistence.messages.page(thread_id, user_id=user_id)).after

    async def read() -> None:
        after = beginning
        while len(seen) < writers * transactions * 3:
            page = await persistence.messages.page(thread_id, user_id=user_id, after=after, limit=7)
            seen.extend(one.text for one in page)
            after = page.after

    async with asyncio.timeout(30):
        await asyncio.gather(read(), *(write(writer) for writer in range(writers)))

    assert seen == [one.text for one in await read_all(persistence, thread_id, user_id)]
    for place in range(0, len(seen), 3):  # a transaction's messages stand together
        assert [text[-1] for text in seen[place : place + 3]] == ["a", "b", "c"]
        assert len({text[:-1] for text in seen[place : place + 3]}) == 1


async def test_of_writers_who_expect_the_same_version_exactly_one_wins(
    store: Persistence[Any, str], user_id: str
) -> None:
    thread_id = await new_thread(store, user_id)

    for expected in (0, None):
        latest = await store.states.get(thread_id, user_id=user_id)
        version = latest.version if latest and expected is None else 0
        results = await asyncio.gather(
            *(store.states.put(thread_id, writer, user_id=user_id, expected_version=version) for writer in range(8)),
            return_exceptions=True,
        )

        [winner] = [result for result in results if isinstance(result, StateRecord)]
        losers = [result for result in results if isinstance(result, StateConflictError)]
        assert len(losers) == 7
        assert {(one.expected, one.found) for one in losers} == {(version, winner.version)}
        assert await store.states.get(thread_id, user_id=user_id, fresh=True) == winner


async def test_a_writer_who_waited_sees_the_version_that_it_waited_for(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)

    async with persistence.begin(user_id=user_id) as uow:
        winner = await uow.states.put(thread_id, "first", expected_version=0)
        late = asyncio.create_task(persistence.states.put(thread_id, "second", user_id=user_id, expected_version=0))
        await until_somebody_waits_for_a_lock(persistence)

    with pytest.raises(StateConflictError) as caught:
        await late
    assert (caught.value.expected, caught.value.found) == (0, winner.version)


async def test_states_saved_at_once_all_stay_with_versions_of_their_own(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)

    saved = await asyncio.gather(
        *(persistence.states.put(thread_id, writer, user_id=user_id) for writer in range(WRITERS))
    )

    listed = await persistence.states.page(thread_id, user_id=user_id, limit=WRITERS + 1)
    assert [one.version for one in listed] == sorted({one.version for one in saved}, reverse=True)
    assert sorted(one.data for one in listed) == list(range(WRITERS))
    assert await persistence.states.get(thread_id, user_id=user_id) == listed.items[0]


async def test_no_more_states_stay_than_the_settings_say_whoever_writes_at_once(
    settings_for: SettingsFor, user_id: str
) -> None:
    async with Persistence[str, str](await settings_for(max_checkpoint_history=3, **PATIENT)) as store:
        thread_id = await new_thread(store, user_id)

        saved = await asyncio.gather(*(store.states.put(thread_id, n, user_id=user_id) for n in range(12)))

        newest = sorted((one.version for one in saved), reverse=True)[:3]
        assert [one.version for one in await store.states.page(thread_id, user_id=user_id)] == newest


async def test_the_same_message_sent_by_many_at_once_is_one_row(
    store: Persistence[Any, str], ids: Any, user_id: str
) -> None:
    thread_id, message_id = await new_thread(store, user_id), ids.message()

    sent = await asyncio.gather(
        *(store.messages.append(thread_id, said("once"), message_id=message_id, user_id=user_id) for _ in range(8))
    )

    [stored] = await read_all(store, thread_id, user_id)
    assert {one.seq for one in sent} == {stored.seq}


async def test_of_different_messages_with_one_id_exactly_one_is_stored_and_no_batch_in_part(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)

    async def send(writer: int) -> Any:
        batch = [said(f"before {writer}"), NewMessage(message=said(writer), message_id="same"), said(f"after {writer}")]
        async with persistence.begin(user_id=user_id) as uow:
            try:
                return await uow.messages.append_many(thread_id, batch)
            except IdempotencyConflictError as conflict:
                return conflict  # and the unit of work is committed

    results = await asyncio.gather(*(send(writer) for writer in range(8)))

    [winner] = [result for result in results if not isinstance(result, IdempotencyConflictError)]
    assert tuple(await read_all(persistence, thread_id, user_id)) == winner


async def test_batches_that_share_messages_wait_for_each_other_without_a_deadlock(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)
    batch = [NewMessage(message=said(place), message_id=f"m{place}") for place in range(20)]

    await asyncio.gather(
        *(persistence.messages.append_many(thread_id, batch[:: 1 - 2 * (n % 2)], user_id=user_id) for n in range(8))
    )

    stored = await read_all(persistence, thread_id, user_id)
    assert sorted(one.message_id for one in stored) == sorted(f"m{place}" for place in range(20))


async def test_one_of_many_gets_the_thread_id_that_all_want(
    store: Persistence[Any, str], ids: Any, user_id: str
) -> None:
    thread_id = ids.thread()

    results = await asyncio.gather(
        *(store.threads.create(thread_id=thread_id, user_id=user_id, name=str(n)) for n in range(8)),
        return_exceptions=True,
    )

    assert sum(isinstance(result, ThreadExistsError) for result in results) == 7
    [winner] = [result for result in results if not isinstance(result, BaseException)]
    assert await store.threads.get(thread_id, user_id=user_id) == winner


async def test_a_writer_who_waited_for_a_thread_that_is_deleted_finds_none(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.delete(thread_id)
        late = asyncio.create_task(persistence.messages.append(thread_id, said("late"), user_id=user_id))
        await until_somebody_waits_for_a_lock(persistence)

    with pytest.raises(ThreadNotFoundError):
        await late


async def test_who_gives_ids_by_hand_costs_nobody_who_leaves_them_to_the_database(
    settings_for: SettingsFor, user_id: str
) -> None:
    async with Persistence[int, str](await settings_for("int", **PATIENT)) as store:
        thread_id = highest = (await store.threads.create(user_id=user_id)).thread_id
        taken = 0

        async def generated() -> None:
            nonlocal highest
            for _ in range(30):
                highest = (await store.threads.create(user_id=user_id)).thread_id
                await store.messages.append_many(thread_id, [said(1), said(2)], user_id=user_id)

        async def by_hand() -> None:
            nonlocal taken
            for _ in range(30):
                try:
                    await store.threads.create(thread_id=highest + 2, user_id=user_id)
                except ThreadExistsError:
                    taken += 1

        await asyncio.gather(*(generated() for _ in range(3)), *(by_hand() for _ in range(3)))

        threads = await store.threads.page(user_id=user_id, limit=1000)
        assert len(threads) == 1 + 6 * 30 - taken
        assert len(await read_all(store, thread_id, user_id)) == 3 * 30 * 2
