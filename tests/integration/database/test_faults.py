"""Whatever happens to the database, only errors of this package leave it, and the next call works."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import asyncpg
import pytest
from integration.repository_testing import (
    CALLS,
    HELLO,
    Call,
    Place,
    SettingsFor,
    run_sql,
    until_somebody_waits_for_a_lock,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from sqlalchemy import text

from agent_persistence import migrate
from agent_persistence.concurrency.shielding import drain
from agent_persistence.errors import (
    DatabaseError,
    LockTimeoutError,
    PersistenceError,
    PoolTimeoutError,
    SchemaError,
    StatementTimeoutError,
    UnavailableError,
)
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewThread
from agent_persistence.settings import PersistenceSettings

NOWHERE = Place("t", "m", 1)
EVERY_CALL: dict[str, Call] = CALLS | {
    "threads.create": lambda store, _, **owner: store.threads.create(**owner),
    "threads.create_many": lambda store, _, **owner: store.threads.create_many([NewThread(messages=[HELLO])], **owner),
    "threads.page": lambda store, _, **owner: store.threads.page(**owner),
}
# Those that lock a thread: items belong to none.
WRITES = [name for name in CALLS if not name.split(".")[1].startswith(("get", "require", "page", "open"))]
WRITES = [name for name in WRITES if not name.startswith("items.")]


async def own_store(make_database: Any, *, migrated: bool = True) -> Persistence[str, str]:
    """A store of a database that the test may spoil; no cache hides what it does."""
    settings = PersistenceSettings(
        _env_file=None, database_url=await make_database(), pool_size=1, max_overflow=0, retry_deadline=0
    )
    if migrated:
        await migrate.upgrade(settings)
    return Persistence[str, str](settings)


async def failure(call: Awaitable[Any]) -> PersistenceError:
    """The error of a call that must fail with one of this package's."""
    with pytest.raises(PersistenceError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("call", EVERY_CALL.values(), ids=EVERY_CALL)
async def test_without_a_server_every_call_says_that_it_is_unavailable(call: Call, unused_tcp_port: int) -> None:
    url = f"postgresql://ann:canary@127.0.0.1:{unused_tcp_port}/db"
    store = Persistence[str, str](PersistenceSettings(_env_file=None, database_url=url, retry_deadline=0))

    error = await failure(call(store, NOWHERE, user_id="u"))
    async with store.begin(user_id="u") as uow:
        inside = await failure(call(uow, NOWHERE))

    for one in (error, inside):
        assert type(one) is UnavailableError
        assert (one.retryable, one.committed) == (True, "no")
        assert "canary" not in f"{one} {one.__cause__!r}"
    await store.aclose()


@pytest.mark.parametrize("call", EVERY_CALL.values(), ids=EVERY_CALL)
async def test_without_tables_every_call_names_the_command_that_makes_them(servers: Any, call: Call) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=servers.database_url, db_schema="never_made")
    store = Persistence[str, str](settings)

    error = await failure(call(store, NOWHERE, user_id="u"))

    assert type(error) is SchemaError
    assert "agent-persistence upgrade" in str(error)
    await store.aclose()


@pytest.mark.parametrize(
    ("change", "expected", "sqlstate"),
    [
        (("/agent_persistence?", "/never_made?"), DatabaseError, "3D000"),
        (("//postgres@", "//nobody@"), DatabaseError, "28000"),
        (("?host=", "?target_session_attrs=standby&host="), UnavailableError, None),
        (("?host=", "?host=/never/made"), UnavailableError, None),
    ],
)
async def test_an_address_that_leads_nowhere_is_one_of_our_errors(
    servers: Any, change: tuple[str, str], expected: type[PersistenceError], sqlstate: str | None
) -> None:
    url = servers.database_url.replace(*change)
    assert url != servers.database_url
    store = Persistence[str, str](PersistenceSettings(_env_file=None, database_url=url, retry_deadline=0))

    for call in (store.threads.page(user_id="u"), store.check()):
        error = await failure(call)
        assert type(error) is expected
        assert getattr(error, "sqlstate", None) == sqlstate
    assert (await store.health()).database == "down"
    await store.aclose()


@pytest.mark.parametrize(
    ("limit", "expected"),
    [({"lock_timeout": 0.03}, LockTimeoutError), ({"statement_timeout": 0.2}, StatementTimeoutError)],
)
async def test_a_write_that_waits_too_long_for_another_is_given_up(
    settings_for: SettingsFor,
    persistence: Persistence[str, str],
    user_id: str,
    limit: dict[str, float],
    expected: type[PersistenceError],
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    made = await persistence.messages.append(thread_id, HELLO, user_id=user_id)
    state = await persistence.states.put(thread_id, 1, user_id=user_id)
    place = Place(thread_id, made.message_id, state.version)

    async with Persistence[str, str](await settings_for(**limit)) as store:
        async with persistence.begin(user_id=user_id) as uow:
            await uow.threads.update(thread_id, name="held")
            for name in WRITES:
                error = await failure(CALLS[name](store, place, user_id=user_id))
                assert type(error) is expected, name
                assert not error.retryable
        await store.threads.update(thread_id, name="free", user_id=user_id)

    assert (await persistence.messages.page(thread_id, user_id=user_id)).items == (made,)
    assert await persistence.states.get(thread_id, user_id=user_id, fresh=True) == state


async def test_without_a_free_connection_a_call_gives_up_in_time(settings_for: SettingsFor, user_id: str) -> None:
    settings = await settings_for(pool_size=1, max_overflow=0, pool_timeout=0.2)
    async with Persistence[str, str](settings) as store:
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.page()
            started = time.monotonic()
            errors = await asyncio.gather(
                *(failure(call(store, NOWHERE, user_id=user_id)) for call in EVERY_CALL.values())
            )
            waited = time.monotonic() - started

        assert {type(error) for error in errors} == {PoolTimeoutError}
        assert 0.2 <= waited < 2
        assert "PERSISTENCE_POOL_SIZE" in str(errors[0])
        assert len(await store.threads.page(user_id=user_id)) == 0


async def test_a_connection_that_the_server_closed_costs_one_call(make_database: Any, user_id: str) -> None:
    store = await own_store(make_database)
    [[pid]] = await run_sql(store, "SELECT pg_backend_pid()")
    admin = Persistence[str, str](store.settings)
    await run_sql(admin, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)

    assert type(await failure(store.threads.page(user_id=user_id))) is UnavailableError
    assert len(await store.threads.page(user_id=user_id)) == 0

    await admin.aclose()
    await store.aclose()


async def test_a_connection_lost_inside_a_unit_of_work_undoes_it_all(make_database: Any, user_id: str) -> None:
    store = await own_store(make_database)
    admin = Persistence[str, str](store.settings)

    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.create()
            pid = await uow.session.scalar(text("SELECT pg_backend_pid()"))
            await run_sql(admin, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
            await uow.threads.create()

    assert type(await failure(work())) is UnavailableError
    assert len(await store.threads.page(user_id=user_id)) == 0

    await admin.aclose()
    await store.aclose()


async def test_a_server_that_takes_no_writes_is_worth_another_try(make_database: Any, user_id: str) -> None:
    store = await own_store(make_database)
    await run_sql(store, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', "
                  "current_database()); END $$")  # fmt: skip
    await store.engine.dispose()

    error = await failure(store.threads.create(user_id=user_id))

    assert type(error) is UnavailableError
    assert len(await store.threads.page(user_id=user_id)) == 0
    await store.aclose()


async def test_a_plan_from_before_a_migration_costs_one_unit_of_work(make_database: Any, user_id: str) -> None:
    store = await own_store(make_database)
    thread = await store.threads.create(user_id=user_id)
    assert await store.threads.get(thread.thread_id, user_id=user_id) == thread
    migrator = Persistence[str, str](store.settings)
    await run_sql(migrator, "ALTER TABLE threads ALTER COLUMN thread_name TYPE text")

    async def read() -> Any:
        async with store.begin(user_id=user_id) as uow:
            return await uow.threads.get(thread.thread_id)

    assert type(await failure(read())) is UnavailableError
    assert await read() == thread
    assert await store.threads.get(thread.thread_id, user_id=user_id) == thread

    await migrator.aclose()
    await store.aclose()


async def test_of_two_units_of_work_that_wait_for_each_other_one_is_told_to_try_again(
    persistence: Persistence[str, str], user_id: str
) -> None:
    threads = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(2)]
    both_hold_one = asyncio.Barrier(2)

    async def write(first: str, second: str) -> None:
        async with persistence.begin(user_id=user_id) as uow:
            await uow.messages.append(first, HELLO)
            await both_hold_one.wait()
            await uow.messages.append(second, HELLO)

    results = await asyncio.gather(write(*threads), write(*threads[::-1]), return_exceptions=True)

    assert sorted(type(result) for result in results if result is not None) == [UnavailableError]
    for thread_id in threads:
        assert len(await persistence.messages.page(thread_id, user_id=user_id)) == 1


async def test_a_call_that_is_cancelled_while_it_waits_goes_on_to_its_end(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.update(thread_id, name="held")
        late = asyncio.create_task(persistence.messages.append(thread_id, HELLO, user_id=user_id))
        await until_somebody_waits_for_a_lock(persistence)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
    await drain(10)

    assert len(await persistence.messages.page(thread_id, user_id=user_id)) == 1


async def test_a_refusal_of_the_server_names_its_code_and_constraint_and_no_content(
    make_database: Any, user_id: str
) -> None:
    store = await own_store(make_database)
    thread_id = (await store.threads.create(user_id=user_id)).thread_id
    await run_sql(store, "ALTER TABLE messages ADD CONSTRAINT hosts_own CHECK (content <> 'canary')")

    error = await failure(store.messages.append(thread_id, {"role": "user", "content": "canary"}, user_id=user_id))

    assert isinstance(error, DatabaseError)
    assert (error.sqlstate, error.constraint) == ("23514", "hosts_own")
    assert (error.retryable, error.committed) == (False, "no")
    assert "canary" not in str(error)
    await store.aclose()


async def test_a_connection_that_is_closed_while_the_driver_looks_up_types_is_a_lost_one(
    settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind PgBouncer the driver keeps nothing of a statement, so that it looks its types up again and again."""
    look_up, cut = asyncpg.Connection._introspect_types, []  # noqa: SLF001 - between two steps of a statement

    async def be_cut_first(self: Any, *arguments: Any, **named: Any) -> Any:
        if not cut:
            cut.append(self)
            self.terminate()
        return await look_up(self, *arguments, **named)

    settings = await settings_for(pgbouncer=True)
    checkpoint = {**empty_checkpoint(), "channel_values": {"log": ["a"]}, "channel_versions": {"log": "1"}}
    config: RunnableConfig = {"configurable": {"thread_id": "of-a-graph", "checkpoint_ns": ""}}
    async with Persistence[str, str](settings) as store:
        saver = PersistenceSaver(store, user_id="ann")
        monkeypatch.setattr(asyncpg.Connection, "_introspect_types", be_cut_first)

        saved = await saver.aput(config, checkpoint, {}, {"log": "1"})
        found = await saver.aget_tuple(saved)

        assert cut
        assert found is not None
        assert found.checkpoint["channel_values"] == {"log": ["a"]}
