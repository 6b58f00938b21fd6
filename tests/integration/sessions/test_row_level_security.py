"""Row-level security: a role that owns nothing sees one owner's rows, whatever a statement forgets to ask."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from debian.pooled_clients import use_messages, use_states, use_threads
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence import migrate
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.ids import ID_TYPES, uuid7
from agent_persistence.models.base import table_of
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, ItemKey, NewItem, NewThread
from agent_persistence.settings import PersistenceSettings

TABLES = ("threads", "states", "messages")
SAY = "SELECT set_config('agent_persistence.user_id', $1, true)"
_negative_numbers = itertools.count(-1, -1)
HELLO = {"role": "user", "content": "hello"}


@dataclass(frozen=True)
class Secured:
    """A database with policies, and the address of a role that is neither superuser nor owner of its tables."""

    kind: str
    administrator: str
    application: str
    redis_url: str

    def new_id(self) -> Any:
        """An id that nobody has: the database counts up from 1."""
        return {"string": lambda: str(uuid7()), "uuid": uuid7}.get(self.kind, _negative_numbers.__next__)()

    def settings(self, **values: Any) -> PersistenceSettings:
        options = {"id_type": self.kind, "user_id_type": self.kind, "row_level_security": True, **values}
        return PersistenceSettings(_env_file=None, database_url=self.application, **options)

    def cached(self) -> PersistenceSettings:
        patient = {"cache_timeout_ms": 2_000, "cache_budget_ms": 4_000}
        return self.settings(redis_url=self.redis_url, cache_namespace=f"test-{uuid.uuid4().hex[:8]}", **patient)

    async def run(self, statement: str, *arguments: Any, owner: Any = None) -> list[Any]:
        """Run a statement without this package, in a transaction that may name its owner."""
        connection = await asyncpg.connect(self.application)
        try:
            async with connection.transaction():
                if owner is not None:
                    await connection.execute(SAY, str(owner))
                return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="module", params=ID_TYPES)
async def secured(
    request: pytest.FixtureRequest, servers: EmbeddedServers, make_database: Callable[[], Awaitable[str]]
) -> AsyncIterator[Secured]:
    kind: str = request.param
    url, role = await make_database(), f"role_{uuid.uuid4().hex[:12]}"
    settings = PersistenceSettings(_env_file=None, database_url=url, id_type=kind, user_id_type=kind)
    await migrate.upgrade(settings)
    await migrate.add_optional(settings, "row-level-security")
    administrator = await asyncpg.connect(url)
    await administrator.execute(
        f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA public TO {role}"
    )
    yield Secured(kind, url, url.replace("//postgres@", f"//{role}@"), servers.redis_url)
    await administrator.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await administrator.close()


only_strings = pytest.mark.parametrize("secured", ["string"], indirect=True)


async def a_thread(store: Persistence[Any, Any], owner: Any) -> Any:
    """A thread with two messages and two states."""
    thread_id = (await store.threads.create(user_id=owner)).thread_id
    await store.messages.append_many(thread_id, [HELLO, HELLO], user_id=owner)
    for number in range(2):
        await store.states.put(thread_id, number, user_id=owner)
    return thread_id


async def threads_seen(uow: Any, store: Persistence[Any, Any]) -> list[Any]:
    """The threads that a statement finds which forgot its WHERE."""
    return list(await uow.session.scalars(select(table_of(store.models.Thread).c.thread_id)))


async def test_plain_sql_sees_the_rows_of_the_owner_that_it_names(secured: Secured) -> None:
    ada, eve = secured.new_id(), secured.new_id()
    async with Persistence[Any, Any](secured.settings()) as store:
        for owner in (ada, eve):
            await a_thread(store, owner)

    for table, rows in zip(TABLES, (1, 2, 2), strict=True):
        count = f"SELECT count(*) FROM {table}"
        assert await secured.run(count) == [(0,)]
        assert await secured.run(count, owner=ada) == [(rows,)]
        assert await secured.run(count, owner=eve) == [(rows,)]
    assert await secured.run("SELECT user_id::text FROM threads", owner=ada) == [(str(ada),)]


async def test_plain_sql_sees_the_chunks_of_the_owner_that_it_names(secured: Secured) -> None:
    ada, eve = secured.new_id(), secured.new_id()
    async with Persistence[Any, Any](secured.settings()) as store:
        thread_id = (await store.threads.create(user_id=ada)).thread_id
        await store.states.put_stream(thread_id, pieces(b"of ada"), user_id=ada)
        read = [piece async for piece in store.states.open_stream(thread_id, user_id=ada)]

    for table in ("state_streams", "state_chunks"):
        count = f"SELECT count(*) FROM {table}"
        assert await secured.run(count, owner=ada) == [(1,)]
        assert await secured.run(count, owner=eve) == await secured.run(count) == [(0,)]
    assert read == [b"of ada"]


async def test_plain_sql_sees_and_changes_the_items_of_the_owner_that_it_names(secured: Secured) -> None:
    ada, eve = secured.new_id(), secured.new_id()
    item = NewItem(namespace=("facts",), key="tea", value={"cups": 3}, ttl=3600)
    async with Persistence[Any, Any](secured.settings()) as store:
        await store.items.put_many([item], user_id=ada)
        await store.items.put_many([item], user_id=eve)
        assert await store.items.delete_many([ItemKey(("facts",), "tea")], user_id=eve) == 1
        [found] = await store.items.search(filter={"cups": {"$gt": 2}}, user_id=ada)
        assert await store.items.search(user_id=eve) == []
        assert await store.items.namespaces(user_id=ada) == [("facts",)]

    assert found.value == {"cups": 3}
    count = "SELECT count(*) FROM items"
    assert await secured.run(count, owner=ada) == [(1,)]
    assert await secured.run(count, owner=eve) == await secured.run(count) == [(0,)]
    for statement in ("UPDATE items SET value = '{}' RETURNING 1", "DELETE FROM items RETURNING 1"):
        assert await secured.run(statement, owner=eve) == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await secured.run(
            "INSERT INTO items (user_id, namespace, key, value) VALUES ($1, 'a', 'b', '{}')", ada, owner=eve
        )


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_plain_sql_writes_nothing_for_somebody_else(secured: Secured) -> None:
    ada, eve = secured.new_id(), secured.new_id()
    async with Persistence[Any, Any](secured.settings()) as store:
        thread_id = await a_thread(store, ada)

    for statement, arguments in (
        ("INSERT INTO threads (thread_id, user_id) VALUES ($1, $2)", (secured.new_id(), ada)),
        ("INSERT INTO states (thread_id, state_data) VALUES ($1, '0')", (thread_id,)),
        (
            "INSERT INTO messages (thread_id, message_id, role, content) VALUES ($1, $2, 'user', '')",
            (thread_id, secured.new_id()),
        ),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await secured.run(statement, *arguments, owner=eve)
    for statement in ("UPDATE threads SET meta = '{}'", "DELETE FROM states", "DELETE FROM messages"):
        assert await secured.run(f"{statement} WHERE thread_id = $1 RETURNING 1", thread_id, owner=eve) == []


async def test_a_forgotten_where_shows_only_what_is_the_owners(secured: Secured) -> None:
    ada, eve = secured.new_id(), secured.new_id()
    async with Persistence[Any, Any](secured.settings()) as store:
        of_ada, of_eve = await a_thread(store, ada), await a_thread(store, eve)

        seen: dict[Any, list[Any]] = {}
        for owner in (ada, eve, ANY_USER):
            async with store.begin(user_id=owner) as uow:
                await uow.threads.page(limit=1)
                seen[owner] = await threads_seen(uow, store)
        async with store.engine.connect() as connection:
            seen[None] = list(await connection.scalars(text("SELECT thread_id FROM threads")))

    assert (seen[ada], seen[eve], seen[None]) == ([of_ada], [of_eve], [])
    assert {of_ada, of_eve} <= set(seen[ANY_USER])


@pytest.mark.parametrize("cached", [True, False])
async def test_everything_works(secured: Secured, cached: bool) -> None:
    user = secured.new_id()
    async with Persistence[Any, Any](secured.cached() if cached else secured.settings()) as store:
        thread_id = await use_threads(store, user)
        await use_messages(store, user, thread_id)
        await use_states(store, user, thread_id)
        assert await store.threads.delete(thread_id, user_id=user)

        assert (await store.threads.page(user_id=user)).items == ()


async def test_administration_sees_and_sweeps_everybodys_states(secured: Secured) -> None:
    ada, eve = secured.new_id(), secured.new_id()
    async with Persistence[Any, Any](secured.settings()) as store:
        places = [(await a_thread(store, owner), owner) for owner in (ada, eve)]
        for thread_id, _ in places:
            assert len((await store.states.page(thread_id, user_id=ANY_USER)).items) == 2

        await store.purge(keep_last=1)

        for thread_id, owner in places:
            assert [state.data for state in (await store.states.page(thread_id, user_id=owner)).items] == [1]


@only_strings
async def test_owners_who_share_a_session_see_what_is_theirs(secured: Secured) -> None:
    async with Persistence[str, str](secured.settings()) as store, AsyncSession(store.engine) as session:
        threads = {owner: await a_thread(store, owner) for owner in ("dora", "carl")}
        seen: list[Sequence[Any]] = []
        for owner in ("dora", "carl", "dora"):
            uow = store.bind(session, user_id=owner)
            await uow.threads.require(threads[owner])
            seen.append(await threads_seen(uow, store))
        await session.commit()

        assert seen == [[threads["dora"]], [threads["carl"]], [threads["dora"]]]
        assert await threads_seen(uow, store) == []
        assert (await uow.threads.require(threads["dora"])).user_id == "dora"


@only_strings
async def test_a_savepoint_that_is_rolled_back_does_not_take_the_owner_along(secured: Secured) -> None:
    async with Persistence[str, str](secured.settings()) as store:
        thread_id = await a_thread(store, "fred")
        async with store.begin(user_id="fred") as uow:
            savepoint = await uow.session.begin_nested()
            await uow.threads.update(thread_id, name="never")
            await savepoint.rollback()

            await uow.threads.update(thread_id, name="kept")

        assert (await store.threads.require(thread_id, user_id="fred")).name == "kept"


@only_strings
async def test_objects_that_wait_for_a_flush_are_written_as_the_owner(secured: Secured) -> None:
    async with Persistence[str, str](secured.settings()) as store:
        async with store.begin(user_id="gina") as uow:
            uow.session.add(store.models.Thread(thread_id="flushed", user_id="gina", meta={}))
            found = await uow.threads.require("flushed")

        assert found.user_id == "gina"


@only_strings
async def test_the_owner_is_named_once_a_transaction(secured: Secured) -> None:
    async with Persistence[str, str](secured.settings()) as store:
        thread_id = await a_thread(store, "hank")
        statements: list[str] = []
        event.listen(store.engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

        async with store.begin(user_id="hank") as uow:
            await uow.threads.require(thread_id)
            await uow.messages.page(thread_id)
            await uow.states.page(thread_id)

    assert ["set_config" in statement for statement in statements] == [True, False, False, False]


@pytest.mark.parametrize("secured", ["int", "bigint"], indirect=True)
async def test_ids_that_others_have_taken_by_hand_do_not_stop_the_numbering(secured: Secured) -> None:
    ada, eve = secured.new_id(), secured.new_id()
    async with Persistence[Any, Any](secured.settings()) as store:
        last = (await store.threads.create(user_id=ada)).thread_id
        for number in range(1, 21):
            await store.threads.create(user_id=ada, thread_id=last + number)

        thread = await store.threads.create(user_id=eve)

    assert thread.thread_id == last + 21


@only_strings
async def test_the_latest_state_is_still_read_from_its_index(secured: Secured) -> None:
    administrator = await asyncpg.connect(secured.administrator)
    await administrator.execute(
        "INSERT INTO threads (thread_id, user_id) SELECT 'p' || n, 'u' || n % 100 FROM generate_series(1, 5000) AS n;"
        "INSERT INTO states (thread_id, state_data)"
        " SELECT 'p' || n % 5000 + 1, '0' FROM generate_series(1, 20000) AS n; ANALYZE threads, states"
    )
    await administrator.close()

    async with Persistence[str, str](secured.settings()) as store:
        statement, parameters = await _statement_of(store, lambda: store.states.get("p5", user_id="u5"))
        async with store.begin(user_id="u5") as uow:
            await uow.threads.get("p5")
            connection = await uow.session.connection()
            explained = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plan = json.dumps(explained.scalar_one())

    assert "pk_states" in plan
    assert "Seq Scan" not in plan


async def _statement_of(store: Persistence[str, str], call: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
    sent: list[tuple[str, Any]] = []
    event.listen(store.engine.sync_engine, "before_cursor_execute", lambda *args: sent.append((args[2], args[3])))
    await call()
    return sent[-1]


async def test_whole_threads_are_added_where_copy_is_not_allowed(secured: Secured) -> None:
    owner = secured.new_id()
    async with Persistence[Any, Any](secured.settings()) as store:
        new: NewThread[Any] = NewThread(messages=[HELLO, HELLO], states=[1, 2])
        [thread_id] = await store.threads.create_many([new], user_id=owner)

        assert [record.message for record in await store.messages.page(thread_id, user_id=owner)] == [HELLO, HELLO]
        assert [state.data for state in await store.states.page(thread_id, user_id=owner)] == [2, 1]


async def test_large_states_are_kept_as_changes_and_the_view_shows_an_owners_only(secured: Secured) -> None:
    owner, stranger = secured.new_id(), secured.new_id()
    states = [{"step": step, "text": 9000 * "x"} for step in range(4)]
    async with Persistence[Any, Any](secured.settings()) as store:
        thread_id = (await store.threads.create(user_id=owner)).thread_id
        for state in states:
            await store.states.put(thread_id, state, user_id=owner)
        await store.states.prune(thread_id, user_id=owner, keep_last=3)

        page = await store.states.page(thread_id, user_id=owner)
    view = "SELECT state_data ->> 'step' AS step FROM state_versions ORDER BY state_id"

    assert [state.data for state in page] == states[:0:-1]
    assert [row["step"] for row in await secured.run(view, owner=owner)] == ["1", "2", "3"]
    assert await secured.run(view, owner=stranger) == []
    assert await secured.run("SELECT FROM states WHERE base_id IS NOT NULL", owner=owner) != []
