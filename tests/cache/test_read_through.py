"""The read-through cache on a real PostgreSQL and a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from units_of_work import begun, bound

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import LEASE, QUARANTINE, QUARANTINE_MS
from agent_persistence.errors import InvalidInputError, SchemaError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER
from agent_persistence.settings import PersistenceSettings

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
Store = Persistence[str, str]


class SentStatements(list[str]):
    """What an engine sends from now on."""

    def __init__(self, store: Persistence[Any, Any]) -> None:
        super().__init__()
        event.listen(
            store.engine.sync_engine,
            "before_cursor_execute",
            lambda _connection, _cursor, statement, *_: self.append(statement),
        )


@pytest_asyncio.fixture
async def thread_id(persistence: Store, user_id: str) -> str:
    return (await persistence.threads.create(user_id=user_id)).thread_id


@pytest.fixture
def key(persistence: Store, thread_id: str, user_id: str) -> bytes:
    return state_key(persistence.cache.namespace, thread_id, user_id)


@pytest_asyncio.fixture
async def other_process(settings_for: SettingsFor, persistence: Store) -> AsyncIterator[Store]:
    """A second store on the same database and cache, as another process would have it."""
    settings = await settings_for(cache_namespace=persistence.settings.cache_namespace)
    async with Persistence[str, str](settings) as store:
        yield store


async def test_a_saved_state_is_read_without_a_statement(persistence: Store, thread_id: str, user_id: str) -> None:
    saved = await persistence.states.put(thread_id, {"step": 1}, user_id=user_id)
    sent = SentStatements(persistence)

    read = await persistence.states.get(thread_id, user_id=user_id)

    assert read == saved
    assert sent == []


async def test_states_of_every_id_type_are_cached(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    thread = await any_persistence.threads.create(user_id=any_user)
    saved = await any_persistence.states.put(thread.thread_id, {"n": 1e23}, user_id=any_user)
    sent = SentStatements(any_persistence)

    read = await any_persistence.states.get(thread.thread_id, user_id=any_user)

    assert read == saved
    assert sent == []


async def test_a_miss_reads_the_table_once_and_fills(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    saved = await persistence.states.put(thread_id, {"step": 1}, user_id=user_id)
    await redis.delete(key)
    sent = SentStatements(persistence)

    first = await persistence.states.get(thread_id, user_id=user_id)
    second = await persistence.states.get(thread_id, user_id=user_id)

    assert first == second == saved
    assert len(sent) == 1


async def test_a_thread_without_a_state_is_remembered_as_such_until_it_gets_one(
    persistence: Store, thread_id: str, user_id: str
) -> None:
    assert await persistence.states.get(thread_id, user_id=user_id) is None
    sent = SentStatements(persistence)
    assert await persistence.states.get(thread_id, user_id=user_id) is None
    assert sent == []

    saved = await persistence.states.put(thread_id, 1, user_id=user_id)

    assert await persistence.states.get(thread_id, user_id=user_id) == saved


@pytest.mark.parametrize("write", ["put", "clear", "delete"])
async def test_another_process_sees_a_write_as_soon_as_it_is_acknowledged(
    write: str, persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    await persistence.states.put(thread_id, "old", user_id=user_id)
    assert (await other_process.states.require(thread_id, user_id=user_id)).data == "old"

    if write == "put":
        await persistence.states.put(thread_id, "new", user_id=user_id)
    elif write == "clear":
        await persistence.states.clear(thread_id, user_id=user_id)
    else:
        await persistence.threads.delete(thread_id, user_id=user_id)

    read = await other_process.states.get(thread_id, user_id=user_id)
    assert (read and read.data) == ("new" if write == "put" else None)


async def test_a_key_lives_for_its_time_give_or_take_a_tenth(
    settings_for: SettingsFor, redis: Redis, user_id: str
) -> None:
    async with Persistence[str, str](await settings_for(cache_ttl_seconds=100)) as store:
        for _ in range(20):
            thread = await store.threads.create(user_id=user_id)
            await store.states.put(thread.thread_id, 1, user_id=user_id)
            ttl = await redis.pttl(state_key(store.cache.namespace, thread.thread_id, user_id))
            assert 88_000 < ttl <= 110_000


async def test_a_rolled_back_put_leaves_the_cache_alone(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    await persistence.states.put(thread_id, "old", user_id=user_id)
    before = await redis.get(key)

    async def put_and_fail() -> None:
        async with persistence.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await put_and_fail()

    assert await redis.get(key) == before
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "old"


async def test_a_unit_of_work_reads_its_own_state_and_nobody_else_does(
    persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    await persistence.states.put(thread_id, "old", user_id=user_id)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, "new")
        mine = await uow.states.require(thread_id)
        theirs = await other_process.states.require(thread_id, user_id=user_id)

    assert (mine.data, theirs.data) == ("new", "old")


async def test_what_is_changed_in_the_object_after_the_put_does_not_reach_the_cache(
    persistence: Store, thread_id: str, user_id: str
) -> None:
    data = {"step": 1}

    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, data)
        data["step"] = 2

    assert (await persistence.states.require(thread_id, user_id=user_id)).data == {"step": 1}


async def test_a_savepoint_that_is_rolled_back_is_not_published(
    persistence: Store, thread_id: str, user_id: str
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, "kept")
        savepoint = await uow.session.begin_nested()
        await uow.states.put(thread_id, "undone")
        await savepoint.rollback()

    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "kept"


async def test_a_savepoint_that_is_kept_is_published_with_the_outer_commit_only(
    persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        async with uow.session.begin_nested():
            await uow.states.put(thread_id, "new")
        before_commit = await other_process.states.get(thread_id, user_id=user_id)

    after_commit = await other_process.states.require(thread_id, user_id=user_id)
    assert before_commit is None
    assert after_commit.data == "new"


async def test_the_commit_of_a_hosts_own_session_is_followed(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    await persistence.states.put(thread_id, "old", user_id=user_id)

    async with AsyncSession(persistence.engine) as session, session.begin():
        await persistence.bind(session, user_id=user_id).states.put(thread_id, "new")

    assert await redis.get(key) is None
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "new"


@pytest.mark.parametrize("opened", [begun, bound])
async def test_what_a_host_undoes_behind_its_sessions_back_is_never_published(
    persistence: Store, thread_id: str, user_id: str, opened: Callable[[Store, str], Any]
) -> None:
    """A savepoint of the connection is nothing that the session hears of."""
    await persistence.states.put(thread_id, "old", user_id=user_id)

    async with opened(persistence, user_id) as uow:
        savepoint = await (await uow.session.connection()).begin_nested()
        await uow.states.put(thread_id, "undone")
        await savepoint.rollback()

    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "old"


@pytest.mark.parametrize(("takes_the_session", "statements"), [(False, 0), (True, 1)])
async def test_a_unit_of_work_publishes_what_it_put_unless_the_host_has_had_its_session(
    persistence: Store, thread_id: str, user_id: str, takes_the_session: bool, statements: int
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        saved = await uow.states.put(thread_id, "new")
        if takes_the_session:
            assert uow.session.in_transaction()
    sent = SentStatements(persistence)

    assert await persistence.states.get(thread_id, user_id=user_id) == saved
    assert len(sent) == statements


async def put_and_leave_a_savepoint_open(uow: UnitOfWork[str, str], thread_id: str) -> None:
    await uow.session.begin_nested()
    await uow.states.put(thread_id, "new")


async def of_a_session_that_begins(store: Store, user_id: str, thread_id: str) -> None:
    async with bound(store, user_id) as uow:
        await put_and_leave_a_savepoint_open(uow, thread_id)


async def of_a_transaction_that_is_committed_itself(store: Store, user_id: str, thread_id: str) -> None:
    async with AsyncSession(store.engine) as session:
        root = await session.begin()
        await put_and_leave_a_savepoint_open(store.bind(session, user_id=user_id), thread_id)
        await root.commit()


@pytest.mark.parametrize("commit", [of_a_session_that_begins, of_a_transaction_that_is_committed_itself])
async def test_a_savepoint_that_is_left_open_at_the_commit_costs_a_warning_and_no_stale_read(
    persistence: Store,
    other_process: Store,
    thread_id: str,
    user_id: str,
    caplog: pytest.LogCaptureFixture,
    commit: Callable[[Store, str, str], Awaitable[None]],
) -> None:
    """SQLAlchemy speaks of the savepoint only, and commits what is around it as well."""
    await persistence.states.put(thread_id, "old", user_id=user_id)

    await commit(persistence, user_id, thread_id)

    assert (await other_process.states.require(thread_id, user_id=user_id)).data == "new"
    warnings = [record for record in caplog.records if record.name == "agent_persistence"]
    assert [record.levelname for record in warnings] == ["WARNING"]
    assert "committed with a savepoint open" in warnings[0].getMessage()


async def test_a_session_joined_to_an_outer_transaction_publishes_nothing_before_that_commits(
    persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    await persistence.states.put(thread_id, "old", user_id=user_id)

    async with persistence.engine.connect() as connection, connection.begin() as outer:
        async with AsyncSession(connection) as session:
            uow = persistence.bind(session, user_id=user_id)
            await uow.states.put(thread_id, "new")
            await session.commit()
            mine = await persistence.bind(session, user_id=user_id).states.require(thread_id)
        theirs = await other_process.states.require(thread_id, user_id=user_id)
        await outer.rollback()

    assert (mine.data, theirs.data) == ("new", "old")
    assert (await other_process.states.require(thread_id, user_id=user_id)).data == "old"


async def test_a_session_joined_to_an_outer_transaction_keeps_readers_from_filling_until_that_commits(
    persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    await persistence.states.put(thread_id, "old", user_id=user_id)

    async with persistence.engine.connect() as connection, connection.begin() as outer:
        async with AsyncSession(connection) as session:
            await persistence.bind(session, user_id=user_id).states.put(thread_id, "new")
            await session.commit()
        before = await other_process.states.require(thread_id, user_id=user_id)
        await outer.commit()

    after = await other_process.states.require(thread_id, user_id=user_id)
    assert (before.data, after.data) == ("old", "new")


async def test_a_unit_of_work_that_commits_twice_publishes_each_state_once(
    persistence: Store, other_process: Store, thread_id: str, user_id: str
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, "first")
        await uow.session.commit()
        await other_process.states.put(thread_id, "theirs", user_id=user_id)
        other = await uow.threads.create()
        await uow.states.put(other.thread_id, "second")

    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "theirs"
    assert (await persistence.states.require(other.thread_id, user_id=user_id)).data == "second"


async def test_a_rolled_back_savepoint_gives_its_key_back_with_its_lock(
    persistence: Store, other_process: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    """Another writer holds the lock by then: its quarantine must not be overwritten."""
    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.get(thread_id)
        savepoint = await uow.session.begin_nested()
        await uow.states.put(thread_id, "undone")
        await savepoint.rollback()
        await other_process.states.put(thread_id, "theirs", user_id=user_id)
        published = await redis.get(key)

    assert await redis.get(key) == published


async def test_a_session_that_commits_by_itself_is_refused(persistence: Store, user_id: str) -> None:
    engine = persistence.engine.execution_options(isolation_level="AUTOCOMMIT")

    async with AsyncSession(engine) as session:
        with pytest.raises(InvalidInputError, match="AUTOCOMMIT"):
            persistence.bind(session, user_id=user_id)


@pytest_asyncio.fixture
async def committing_engine(persistence: Store) -> AsyncIterator[AsyncEngine]:
    """An engine of the host's that commits each statement, which it does not say of itself."""
    url = persistence.settings.database
    assert url is not None
    engine = create_async_engine(url.sqlalchemy_url, connect_args=url.connect_args, isolation_level="AUTOCOMMIT")
    yield engine
    await engine.dispose()


async def by_its_engine(engine: AsyncEngine, store: Store, user_id: str, thread_id: str) -> None:
    async with AsyncSession(engine) as session:
        await store.bind(session, user_id=user_id).states.put(thread_id, "new")
        await session.commit()


async def by_its_connection(_: AsyncEngine, store: Store, user_id: str, thread_id: str) -> None:
    async with AsyncSession(store.engine) as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        await store.bind(session, user_id=user_id).states.put(thread_id, "new")
        await session.commit()


@pytest.mark.parametrize("commits_by_itself", [by_its_engine, by_its_connection])
async def test_a_session_that_commits_by_itself_without_saying_so_is_refused_at_its_first_commit(
    persistence: Store,
    committing_engine: AsyncEngine,
    thread_id: str,
    user_id: str,
    commits_by_itself: Callable[[AsyncEngine, Store, str, str], Awaitable[None]],
) -> None:
    with pytest.raises(InvalidInputError, match="AUTOCOMMIT") as caught:
        await commits_by_itself(committing_engine, persistence, user_id, thread_id)

    assert caught.value.field == "session"


async def test_a_session_is_bound_to_one_store(persistence: Store, other_process: Store, user_id: str) -> None:
    async with AsyncSession(persistence.engine) as session:
        persistence.bind(session, user_id=user_id)

        with pytest.raises(InvalidInputError, match="bound to another"):
            other_process.bind(session, user_id=user_id)


async def test_a_session_on_another_database_reads_its_own_rows(
    persistence: Store, settings_for: SettingsFor, thread_id: str, user_id: str
) -> None:
    await persistence.states.put(thread_id, "of this database", user_id=user_id)
    elsewhere = await settings_for("string", "bigint")
    assert elsewhere.database is not None
    engine = create_async_engine(elsewhere.database.sqlalchemy_url, connect_args=elsewhere.database.connect_args)

    async with AsyncSession(engine) as session:
        await session.execute(text("SET search_path = pg_catalog"))
        with pytest.raises(SchemaError):
            await persistence.bind(session, user_id=user_id).states.get(thread_id)
    await engine.dispose()


async def test_neither_databases_nor_schemas_share_keys(make_database: Any, servers: Any, user_id: str) -> None:
    """Their threads have the same numbers, and their settings the same namespace."""
    first, second = await make_database(), await make_database()
    stores = [
        Persistence[int, str](
            PersistenceSettings(
                database_url=url, redis_url=servers.redis_url, db_schema=schema, id_type="bigint", auto_migrate=True
            )
        )
        for url, schema in ((first, None), (first, "own"), (second, None))
    ]
    for number, store in enumerate(stores):
        async with store:
            thread = await store.threads.create(user_id=user_id)
            await store.states.put(thread.thread_id, number, user_id=user_id)

    read = []
    for closed in stores:
        async with Persistence[int, str](closed.settings) as store:
            read.append((await store.states.require(1, user_id=user_id)).data)

    assert read == [0, 1, 2]


async def test_who_names_the_schema_and_who_leaves_it_out_share_keys(
    persistence: Store, settings_for: Any, thread_id: str, user_id: str
) -> None:
    same = await settings_for(db_schema="public", cache_namespace=persistence.settings.cache_namespace)
    async with Persistence[str, str](same) as other:
        await persistence.states.put(thread_id, 1, user_id=user_id)

        sent = SentStatements(other)
        assert (await other.states.require(thread_id, user_id=user_id)).data == 1
        assert sent == []


async def test_a_store_that_nobody_opened_finds_out_for_itself_whose_keys_they_are(
    persistence: Store, settings_for: Any, thread_id: str, user_id: str
) -> None:
    unopened = Store(await settings_for(cache_namespace=persistence.settings.cache_namespace))
    await unopened.states.put(thread_id, 1, user_id=user_id)

    sent = SentStatements(persistence)
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == 1
    assert sent == []
    await unopened.aclose()


async def test_pruning_keeps_the_cached_state(persistence: Store, thread_id: str, user_id: str) -> None:
    await persistence.states.put(thread_id, 1, user_id=user_id)
    await persistence.states.put(thread_id, 2, user_id=user_id)

    assert await persistence.states.prune(thread_id, user_id=user_id, keep_last=1) == 1

    sent = SentStatements(persistence)
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == 2
    assert sent == []


async def test_a_unit_of_work_with_many_states_leaves_the_cache_available(persistence: Store, user_id: str) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        threads = [await uow.threads.create() for _ in range(100)]
        for thread in threads:
            await uow.states.put(thread.thread_id, 1)

    sent = SentStatements(persistence)
    for thread in threads:
        await persistence.states.require(thread.thread_id, user_id=user_id)
    assert sent == []


async def test_a_session_closed_without_commit_publishes_nothing_when_it_is_used_again(
    persistence: Store, user_id: str
) -> None:
    thread = await persistence.threads.create(user_id=user_id)
    session = AsyncSession(persistence.engine)
    await persistence.bind(session, user_id=user_id).states.put(thread.thread_id, "lost")
    await session.close()

    other = await persistence.threads.create(user_id=user_id)
    await persistence.bind(session, user_id=user_id).states.put(other.thread_id, "kept")
    await session.commit()
    await session.close()

    assert await persistence.states.get(thread.thread_id, user_id=user_id) is None


async def test_administration_reads_the_table_and_writes_through_to_the_owners_key(
    persistence: Store, thread_id: str, user_id: str
) -> None:
    await persistence.states.put(thread_id, "old", user_id=user_id)

    await persistence.states.put(thread_id, "new", user_id=ANY_USER)

    sent = SentStatements(persistence)
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "new"
    assert sent == []
    assert (await persistence.states.require(thread_id, user_id=ANY_USER)).data == "new"
    assert len(sent) == 1


async def test_another_owner_reads_nothing_from_the_cache(persistence: Store, thread_id: str, user_id: str) -> None:
    await persistence.states.put(thread_id, "private", user_id=user_id)

    assert await persistence.states.get(thread_id, user_id="somebody else") is None


async def test_fresh_reads_the_table(persistence: Store, thread_id: str, user_id: str) -> None:
    await persistence.states.put(thread_id, 1, user_id=user_id)
    sent = SentStatements(persistence)

    await persistence.states.get(thread_id, user_id=user_id, fresh=True)

    assert len(sent) == 1


async def test_an_older_version_than_asked_for_is_not_taken_from_the_cache(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    first = await persistence.states.put(thread_id, 1, user_id=user_id)
    old = await redis.get(key)
    second = await persistence.states.put(thread_id, 2, user_id=user_id)
    await redis.set(key, old)  # a cache that lost a write, as after a failover

    assert await persistence.states.get(thread_id, user_id=user_id) == first
    assert await persistence.states.get(thread_id, user_id=user_id, min_version=second.version) == second


async def test_a_damaged_value_is_a_miss_that_is_invalidated(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    saved = await persistence.states.put(thread_id, 1, user_id=user_id)
    await redis.set(key, b"V not a state")

    assert await persistence.states.get(thread_id, user_id=user_id) == saved
    assert (await redis.get(key)).startswith(QUARANTINE)
    assert persistence.cache is not None
    assert persistence.cache.counts.unreadable == 1


async def test_a_value_copied_to_another_owners_key_is_refused(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    await persistence.states.put(thread_id, "private", user_id=user_id)
    value = await redis.get(key)
    await redis.set(state_key(persistence.cache.namespace, thread_id, "thief"), value)

    assert await persistence.states.get(thread_id, user_id="thief") is None


async def test_a_state_too_large_to_cache_is_read_from_the_table(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    large = "x" * (1024 * 1024 + 1)
    await persistence.states.put(thread_id, "small", user_id=user_id)

    await persistence.states.put(thread_id, large, user_id=user_id)

    assert await redis.get(key) is None
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == large
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == large


async def test_a_key_under_quarantine_is_read_around_and_not_filled(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    saved = await persistence.states.put(thread_id, 1, user_id=user_id)
    await redis.set(key, QUARANTINE + bytes(16), px=QUARANTINE_MS)

    assert await persistence.states.get(thread_id, user_id=user_id) == saved
    assert await redis.get(key) == QUARANTINE + bytes(16)


async def test_a_key_leased_by_another_reader_is_read_around_and_not_filled(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    saved = await persistence.states.put(thread_id, 1, user_id=user_id)
    await redis.set(key, LEASE + bytes(16))

    assert await persistence.states.get(thread_id, user_id=user_id) == saved
    assert await redis.get(key) == LEASE + bytes(16)


async def test_a_fill_that_a_writer_overtook_is_refused(
    persistence: Store, other_process: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    """The reader has its old snapshot before the write, and comes to fill after it."""
    await persistence.states.put(thread_id, "old", user_id=user_id)
    await redis.delete(key)
    assert persistence.cache is not None
    lease = await persistence.cache.lease(thread_id, user_id)
    assert lease is not None
    old = await persistence.states.get(thread_id, user_id=user_id, fresh=True)

    await other_process.states.put(thread_id, "new", user_id=user_id)
    await persistence.cache.fill(thread_id, user_id, lease, old)

    assert (await persistence.states.require(thread_id, user_id=user_id)).data == "new"


async def test_a_read_inside_an_open_transaction_does_not_fill(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    await persistence.states.put(thread_id, 1, user_id=user_id)
    await redis.delete(key)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.get(thread_id)
        state = await uow.states.require(thread_id)

    assert state.data == 1
    assert await redis.get(key) is None


async def test_a_read_that_opens_a_unit_of_work_fills(
    persistence: Store, thread_id: str, user_id: str, redis: Redis, key: bytes
) -> None:
    await persistence.states.put(thread_id, 1, user_id=user_id)
    await redis.delete(key)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.require(thread_id)

    assert (await redis.get(key))[:1] == b"V"


async def test_without_a_redis_url_everything_works_from_the_table(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(redis_url=None)) as store:
        thread = await store.threads.create(user_id=user_id)
        saved = await store.states.put(thread.thread_id, 1, user_id=user_id)

        assert await store.states.get(thread.thread_id, user_id=user_id) == saved
        assert (await store.health()).cache == "off"


async def test_a_redis_that_is_not_there_costs_no_error(
    settings_for: SettingsFor, user_id: str, unused_tcp_port: int
) -> None:
    settings = await settings_for(redis_url=f"redis://127.0.0.1:{unused_tcp_port}/0")

    async with Persistence[str, str](settings) as store:
        thread = await store.threads.create(user_id=user_id)
        saved = await store.states.put(thread.thread_id, 1, user_id=user_id)

        assert await store.states.get(thread.thread_id, user_id=user_id) == saved
        assert (await store.health()).cache == "down"


async def test_a_client_that_decodes_responses_is_refused(settings_for: SettingsFor, servers: Any) -> None:
    settings = await settings_for()

    async with Redis.from_url(servers.redis_url, decode_responses=True) as client:
        with pytest.raises(InvalidInputError, match="decode_responses"):
            Persistence[str, str](settings, redis=client)


async def test_a_hosts_own_redis_client_is_used_and_left_open(
    settings_for: SettingsFor, redis: Redis, user_id: str
) -> None:
    async with Persistence[str, str](await settings_for(redis_url=None), redis=redis) as store:
        thread = await store.threads.create(user_id=user_id)
        await store.states.put(thread.thread_id, 1, user_id=user_id)
        key = state_key(store.cache.namespace, thread.thread_id, user_id)

    assert (await redis.get(key))[:1] == b"V"


async def test_a_cancelled_writer_has_still_published(persistence: Store, thread_id: str, user_id: str) -> None:
    """The commit is through when the cancellation arrives: the cache must learn of it."""
    await persistence.states.put(thread_id, "old", user_id=user_id)
    assert persistence.cache is not None
    cache, publishing, proceed = persistence.cache, asyncio.Event(), asyncio.Event()
    after_commit = cache.after_commit

    async def slow_after_commit(ticket: Any) -> None:
        publishing.set()
        await proceed.wait()
        await after_commit(ticket)

    cache.after_commit = slow_after_commit  # type: ignore[method-assign]  # to be there at that moment
    writer = asyncio.create_task(persistence.states.put(thread_id, "new", user_id=user_id))
    await publishing.wait()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    proceed.set()
    await persistence.aclose()

    async with Persistence[str, str](persistence.settings) as store:
        sent = SentStatements(store)
        assert (await store.states.require(thread_id, user_id=user_id)).data == "new"
        assert len(sent) == 0
