"""What a host writes through the mapped classes, in a session that knows of the store, is not served stale."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import BigInteger, ForeignKeyConstraint, Identity, MetaData, bindparam, delete, insert, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from agent_persistence.cache.keys import state_key
from agent_persistence.ids import BIGINT, UUID, IdTypes
from agent_persistence.models import NAMING_CONVENTION, MessageMixin, Models, StateMixin, ThreadMixin
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER
from agent_persistence.sessions.commit_hooks import touch_written
from agent_persistence.settings import PersistenceSettings
from recording import record

Store = Persistence[str, str]


@dataclass(frozen=True)
class Case:
    """Two threads of one owner, whose states are cached, and another owner, who has none."""

    store: Store
    thread_id: str
    first: int
    latest: int
    other_thread: str
    user_id: str
    other_user: str

    @property
    def Thread(self) -> Any:  # noqa: N802 - it is a class
        return self.store.models.Thread

    @property
    def State(self) -> Any:  # noqa: N802 - it is a class
        return self.store.models.State

    async def seen(self, *, fresh: bool = False) -> list[Any]:
        """What each owner sees of each thread."""
        found = [
            await self.store.states.get(thread_id, user_id=user_id, fresh=fresh)
            for thread_id in (self.thread_id, self.other_thread)
            for user_id in (self.user_id, self.other_user)
        ]
        return [state and state.data for state in found]

    def keys(self) -> list[bytes]:
        return [
            state_key(self.store.cache.namespace, thread_id, user_id)
            for thread_id in (self.thread_id, self.other_thread)
            for user_id in (self.user_id, self.other_user)
        ]


BEFORE = ["old", None, "of the other thread", None]


@pytest_asyncio.fixture
async def case(persistence: Store, user_id: str, new_ids: Any) -> Case:
    thread, other_thread = [await persistence.threads.create(user_id=user_id) for _ in range(2)]
    first = await persistence.states.put(thread.thread_id, "first", user_id=user_id, meta={"of": user_id})
    latest = await persistence.states.put(thread.thread_id, "old", user_id=user_id, meta={"of": user_id})
    await persistence.states.put(other_thread.thread_id, "of the other thread", user_id=user_id)
    other_user = str(new_ids.user())
    case = Case(
        persistence, thread.thread_id, first.version, latest.version, other_thread.thread_id, user_id, other_user
    )
    assert await case.seen() == BEFORE  # and from now on all of it is in the cache
    return case


@pytest_asyncio.fixture
async def host_engine(persistence: Store) -> AsyncIterator[AsyncEngine]:
    """An engine of the host's, with nothing of ours in it."""
    address = persistence.settings.database
    assert address is not None
    engine = create_async_engine(address.sqlalchemy_url, connect_args=address.connect_args)
    yield engine
    await engine.dispose()


# --- sessions ---

Sessions = Callable[[Case, AsyncEngine], Any]


@asynccontextmanager
async def of_begin(case: Case, _: AsyncEngine) -> AsyncIterator[UnitOfWork[str, str]]:
    async with case.store.begin(user_id=case.user_id) as uow:
        yield uow


@asynccontextmanager
async def on_the_engine_of_the_store(case: Case, _: AsyncEngine) -> AsyncIterator[UnitOfWork[str, str]]:
    sessions = async_sessionmaker(case.store.engine, expire_on_commit=False)
    async with sessions() as session, session.begin():
        yield case.store.bind(session, user_id=case.user_id)


@asynccontextmanager
async def on_an_engine_of_the_host(case: Case, engine: AsyncEngine) -> AsyncIterator[UnitOfWork[str, str]]:
    async with async_sessionmaker(engine)() as session, session.begin():
        yield case.store.bind(session, user_id=case.user_id)


@asynccontextmanager
async def with_an_engine_for_each_class(case: Case, engine: AsyncEngine) -> AsyncIterator[UnitOfWork[str, str]]:
    binds = dict.fromkeys((case.Thread, case.State, case.store.models.Message), engine)
    async with async_sessionmaker(binds=binds)() as session, session.begin():
        yield case.store.bind(session, user_id=case.user_id)


# --- writes ---

Change = Callable[[Case, AsyncSession], Awaitable[Any]]


async def add_a_state(case: Case, session: AsyncSession) -> None:
    session.add(case.State(thread_id=case.thread_id, state_data="new"))


async def change_an_attribute(case: Case, session: AsyncSession) -> None:
    state = await session.get_one(case.State, (case.thread_id, case.latest))
    state.state_data = "new"


async def delete_a_state(case: Case, session: AsyncSession) -> None:
    await session.delete(await session.get_one(case.State, (case.thread_id, case.latest)))


async def delete_the_thread(case: Case, session: AsyncSession) -> None:
    await session.delete(await session.get_one(case.Thread, case.thread_id))


async def give_the_thread_away(case: Case, session: AsyncSession) -> None:
    thread = await session.get_one(case.Thread, case.thread_id)
    thread.user_id = case.other_user


async def insert_values(case: Case, session: AsyncSession) -> None:
    await session.execute(insert(case.State).values(thread_id=case.thread_id, state_data="new"))


async def insert_several_values(case: Case, session: AsyncSession) -> None:
    threads = (case.thread_id, case.other_thread)
    await session.execute(insert(case.State).values([{"thread_id": one, "state_data": "new"} for one in threads]))


async def insert_many(case: Case, session: AsyncSession) -> None:
    threads = (case.thread_id, case.other_thread)
    await session.execute(insert(case.State), [{"thread_id": one, "state_data": "new"} for one in threads])


async def insert_and_return(case: Case, session: AsyncSession) -> None:
    row = {"thread_id": case.thread_id, "state_data": "new"}
    await session.scalars(insert(case.State).returning(case.State.state_id), [row])


async def insert_many_into_one_thread(case: Case, session: AsyncSession) -> None:
    rows = [{"state_data": data} for data in ("newer", "new")]
    await session.execute(insert(case.State).values(thread_id=case.thread_id), rows)


async def insert_unless_there(case: Case, session: AsyncSession) -> None:
    await session.execute(
        upsert(case.State).values(thread_id=case.thread_id, state_data="new").on_conflict_do_nothing()
    )


async def update_by_thread(case: Case, session: AsyncSession) -> None:
    await session.execute(update(case.State).where(case.State.thread_id == case.thread_id).values(state_data="new"))


async def update_by_another_column(case: Case, session: AsyncSession) -> None:
    mine = case.State.meta["of"].astext == case.user_id
    await session.execute(update(case.State).where(mine).values(state_data="new"))


async def update_by_another_table(case: Case, session: AsyncSession) -> None:
    mine = (case.State.thread_id == case.Thread.thread_id) & (case.Thread.user_id == case.user_id)
    await session.execute(update(case.State).where(mine).values(state_data="new"))


async def update_by_key(case: Case, session: AsyncSession) -> None:
    row = {"thread_id": case.thread_id, "state_id": case.latest, "state_data": "new"}
    await session.execute(update(case.State), [row])


async def update_by_a_parameter(case: Case, session: AsyncSession) -> None:
    statement = update(case.State).where(case.State.thread_id == bindparam("of")).values(state_data="new")
    await session.execute(statement, {"of": case.thread_id})


async def move_a_state(case: Case, session: AsyncSession) -> None:
    latest = case.State.state_id == case.latest
    await session.execute(update(case.State).where(latest).values(thread_id=case.other_thread))


async def move_a_state_by_its_attribute(case: Case, session: AsyncSession) -> None:
    state = await session.get_one(case.State, (case.thread_id, case.latest))
    state.thread_id = case.other_thread


async def delete_by_thread(case: Case, session: AsyncSession) -> None:
    await session.execute(delete(case.State).where(case.State.thread_id == case.thread_id))


async def delete_by_another_column(case: Case, session: AsyncSession) -> None:
    await session.execute(delete(case.State).where(case.State.state_id == case.latest))


async def delete_threads_by_a_condition(case: Case, session: AsyncSession) -> None:
    await session.execute(delete(case.Thread).where(case.Thread.user_id == case.user_id))


async def give_threads_away_by_a_condition(case: Case, session: AsyncSession) -> None:
    mine = case.Thread.user_id == case.user_id
    await session.execute(update(case.Thread).where(mine).values(user_id=case.other_user))


async def give_threads_away_by_key(case: Case, session: AsyncSession) -> None:
    row = {"thread_id": case.thread_id, "user_id": case.other_user}
    await session.execute(update(case.Thread), [row])


async def give_away_what_a_pending_change_picks(case: Case, session: AsyncSession) -> None:
    thread = await session.get_one(case.Thread, case.thread_id)
    thread.thread_name = name = str(uuid.uuid4())
    await session.execute(update(case.Thread).where(case.Thread.thread_name == name).values(user_id=case.other_user))


CHANGES: list[Change] = [
    add_a_state,
    change_an_attribute,
    delete_a_state,
    delete_the_thread,
    give_the_thread_away,
    insert_values,
    insert_several_values,
    insert_many,
    insert_and_return,
    insert_many_into_one_thread,
    insert_unless_there,
    update_by_thread,
    update_by_another_column,
    update_by_another_table,
    update_by_key,
    update_by_a_parameter,
    move_a_state,
    move_a_state_by_its_attribute,
    delete_by_thread,
    delete_by_another_column,
    delete_threads_by_a_condition,
    give_threads_away_by_a_condition,
    give_threads_away_by_key,
    give_away_what_a_pending_change_picks,
]
each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


async def assert_nothing_stale_is_served(case: Case) -> None:
    from_the_table = await case.seen(fresh=True)
    assert from_the_table != BEFORE
    assert await case.seen() == from_the_table


@pytest.mark.parametrize(
    ("sessions", "change"),
    [
        *product([of_begin, on_an_engine_of_the_host], CHANGES),
        *product([on_the_engine_of_the_store], [add_a_state, delete_the_thread]),
        *product([with_an_engine_for_each_class], [insert_values, update_by_another_column, delete_the_thread]),
    ],
    ids=lambda function: function.__name__,
)
async def test_a_change_is_locked_quarantined_committed_and_withdrawn_in_this_order(
    sessions: Sessions, change: Change, case: Case, host_engine: AsyncEngine
) -> None:
    log = record(case.store, host_engine)

    async with sessions(case, host_engine) as uow:
        await change(case, uow.session)

    assert log[-3:] == ["begin_write", "COMMIT", "publish"]
    assert log.count("begin_write") == 1
    assert "lock" in log
    await assert_nothing_stale_is_served(case)


@each_change
async def test_a_change_that_is_rolled_back_leaves_the_cache_alone(change: Change, case: Case, redis: Redis) -> None:
    log, before = record(case.store), await redis.mget(case.keys())

    async with AsyncSession(case.store.engine) as session:
        case.store.bind(session, user_id=case.user_id)
        await change(case, session)
        await session.flush()
        await session.rollback()
        await session.commit()

    assert await redis.mget(case.keys()) == before
    assert "begin_write" not in log


@pytest.mark.parametrize("change", [add_a_state, change_an_attribute, delete_the_thread, update_by_another_column])
async def test_a_change_in_a_savepoint_that_is_kept_is_not_served_stale(change: Change, case: Case) -> None:
    async with AsyncSession(case.store.engine) as session, session.begin():
        case.store.bind(session, user_id=case.user_id)
        async with session.begin_nested():
            await change(case, session)
        assert await case.seen() == BEFORE  # nobody else sees what is not committed

    await assert_nothing_stale_is_served(case)


@each_change
async def test_a_change_in_a_savepoint_that_is_rolled_back_leaves_the_cache_alone(
    change: Change, case: Case, redis: Redis
) -> None:
    before = await redis.mget(case.keys())

    async with AsyncSession(case.store.engine) as session, session.begin():
        case.store.bind(session, user_id=case.user_id)
        async with session.begin_nested() as savepoint:
            await change(case, session)
            await session.flush()
            await savepoint.rollback()

    assert await redis.mget(case.keys()) == before


async def test_a_session_is_followed_through_every_transaction_of_its_life(case: Case) -> None:
    async with AsyncSession(case.store.engine) as session:
        case.store.bind(session, user_id=case.user_id)
        for step in range(3):
            session.add(case.State(thread_id=case.thread_id, state_data=step))
            await session.commit()

            assert (await case.store.states.require(case.thread_id, user_id=case.user_id)).data == step


@pytest.mark.parametrize("change", [add_a_state, change_an_attribute, insert_values, update_by_another_column])
async def test_a_unit_of_work_sees_what_the_orm_wrote_in_it(change: Change, case: Case) -> None:
    async with case.store.begin(user_id=case.user_id) as uow:
        await change(case, uow.session)

        assert (await uow.states.require(case.thread_id)).data == "new"


async def test_a_state_of_the_orm_over_one_of_the_repository_is_the_one_that_counts(case: Case) -> None:
    async with case.store.begin(user_id=case.user_id) as uow:
        await uow.states.put(case.thread_id, "put")
        await add_a_state(case, uow.session)

    assert (await case.store.states.require(case.thread_id, user_id=case.user_id)).data == "new"


@pytest.mark.parametrize("owner", ["its owner", "administration"])
async def test_sql_of_ones_own_is_not_served_stale_once_it_is_said(owner: str, case: Case) -> None:
    log = record(case.store)
    user_id: Any = case.user_id if owner == "its owner" else ANY_USER

    async with AsyncSession(case.store.engine) as session, session.begin():
        await case.store.bind(session, user_id=user_id).states.touch(case.thread_id)
        statement = text("UPDATE states SET state_data = '\"new\"' WHERE thread_id = :thread_id")
        await session.execute(statement, {"thread_id": case.thread_id})

    assert log == ["lock", "write", "begin_write", "COMMIT", "publish"]
    await assert_nothing_stale_is_served(case)


async def test_a_session_that_writes_other_things_quarantines_nothing(case: Case) -> None:
    log = record(case.store)

    async with case.store.begin(user_id=case.user_id) as uow:
        thread = await uow.session.get_one(case.Thread, case.thread_id)
        thread.thread_name = "renamed"
        uow.session.add(case.store.models.Message(thread_id=case.thread_id, role="user", content="hi"))
        uow.session.add(case.Thread(user_id=case.user_id))

    assert "begin_write" not in log


async def test_more_threads_than_a_statement_has_parameters_are_written_in_one_transaction(case: Case) -> None:
    log = record(case.store)

    async with AsyncSession(case.store.engine) as session, session.begin():
        case.store.bind(session, user_id=case.user_id)
        await insert_values(case, session)
        for number in range(40_000):
            touch_written(session.sync_session, f"made up {number}")

    assert log[-3:] == ["begin_write", "COMMIT", "publish"]
    await assert_nothing_stale_is_served(case)


# --- a base of the host's ---


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    __id_types__ = IdTypes(UUID, BIGINT)


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    threads: Mapped[list[Thread]] = relationship(cascade="all, delete-orphan")


class Thread(ThreadMixin[uuid.UUID, int], Base):
    __table_args__ = (ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),)

    states: Mapped[list[State]] = relationship(cascade="all, delete-orphan")


class State(StateMixin[uuid.UUID], Base):
    pass


class Message(MessageMixin[uuid.UUID], Base):
    pass


HOST_MODELS: Models[uuid.UUID, int] = Models(Thread, State, Message)
Host = Persistence[uuid.UUID, int]


@pytest_asyncio.fixture(scope="module")
async def host(make_database: Any, servers: Any) -> AsyncIterator[Host]:
    settings = PersistenceSettings(
        _env_file=None,
        database_url=await make_database(),
        redis_url=servers.redis_url,
        cache_namespace=f"test-{uuid.uuid4()}",
        cache_timeout_ms=2_000,
        cache_budget_ms=4_000,
        id_type="uuid",
        user_id_type="bigint",
    )
    store = Persistence(settings, models=HOST_MODELS)
    async with store.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield store
    await store.aclose()


async def delete_a_user(session: AsyncSession, user_id: int, _: uuid.UUID) -> None:
    await session.delete(await session.get_one(User, user_id))


async def delete_a_thread(session: AsyncSession, _: int, thread_id: uuid.UUID) -> None:
    await session.delete(await session.get_one(Thread, thread_id))


async def add_to_a_relationship(session: AsyncSession, _: int, thread_id: uuid.UUID) -> None:
    thread = await session.get_one(Thread, thread_id)
    (await session.run_sync(lambda _: thread.states)).append(State(state_data="new"))


async def remove_from_a_relationship(session: AsyncSession, _: int, thread_id: uuid.UUID) -> None:
    thread = await session.get_one(Thread, thread_id)
    (await session.run_sync(lambda _: thread.states)).clear()


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (delete_a_user, None),
        (delete_a_thread, None),
        (add_to_a_relationship, "new"),
        (remove_from_a_relationship, None),
    ],
)
async def test_what_relationships_of_the_host_write_is_not_served_stale(
    change: Callable[[AsyncSession, int, uuid.UUID], Awaitable[None]], left: Any, host: Host
) -> None:
    async with AsyncSession(host.engine) as session, session.begin():
        user = User()
        session.add(user)
        await session.flush()
        user_id = user.id
    thread_id = (await host.threads.create(user_id=user_id)).thread_id
    await host.states.put(thread_id, "old", user_id=user_id)

    async with AsyncSession(host.engine) as session, session.begin():
        host.bind(session, user_id=user_id)
        await change(session, user_id, thread_id)

    state = await host.states.get(thread_id, user_id=user_id)
    assert (state and state.data) == left
