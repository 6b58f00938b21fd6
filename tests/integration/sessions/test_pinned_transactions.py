"""Units of work run on a pinned connection, and on with a session once somebody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from connections import all_are_back
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from agent_persistence.concurrency.shielding import drain
from agent_persistence.errors import DatabaseError, UnavailableError, UnitOfWorkInUseError
from agent_persistence.ids import ID_TYPES
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Store = Persistence[Any, Any]
Work = UnitOfWork[Any, Any]
HELLO = {"role": "user", "content": "hello"}


@pytest_asyncio.fixture
async def store(settings_for: Callable[..., Awaitable[PersistenceSettings]]) -> AsyncIterator[Store]:
    async with Store(await settings_for(pool_size=2, max_overflow=1)) as store:
        yield store


@pytest_asyncio.fixture
async def thread_id(store: Store, user_id: str) -> Any:
    return (await store.threads.create(user_id=user_id)).thread_id


@contextmanager
def sessions_begun() -> Iterator[list[str]]:
    """Count the sessions that begin. Not by a listener: where one listens, every unit of work has a session."""
    begun: list[str] = []
    create = Session.__init__

    def note(self: Session, *args: Any, **kwargs: Any) -> None:
        begun.append("session")
        create(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "__init__", note)
        yield begun


async def test_a_unit_of_work_opens_no_session_until_somebody_asks_for_it(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], id_pair: tuple[str, str]
) -> None:
    user = {str: "ann", int: 1, UUID: UUID(int=1)}[ID_TYPES[id_pair[1]].python_type]
    # A store of its own: on the engines that tests share, some have left listeners.
    async with Store(await settings_for(*id_pair)) as store:
        with sessions_begun() as begun:
            async with store.begin(user_id=user) as uow:
                thread = await uow.threads.create()
                await uow.messages.append(thread.thread_id, HELLO)
                await uow.states.put(thread.thread_id, {"step": 1})
                assert (await uow.states.require(thread.thread_id)).data == {"step": 1}
            assert begun == []
            async with store.begin(user_id=user) as uow:
                assert await uow.session.scalar(text("SELECT 1")) == 1
            assert begun == ["session"]

        assert (await store.states.require(thread.thread_id, user_id=user)).data == {"step": 1}
        assert len(await store.messages.page(thread.thread_id, user_id=user)) == 1


async def test_the_session_sees_what_the_repositories_did_and_commits_with_it(
    store: Store, user_id: str, thread_id: Any
) -> None:
    async with store.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, 1)
        of_thread = select(store.models.State).where(store.models.State.thread_id == thread_id)
        found = (await uow.session.execute(of_thread)).scalars().all()
        await uow.session.execute(text("CREATE TABLE of_the_host AS SELECT 1 AS one"))
        await uow.states.put(thread_id, 2)

    async with store.engine.connect() as connection:
        assert (await connection.execute(text("SELECT one FROM of_the_host"))).scalar_one() == 1
    assert [state.state_data for state in found] == [1]
    assert (await store.states.require(thread_id, user_id=user_id)).data == 2
    assert await all_are_back(store)


@pytest.mark.parametrize("statements_between", [False, True])
async def test_a_commit_of_the_host_keeps_what_came_before_it_whatever_follows(
    store: Store, user_id: str, thread_id: Any, *, statements_between: bool
) -> None:
    await store.states.put(thread_id, "cached", user_id=user_id)
    assert (await store.states.require(thread_id, user_id=user_id)).data == "cached"

    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, "committed")
            await uow.messages.append(thread_id, HELLO)
            if statements_between:
                await uow.session.execute(text("SELECT 1"))
            await uow.session.commit()
            await uow.states.put(thread_id, "rolled back")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()

    states = [await store.states.require(thread_id, user_id=user_id, fresh=fresh) for fresh in (False, True)]
    assert [state.data for state in states] == ["committed", "committed"]
    assert len(await store.messages.page(thread_id, user_id=user_id)) == 1


async def test_a_connection_that_a_session_had_runs_no_later_unit_of_work_without_one(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], user_id: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"streamed"

    async with Store(await settings_for(pool_size=1, max_overflow=0)) as store:
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.require(thread_id)
            await uow.session.execute(text("SELECT 1"))
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.require(thread_id)
            await uow.states.put_stream(thread_id, pieces())  # by statements that SQLAlchemy sends

        assert await store.states.get(thread_id, user_id=user_id) is not None


async def test_a_rollback_of_the_host_takes_back_what_came_before_the_session(
    store: Store, user_id: str, thread_id: Any
) -> None:
    await store.states.put(thread_id, "first", user_id=user_id)
    async with store.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, "rolled back")
        await uow.session.rollback()
        await uow.messages.append(thread_id, HELLO)

    assert (await store.states.require(thread_id, user_id=user_id)).data == "first"
    assert len(await store.messages.page(thread_id, user_id=user_id)) == 1


async def test_a_savepoint_of_the_session_takes_back_only_what_followed_it(
    store: Store, user_id: str, thread_id: Any
) -> None:
    async with store.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, "before")
        async with uow.session.begin_nested() as savepoint:
            await uow.states.put(thread_id, "within")
            await savepoint.rollback()

    for fresh in (False, True):
        assert (await store.states.require(thread_id, user_id=user_id, fresh=fresh)).data == "before"


async def test_entities_go_on_in_the_transaction_of_the_repositories(
    store: Store, user_id: str, thread_id: Any
) -> None:
    async with store.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, {"step": 1})
        state = await uow.entities.get_latest_state(thread_id)
        assert state is not None
        assert state.state_data == {"step": 1}


async def test_an_exception_takes_back_everything(store: Store, user_id: str, thread_id: Any) -> None:
    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()

    assert await store.states.get(thread_id, user_id=user_id) is None
    assert await all_are_back(store)


async def test_an_error_that_was_caught_is_told_at_the_commit_which_saves_nothing(
    store: Store, user_id: str, thread_id: Any
) -> None:
    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, 1)
            with pytest.raises(DatabaseError):
                await uow._transaction.execute(text("SELECT 1 / 0"))  # noqa: SLF001 - whatever the server refuses

    with pytest.raises(DatabaseError, match="nothing was saved"):
        await work()

    assert await store.states.get(thread_id, user_id=user_id, fresh=True) is None
    assert await all_are_back(store)


async def test_a_unit_of_work_that_has_ended_refuses_to_go_on(store: Store, user_id: str, thread_id: Any) -> None:
    async with store.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, 1)

    with pytest.raises(DatabaseError, match="has ended"):
        await uow.states.put(thread_id, 2)
    with pytest.raises(DatabaseError, match="has ended"):
        _ = uow.session
    assert (await store.states.require(thread_id, user_id=user_id)).data == 1


async def test_two_tasks_cannot_use_one_unit_of_work(store: Store, user_id: str, thread_id: Any) -> None:
    async with store.begin(user_id=user_id) as uow:
        results = await asyncio.gather(
            uow.states.put(thread_id, 1), uow.states.put(thread_id, 2), return_exceptions=True
        )

    assert [type(result) for result in results].count(UnitOfWorkInUseError) == 1
    assert len(await store.states.page(thread_id, user_id=user_id)) == 1


async def test_another_task_gets_no_session_in_the_middle_of_a_statement(
    store: Store, user_id: str, thread_id: Any
) -> None:
    async with store.begin(user_id=user_id) as uow:
        running = asyncio.create_task(uow.states.put(thread_id, 1))
        await asyncio.sleep(0)
        with pytest.raises(UnitOfWorkInUseError):
            _ = uow.session
        await running
        assert await uow.session.scalar(text("SELECT 1")) == 1

    assert (await store.states.require(thread_id, user_id=user_id)).data == 1


async def test_units_of_work_use_every_connection_of_the_pool_and_give_it_back(
    store: Store, user_id: str, thread_id: Any
) -> None:
    everybody_has_one = asyncio.Barrier(3)

    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.get(thread_id)
            await everybody_has_one.wait()

    for _ in range(3):
        async with asyncio.timeout(5):
            await asyncio.gather(work(), work(), work())
        await asyncio.gather(*(store.threads.get(thread_id, user_id=user_id) for _ in range(10)))

    assert await all_are_back(store)


@pytest.mark.parametrize("statements_before", [False, True])
async def test_after_a_cancelled_statement_nothing_of_its_unit_of_work_is_saved(
    store: Store, user_id: str, thread_id: Any, *, statements_before: bool
) -> None:
    """A host that gives up a call, and goes on in the block: half of what it wanted must not be committed."""
    other = (await store.threads.create(user_id=user_id)).thread_id
    goes_on: list[BaseException] = []

    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            if statements_before:
                await uow.messages.append(other, HELLO)
            with suppress(asyncio.CancelledError):
                await uow.states.put(thread_id, "cancelled")
            try:
                await uow.messages.append(other, HELLO)
            except UnavailableError as error:
                goes_on.append(error)

    async with store.begin(user_id=user_id) as holder:
        await holder.states.touch(thread_id)
        task = asyncio.create_task(work())
        async with asyncio.timeout(5), store.engine.connect() as connection:
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not (await connection.execute(waiting)).scalar_one():
                await connection.rollback()
        task.cancel()
        with pytest.raises(UnavailableError):
            await task

    assert goes_on
    assert await store.states.get(thread_id, user_id=user_id, fresh=True) is None
    assert len(await store.messages.page(other, user_id=user_id)) == 0
    assert await all_are_back(store)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), asyncpg.InternalServerError("refused")])
async def test_if_begin_fails_later_statements_do_not_commit_one_by_one(
    store: Store, user_id: str, thread_id: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    execute = asyncpg.Connection.execute

    async def fail_to_begin(self: asyncpg.Connection, query: str, *arguments: Any, **options: Any) -> Any:
        if query.startswith("BEGIN"):
            raise error
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", fail_to_begin)
    caught = asyncio.CancelledError if isinstance(error, asyncio.CancelledError) else DatabaseError
    with pytest.raises(UnavailableError):  # noqa: PT012 - the block is what is tested
        async with store.begin(user_id=user_id) as uow:
            for refused in (caught, UnavailableError):
                with pytest.raises(refused):
                    await uow.messages.append(thread_id, HELLO)
    monkeypatch.undo()

    assert len(await store.messages.page(thread_id, user_id=user_id)) == 0
    assert await all_are_back(store)


@pytest.mark.parametrize("where", ["statements", "errors", "transactions", "the pool", "all sessions"])
async def test_listeners_of_the_host_are_told_of_every_unit_of_work(
    store: Store, user_id: str, thread_id: Any, where: str
) -> None:
    engine, told = store.engine.sync_engine, []
    target, name = {
        "statements": (engine, "before_cursor_execute"),
        "errors": (engine, "handle_error"),
        "transactions": (engine, "begin"),
        "the pool": (engine, "checkout"),
        "all sessions": (Session, "after_commit"),
    }[where]

    def listen(*_: Any) -> None:
        told.append(name)

    event.listen(target, name, listen)
    try:
        async with store.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, 1)
            if where == "errors":
                with pytest.raises(DBAPIError):
                    await uow.session.execute(text("SELECT 1 / 0"))
                await uow.session.rollback()
    finally:
        event.remove(target, name, listen)

    assert name in told


async def test_on_an_engine_of_the_host_the_server_ends_a_save_before_its_quarantine_does(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], user_id: str
) -> None:
    settings = await settings_for()
    assert settings.database is not None
    engine = create_async_engine(settings.database.sqlalchemy_url, connect_args=settings.database.connect_args)
    limits: list[str] = []
    async with Store(settings, engine=engine) as store:
        assert store.cache is not None
        before_commit = store.cache.before_commit
        thread_id = (await store.threads.create(user_id=user_id)).thread_id

        async def note(ticket: Any) -> Any:
            async with AsyncSession(engine) as session:
                text_of_last = "SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'"
                limits.extend((await session.execute(text(text_of_last))).scalars())
            return await before_commit(ticket)

        store.cache.before_commit = note  # type: ignore[method-assign]
        await store.states.put(thread_id, 1, user_id=user_id)
        async with store.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, 2)
    await engine.dispose()

    assert len(limits) == 2
    assert all("set_config" in statement for statement in limits)


async def test_a_unit_of_work_that_outlives_its_store_closes_its_connection(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], user_id: str
) -> None:
    store = Store(await settings_for(redis_url=None))
    opened: list[Any] = []
    event.listen(store.engine.sync_engine, "connect", lambda connection, _: opened.append(connection))
    async with store:
        unit = store.begin(user_id=user_id)
        uow = await unit.__aenter__()
        await uow.threads.create()
    await unit.__aexit__(None, None, None)
    await drain(5)

    assert opened
    assert all(connection.driver_connection.is_closed() for connection in opened)


async def test_a_committed_unit_of_work_leaves_no_transaction_for_sqlalchemy_to_end(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], user_id: str
) -> None:
    async with Store(await settings_for(redis_url=None)) as store:
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.create()
            await uow.threads.page(search="by a statement that is not compiled")
        ended: list[str] = []
        event.listen(store.engine.sync_engine, "rollback", lambda _: ended.append("rollback"))
    assert ended == []
