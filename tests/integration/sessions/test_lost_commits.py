"""A connection that breaks during COMMIT: the work is done once, and its caller is told the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from connections import all_are_back
from hardening.hardening_servers import NEVER_ARRIVED, REPLY_LOST, LossyProxy, Store, migrated_settings
from sqlalchemy import text
from torture.servers import PostgreSQL

from agent_persistence.encoding.chunks import CHUNK_BYTES
from agent_persistence.errors import CommitUnknownError, ThreadNotFoundError, UnavailableError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import NewMessage
from agent_persistence.repositories.messages.append import COPIED_FROM

HELLO = {"role": "user", "content": "hello"}
FATES = [REPLY_LOST, NEVER_ARRIVED]
_numbers = count(1)


@dataclass
class World:
    """A store behind a proxy, and a thread of it with two messages and two states."""

    store: Store
    proxy: LossyProxy
    user_id: str = ""
    thread_id: Any = None
    message_id: Any = None

    async def prepare(self) -> None:
        self.user_id = f"user-{next(_numbers)}"
        self.thread_id = (await self.store.threads.create(user_id=self.user_id)).thread_id
        self.message_id = (await self.append()).message_id
        await self.append()
        await self.put(0)
        await self.put(0)

    def new_id(self, number: int) -> Any:
        """An id of the configured kind that no message of the thread has."""
        return f"new-{number}" if isinstance(self.thread_id, str) else -1 - number

    async def append(self, **arguments: Any) -> Any:
        return await self.store.messages.append(self.thread_id, HELLO, user_id=self.user_id, **arguments)

    async def put(self, data: Any, **arguments: Any) -> Any:
        return await self.store.states.put(self.thread_id, data, user_id=self.user_id, **arguments)

    async def threads(self) -> list[Any]:
        return list(await self.store.threads.page(user_id=self.user_id))

    async def messages(self) -> list[Any]:
        return list(await self.store.messages.page(self.thread_id, user_id=self.user_id))

    async def states(self) -> list[Any]:
        return list(await self.store.states.page(self.thread_id, user_id=self.user_id))

    async def latest(self) -> Any:
        return await self.store.states.get(self.thread_id, user_id=self.user_id)


@pytest_asyncio.fixture(scope="module", params=["string", "bigint"])
async def shared_world(request: Any, postgresql: PostgreSQL, servers: Any) -> AsyncIterator[World]:
    settings = await migrated_settings(
        postgresql, id_type=request.param, redis_url=servers.redis_url, pool_size=1, max_overflow=0
    )
    async with LossyProxy(postgresql) as proxy:
        url = settings.database_url.get_secret_value().replace(f":{postgresql.port}/", f":{proxy.port}/")
        values = settings.model_dump(exclude_unset=True) | {"database_url": url}
        async with Store(type(settings)(_env_file=None, **values)) as store:
            yield World(store, proxy)


@pytest_asyncio.fixture
async def world(shared_world: World) -> AsyncIterator[World]:
    await shared_world.prepare()
    yield shared_world
    assert await all_are_back(shared_world.store)


@pytest.fixture(params=FATES)
def fate(request: pytest.FixtureRequest) -> str:
    """What becomes of the COMMIT. A call must come to the same in both cases."""
    return str(request.param)


async def test_a_thread_is_created_once(world: World, fate: str) -> None:
    before = await world.threads()

    async with world.proxy.losing_a_commit(fate):
        made = await world.store.threads.create(user_id=world.user_id, name="new")

    assert await world.threads() == [made, *before]


@pytest.mark.parametrize("has_id", [False, True])
async def test_a_message_is_appended_once(world: World, fate: str, has_id: bool) -> None:
    before = await world.messages()
    commits_by_itself = has_id or isinstance(world.message_id, str)  # its id makes it safe to repeat

    async with world.proxy.losing_a_commit(fate, of=b"hello" if commits_by_itself else None):
        made = await world.append(message_id=world.new_id(1) if has_id else None)

    assert await world.messages() == [*before, made]


@pytest.mark.parametrize(("has_ids", "size"), [(False, 3), (True, 3), (False, COPIED_FROM)])
async def test_a_batch_is_appended_once_and_in_order(world: World, fate: str, has_ids: bool, size: int) -> None:
    before = await world.messages()
    texts = [f"hello {place}" for place in range(size)]
    batch: list[NewMessage[Any]] = [
        NewMessage(message={"role": "user", "content": text}, message_id=world.new_id(place) if has_ids else None)
        for place, text in enumerate(texts)
    ]
    commits_by_itself = isinstance(world.message_id, str) and not has_ids and size < COPIED_FROM

    async with world.proxy.losing_a_commit(fate, of=b"hello" if commits_by_itself else None):
        made = await world.store.messages.append_many(world.thread_id, batch, user_id=world.user_id)

    assert [one.text for one in made] == texts
    page = await world.store.messages.page(world.thread_id, user_id=world.user_id, limit=1000)
    assert list(page) == [*before, *made]


async def test_a_message_is_changed_and_deleted_once(world: World, fate: str) -> None:
    place = (world.thread_id, world.message_id)

    async with world.proxy.losing_a_commit(fate):
        changed = await world.store.messages.update(*place, total_tokens=7, user_id=world.user_id)
    assert (await world.messages())[0] == changed
    async with world.proxy.losing_a_commit(fate):
        deleted = await world.store.messages.delete(*place, user_id=world.user_id)

    assert deleted is True
    assert len(await world.messages()) == 1


@pytest.mark.parametrize("expects", [False, True])
async def test_a_state_is_put_once(world: World, fate: str, expects: bool) -> None:
    before = await world.states()

    async with world.proxy.losing_a_commit(fate):
        made = await world.put("new", expected_version=before[0].version if expects else None)

    assert await world.states() == [made, *before]
    assert await world.latest() == made


async def test_a_thread_is_changed_and_deleted_once(world: World, fate: str) -> None:
    async with world.proxy.losing_a_commit(fate):
        changed = await world.store.threads.update(world.thread_id, name="changed", user_id=world.user_id)
    assert await world.threads() == [changed]
    assert changed.name == "changed"
    async with world.proxy.losing_a_commit(fate):
        deleted = await world.store.threads.delete(world.thread_id, user_id=world.user_id)

    assert deleted is True
    assert await world.threads() == []
    assert await world.latest() is None


async def test_states_are_pruned_and_cleared_once_and_counted_truly(world: World, fate: str) -> None:
    await world.put(0)

    async with world.proxy.losing_a_commit(fate):
        pruned = await world.store.states.prune(world.thread_id, keep_last=2, user_id=world.user_id)
    async with world.proxy.losing_a_commit(fate):
        cleared = await world.store.states.clear(world.thread_id, user_id=world.user_id)

    assert (pruned, cleared) == (1, 2)
    assert await world.states() == []
    assert await world.latest() is None


async def test_what_must_not_be_done_twice_is_done_once_by_run(world: World, fate: str) -> None:
    before, runs = await world.messages(), 0

    async def count_up(uow: UnitOfWork[Any, Any]) -> Any:
        nonlocal runs
        runs += 1
        state = await uow.states.require(world.thread_id)
        await uow.messages.append(world.thread_id, HELLO)
        return await uow.states.put(world.thread_id, state.data + 1)

    async with world.proxy.losing_a_commit(fate):
        counted = await world.store.run(count_up, user_id=world.user_id)

    assert counted.data == 1
    assert await world.latest() == counted
    assert len(await world.messages()) == len(before) + 1
    assert runs == (1 if fate == REPLY_LOST else 2)


async def test_a_unit_of_work_whose_commit_arrived_is_a_success(world: World) -> None:
    async with world.proxy.losing_a_commit(REPLY_LOST), world.store.begin(user_id=world.user_id) as uow:
        thread = await uow.threads.create(name="new")
        state = await uow.states.put(thread.thread_id, "new")

    assert [one.thread_id for one in await world.threads()] == [thread.thread_id, world.thread_id]
    assert await world.store.states.get(thread.thread_id, user_id=world.user_id) == state


async def test_a_unit_of_work_whose_commit_never_arrived_says_that_nothing_is_in_the_database(world: World) -> None:
    before = await world.latest()

    async def write(uow: UnitOfWork[Any, Any]) -> None:
        await uow.threads.create(name="new")
        await uow.states.put(world.thread_id, "new")

    async with world.proxy.losing_a_commit(NEVER_ARRIVED):
        with pytest.raises(UnavailableError) as caught:
            await by_begin(world, write)

    assert (caught.value.committed, caught.value.retryable) == ("no", True)
    assert [one.thread_id for one in await world.threads()] == [world.thread_id]
    assert await world.latest() == before


def by_run(world: World, work: Callable[[UnitOfWork[Any, Any]], Awaitable[None]]) -> Awaitable[None]:
    return world.store.run(work, user_id=world.user_id)


async def by_begin(world: World, work: Callable[[UnitOfWork[Any, Any]], Awaitable[None]]) -> None:
    async with world.store.begin(user_id=world.user_id) as uow:
        await work(uow)


@pytest.mark.parametrize("execute", [by_run, by_begin])
async def test_what_only_the_host_s_own_sql_wrote_is_not_done_again_and_not_guessed_at(
    world: World, fate: str, execute: Callable[[World, Any], Awaitable[None]]
) -> None:
    runs = 0

    async def rename(uow: UnitOfWork[Any, Any]) -> None:
        nonlocal runs
        runs += 1
        await uow.session.execute(
            text("UPDATE threads SET thread_name = 'own' WHERE thread_id = :id"), {"id": world.thread_id}
        )

    async with world.proxy.losing_a_commit(fate):
        with pytest.raises(CommitUnknownError) as caught:
            await execute(world, rename)

    assert runs == 1
    assert (caught.value.committed, caught.value.retryable) == ("unknown", False)
    assert [one.name for one in await world.threads()] == ["own" if fate == REPLY_LOST else None]


async def test_the_host_s_own_sql_is_settled_with_the_repositories_writes(world: World, fate: str) -> None:
    async def write(uow: UnitOfWork[Any, Any]) -> None:
        renaming = text("UPDATE threads SET thread_name = thread_name || '+' WHERE thread_id = :id")
        await uow.threads.update(world.thread_id, name="own")
        await uow.session.execute(renaming, {"id": world.thread_id})

    async with world.proxy.losing_a_commit(fate):
        await world.store.run(write, user_id=world.user_id)

    assert [one.name for one in await world.threads()] == ["own+"]


async def test_what_was_written_together_is_there_once_each(world: World, fate: str) -> None:
    messages, states = await world.messages(), await world.states()

    async with world.proxy.losing_a_commit(fate, of=b"hello" if isinstance(world.message_id, str) else None):
        appended = await asyncio.gather(*(world.append() for _ in range(20)))
    async with world.proxy.losing_a_commit(fate):
        put = await asyncio.gather(*(world.put(number) for number in range(20)))

    assert await world.messages() == [*messages, *appended]
    assert await world.states() == [*put[::-1], *states][:20]


async def test_a_lone_statement_whose_reply_is_lost_is_called_unknown_where_it_is_not_tried_again(
    world: World, fate: str
) -> None:
    values = world.store.settings.model_dump(exclude_unset=True) | {"retry_deadline": 0.0}
    message_id = world.new_id(1)

    hasty = Store(type(world.store.settings)(_env_file=None, **values))
    async with hasty, world.proxy.losing_a_commit(fate, of=b"hello"):
        with pytest.raises(CommitUnknownError):
            await hasty.messages.append(world.thread_id, HELLO, user_id=world.user_id, message_id=message_id)

    again = await world.append(message_id=message_id)
    assert (await world.messages())[2:] == [again]


async def the_database_goes(world: World) -> None:
    world.proxy.go_away()


async def the_thread_is_deleted(world: World) -> None:
    await world.store.threads.delete(world.thread_id, user_id=world.user_id)


@pytest.mark.parametrize(
    ("meanwhile", "told"), [(the_database_goes, CommitUnknownError), (the_thread_is_deleted, ThreadNotFoundError)]
)
async def test_a_lone_statement_whose_reply_is_lost_is_asked_after_and_unknown_without_an_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[World], Awaitable[None]], told: type[Exception]
) -> None:
    values = world.store.settings.model_dump(exclude_unset=True) | {"retry_deadline": 0.3}
    hasty = Store(type(world.store.settings)(_env_file=None, **values))
    async with hasty:
        to_append: Any = hasty.messages._batched._appends  # noqa: SLF001 - the moment is not to be had from outside
        ask = to_append._alone  # noqa: SLF001 - see above

        async def ask_too_late(*arguments: Any) -> Any:
            await meanwhile(world)
            return await ask(*arguments)

        monkeypatch.setattr(to_append, "_alone", ask_too_late)
        async with world.proxy.losing_a_commit(REPLY_LOST, of=b"hello"):
            with pytest.raises(told):
                await hasty.messages.append(world.thread_id, HELLO, user_id=world.user_id, message_id=world.new_id(1))

    await world.proxy.come_back()


# --- a state that is streamed in: many transactions, any of which may be hit ---


@pytest.mark.parametrize("step", ["begin", "chunk", "publish"])
async def test_a_streamed_state_is_saved_whole_and_once(world: World, fate: str, step: str) -> None:
    content, before = bytes(CHUNK_BYTES), await world.states()

    async def source(loss: AsyncExitStack) -> AsyncIterator[bytes]:
        if step == "chunk":
            await loss.enter_async_context(world.proxy.losing_a_commit(fate))
        yield content
        if step == "publish":
            await loss.enter_async_context(world.proxy.losing_a_commit(fate))

    async with AsyncExitStack() as loss:
        if step == "begin":
            await loss.enter_async_context(world.proxy.losing_a_commit(fate))
        saved = await world.store.states.put_stream(world.thread_id, source(loss), user_id=world.user_id)

    pieces = [piece async for piece in world.store.states.open_stream(world.thread_id, user_id=world.user_id)]
    assert pieces == [content]
    assert await world.states() == [saved, *before]
