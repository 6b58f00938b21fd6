"""Two owners in one database: neither sees, changes or finds out anything of the other's, whichever way they come."""

from __future__ import annotations

import base64
import itertools
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from integration.repository_testing import CALLS, HELLO, Call, Place, SettingsFor, run_sql
from redis_clients import WatchedRedis
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence import migrate
from agent_persistence.encoding.cursors import encode_cursor
from agent_persistence.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    PersistenceError,
    StateConflictError,
    ThreadExistsError,
)
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage, Page
from agent_persistence.settings import PersistenceSettings

pytestmark = pytest.mark.no_cover

Store = Persistence[Any, Any]
OTHER = {"role": "user", "content": "other"}
MORE_CALLS: dict[str, Call] = {
    "threads.update meta": lambda store, place, **owner: store.threads.update(place.thread_id, meta={"a": 1}, **owner),
    "threads.page from a thread": lambda store, place, **owner: store.threads.page(
        after=encode_cursor("threads", None, _as_text(place.thread_id)), **owner
    ),
    "messages.append of other content": lambda store, place, **owner: store.messages.append(
        place.thread_id, OTHER, message_id=place.message_id, **owner
    ),
    "messages.append_many with an id": lambda store, place, **owner: store.messages.append_many(
        place.thread_id, [HELLO, NewMessage(message=HELLO, message_id=place.message_id)], **owner
    ),
    "messages.append_many of none": lambda store, place, **owner: store.messages.append_many(
        place.thread_id, [], **owner
    ),
    "messages.page search": lambda store, place, **owner: store.messages.page(place.thread_id, search="h", **owner),
    "messages.page before": lambda store, place, **owner: store.messages.page(
        place.thread_id, before=encode_cursor("messages", 2**62), **owner
    ),
    "messages.page after": lambda store, place, **owner: store.messages.page(
        place.thread_id, after=encode_cursor("messages", 0), **owner
    ),
    "messages.update tokens": lambda store, place, **owner: store.messages.update(
        place.thread_id, place.message_id, total_tokens=7, **owner
    ),
    "states.get fresh": lambda store, place, **owner: store.states.get(place.thread_id, fresh=True, **owner),
    "states.get min_version": lambda store, place, **owner: store.states.get(
        place.thread_id, min_version=place.version, **owner
    ),
    "states.put over none": lambda store, place, **owner: store.states.put(
        place.thread_id, "forged", expected_version=0, **owner
    ),
    "states.put over": lambda store, place, **owner: store.states.put(
        place.thread_id, "forged", expected_version=place.version, **owner
    ),
    "states.page after": lambda store, place, **owner: store.states.page(
        place.thread_id, after=encode_cursor("states", 2**62), **owner
    ),
    "states.prune older": lambda store, place, **owner: store.states.prune(
        place.thread_id, older_than=datetime(2999, 1, 1, tzinfo=UTC), **owner
    ),
}
EVERY_CALL = CALLS | MORE_CALLS
READS = ("threads.get", "messages.page", "states.page", "states.get", "states.get fresh")


async def one_call(store: Store, owner: Any, call: Call, place: Any) -> Any:
    return await call(store, place, user_id=owner)


async def run(store: Store, owner: Any, call: Call, place: Any) -> Any:
    return await store.run(lambda uow: call(uow, place), user_id=owner)


async def begin(store: Store, owner: Any, call: Call, place: Any) -> Any:
    async with store.begin(user_id=owner) as uow:
        return await call(uow, place)


async def bind(store: Store, owner: Any, call: Call, place: Any) -> Any:
    async with AsyncSession(store.engine, expire_on_commit=False) as session:
        answer = await call(store.bind(session, user_id=owner), place)
        await session.commit()
        return answer


Way = Callable[[Store, Any, Call, Any], Awaitable[Any]]
every_way = pytest.mark.parametrize(
    ("way", "kind"), [(one_call, "string"), (run, "int"), (begin, "int"), (bind, "string")]
)
every_kind = pytest.mark.parametrize("kind", ["string", "int"])


class CountingRedis(WatchedRedis):
    """Writes down what is sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sent: list[str] = []

    async def around(self, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        self.sent.append(name)
        return await send()


_numbers = itertools.count(-1_000_000, -1)  # out of reach of the database, and of other tests


class Tenants:
    """Two owners, who use one database with and without a cache."""

    def __init__(self, kind: str, stores: dict[str, Store], redis: CountingRedis) -> None:
        self.kind = kind
        self.stores = stores
        self.redis = redis
        self.ada, self.eve = self.new_id(), self.new_id()
        self.taken_message_ids = (self.new_id(), self.new_id())

    def new_id(self) -> Any:
        """An id that nobody has, and that nobody will be given."""
        return next(_numbers) if self.kind == "int" else f"id-{uuid.uuid4()}"

    async def place(self, owner: Any) -> Place:
        """A thread whose messages have the same ids as those of every other thread here."""
        store = self.stores["cached"]
        thread_id = (await store.threads.create(user_id=owner, name="mine", meta={"of": "somebody"})).thread_id
        new = [NewMessage(message=HELLO, message_id=message_id) for message_id in self.taken_message_ids]
        await store.messages.append_many(thread_id, new, user_id=owner)
        for number in range(2):
            state = await store.states.put(thread_id, number, user_id=owner)
        await store.states.require(thread_id, user_id=owner)  # and so it is in the cache
        return Place(thread_id, self.taken_message_ids[0], state.version)

    async def neighbours(self) -> tuple[Place, Place]:
        """A thread of Eve's, and one of Ada's, whose id is the next where ids are numbers."""
        eves, adas = await self.place(self.eve), await self.place(self.ada)
        if isinstance(adas.thread_id, int):
            assert adas.thread_id == eves.thread_id + 1
        return eves, adas

    def nowhere(self) -> Place:
        return Place(self.new_id(), self.new_id(), 1)

    async def seen_by(self, owner: Any, place: Place) -> list[Any]:
        """All that the owner can read of a thread, with and without the cache, and its rows."""
        seen: list[Any] = [await rows_of(self.stores["cached"], place)]
        for store in self.stores.values():
            seen += [await EVERY_CALL[name](store, place, user_id=owner) for name in READS]
            seen.append(await store.threads.page(user_id=owner))
        return seen

    @contextmanager
    def round_trips(self, store: Store) -> Iterator[list[str]]:
        """Collect what goes to PostgreSQL and to Redis, but what is asked once in the life of a connection."""
        trips: list[str] = []
        engine, self.redis.sent = store.engine.sync_engine, trips
        listeners: dict[str, Any] = {
            "before_cursor_execute": lambda _connection, _cursor, sql, *_: trips.append(sql),
            "begin": lambda _: trips.append("BEGIN"),
            "commit": lambda _: trips.append("COMMIT"),
            "rollback": lambda _: trips.append("ROLLBACK"),
        }
        for name, listener in listeners.items():
            event.listen(engine, name, listener)
        yield trips
        for name, listener in listeners.items():
            event.remove(engine, name, listener)
        for place in reversed([place for place, trip in enumerate(trips) if "pg_stat_activity" in trip]):
            del trips[place - 1 : place + 2]  # with its BEGIN and ROLLBACK


@asynccontextmanager
async def opened(kind: str, cached: PersistenceSettings, plain: PersistenceSettings) -> AsyncIterator[Tenants]:
    assert cached.redis_url is not None
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(CountingRedis.from_url(cached.redis_url.get_secret_value()))
        stores = {
            "cached": await stack.enter_async_context(Persistence[Any, Any](cached, redis=redis)),
            "plain": await stack.enter_async_context(Persistence[Any, Any](plain)),
        }
        tenants = Tenants(kind, stores, redis)
        await stores["cached"].states.get(tenants.new_id(), user_id=tenants.eve)  # the first fill loads its script
        yield tenants


@pytest_asyncio.fixture
async def tenants(settings_for: SettingsFor, kind: str) -> AsyncIterator[Tenants]:
    cached, plain = await settings_for(kind, kind), await settings_for(kind, kind, redis_url=None)
    async with opened(kind, cached, plain) as both:
        yield both


async def rows_of(store: Store, place: Place) -> list[Any]:
    return [
        await run_sql(store, f"SELECT {table}::text FROM {table} WHERE thread_id = :id ORDER BY 1", id=place.thread_id)
        for table in ("threads", "messages", "states")
    ]


async def told(call: Awaitable[Any], place: Any) -> Any:
    """What a caller is told: the result or the error, with the ids that were asked for left out."""
    try:
        answer = await call
    except PersistenceError as error:
        return type(error), without_ids(str(error), place), [without_ids(repr(one), place) for one in error.args]
    if isinstance(answer, Page):
        return "page", records_in(answer), answer.corrupt, answer.before, answer.after
    return answer


def without_ids(text: str, place: Any) -> str:
    for one in (place.thread_id, place.message_id):
        text = re.sub(rf"(?<![\w-]){re.escape(repr(one))}(?![\w-])", "<id>", text)
    return text


def records_in(answer: Any) -> list[Any]:
    """The records in an answer, whatever shape it has."""
    if isinstance(answer, Page | tuple):
        return list(answer)
    return [answer] if hasattr(answer, "created_at") else []


def _as_text(thread_id: Any) -> Any:
    return thread_id if isinstance(thread_id, int) else str(thread_id)


@every_way
async def test_another_s_id_tells_nothing_by_its_answer_nor_by_its_round_trips(tenants: Tenants, way: Way) -> None:
    _, adas = await tenants.neighbours()
    nowhere, before = tenants.nowhere(), await tenants.seen_by(tenants.ada, adas)

    for name, call in EVERY_CALL.items():
        answers = []
        for store in tenants.stores.values():
            trips_of = []
            for place in (adas, nowhere):
                with tenants.round_trips(store) as trips:
                    answers.append(await told(way(store, tenants.eve, call, place), place))
                trips_of.append(trips)
            assert trips_of[0] == trips_of[1], name
        assert answers == [answers[0]] * 4, name

    assert await tenants.seen_by(tenants.ada, adas) == before


@every_way
@pytest.mark.parametrize("cache", ["cached", "plain"])
async def test_what_one_owner_does_reaches_nothing_of_another(tenants: Tenants, way: Way, cache: str) -> None:
    store = tenants.stores[cache]
    eves, adas = await tenants.neighbours()
    before = await tenants.seen_by(tenants.ada, adas)
    refused = set()

    last = ("messages.delete", "messages.pop", "messages.clear", "states.clear", "threads.delete")
    for name, call in sorted(
        EVERY_CALL.items(), key=lambda item: (last.index(item[0]) if item[0] in last else -1, item[0])
    ):
        try:
            answer = await way(store, tenants.eve, call, eves)
        except (IdempotencyConflictError, StateConflictError):
            refused.add(name)
        else:
            records = records_in(answer)
            assert {one.thread_id for one in records} <= {eves.thread_id}, name
            assert {one.user_id for one in records if hasattr(one, "user_id")} <= {tenants.eve}, name

    assert refused == {"messages.append of other content", "states.put over", "states.put over none"}
    assert await rows_of(store, eves) == [[], [], []]
    assert await tenants.seen_by(tenants.ada, adas) == before


@every_way
async def test_a_taken_id_of_a_thread_is_refused_alike_whoever_has_it(tenants: Tenants, way: Way) -> None:
    eves, adas = await tenants.neighbours()
    before = [await tenants.seen_by(owner, place) for owner, place in ((tenants.ada, adas), (tenants.eve, eves))]

    def create(store: Any, place: Place, **owner: Any) -> Awaitable[Any]:
        return store.threads.create(thread_id=place.thread_id, name="stolen", **owner)

    for store in tenants.stores.values():
        answers, trips_of = [], []
        for place in (adas, eves):
            with tenants.round_trips(store) as trips:
                answers.append(await told(way(store, tenants.eve, create, place), place))
            trips_of.append(trips)
        assert answers[0] == answers[1]
        assert answers[0][0] is ThreadExistsError
        assert trips_of[0] == trips_of[1]
        made = await way(store, tenants.eve, create, tenants.nowhere())
        assert await store.threads.delete(made.thread_id, user_id=tenants.eve)

    after = [await tenants.seen_by(owner, place) for owner, place in ((tenants.ada, adas), (tenants.eve, eves))]
    assert after == before


@every_kind
@pytest.mark.parametrize("cache", ["cached", "plain"])
async def test_an_id_that_changes_hands_takes_nothing_along(tenants: Tenants, cache: str) -> None:
    store, ada, eve = tenants.stores[cache], tenants.ada, tenants.eve
    place = await tenants.place(ada)
    assert await store.states.get(place.thread_id, user_id=eve) is None  # which the cache keeps, too

    await store.threads.delete(place.thread_id, user_id=ada)
    await store.threads.create(thread_id=place.thread_id, user_id=eve)

    for owner in (ada, eve, ada):
        assert await store.states.get(place.thread_id, user_id=owner) is None
        assert (await store.messages.page(place.thread_id, user_id=owner)).items == ()
        assert await store.messages.get(place.thread_id, place.message_id, user_id=owner) is None
    assert await store.threads.get(place.thread_id, user_id=ada) is None

    state = await store.states.put(place.thread_id, "of eve", user_id=eve)
    assert await store.states.get(place.thread_id, user_id=ada) is None
    assert await store.states.get(place.thread_id, user_id=eve) == state


def spoiled(cursor: str, random: Random) -> Iterator[str]:
    """The cursor with a bit turned, cut short, or repeated; its text, too, since an encoding is soon undone."""
    text = base64.urlsafe_b64decode(cursor + "==")
    for whole in (cursor.encode(), text):
        turned = bytearray(whole)
        for _ in range(12):
            place, bit = random.randrange(len(whole)), 1 << random.randrange(7)
            turned[place] ^= bit
            yield turned.decode() if whole is not text else base64.urlsafe_b64encode(turned).decode()
            turned[place] ^= bit
    yield from (cursor[:end] for end in range(0, len(cursor), 3))
    yield from (cursor * 2, cursor * 10_000, cursor + "AAAA", base64.urlsafe_b64encode(text * 2).decode())


def forged(place: Place) -> Iterator[str]:
    """Cursors that nobody was given, for the place of somebody else's rows."""
    thread_id = _as_text(place.thread_id)
    for listing in ("threads", "messages", "states"):
        for number in (0, 1, place.version, 2**62, 2**63, 10**400, -1):
            if abs(number) < 2**64:
                yield encode_cursor(listing, number)
                yield encode_cursor(listing, number, thread_id)
            yield base64.urlsafe_b64encode(f'["{listing}",{number},"{thread_id}"]'.encode()).decode()
        yield encode_cursor(listing, None, thread_id)
        yield encode_cursor(listing, 10**15, "x" * 100_000)


@every_kind
async def test_no_cursor_whatsoever_shows_a_row_of_another(tenants: Tenants) -> None:
    eves, adas = await tenants.neighbours()
    for owner in (tenants.ada, tenants.eve):
        await tenants.place(owner)
    store = tenants.stores["plain"]

    async def given_to(owner: Any, place: Place) -> list[str | None]:
        pages: tuple[Page[Any], ...] = (
            await store.threads.page(user_id=owner, limit=1),
            await store.messages.page(place.thread_id, user_id=owner, limit=1),
            await store.states.page(place.thread_id, user_id=owner, limit=1),
        )
        return [cursor for page in pages for cursor in (page.before, page.after) if cursor is not None]

    given = await given_to(tenants.ada, adas) + await given_to(tenants.eve, eves)
    assert len(given) == 8
    random = Random(7)
    cursors = [*given, *forged(adas), *(bad for cursor in given for bad in spoiled(str(cursor), random))]
    mine = {one.thread_id for one in await store.threads.page(user_id=tenants.eve)}
    shown, refusals = 0, []

    async with store.begin(user_id=tenants.eve) as uow:
        for cursor in cursors:
            for read in (
                lambda cursor: uow.threads.page(after=cursor),
                lambda cursor: uow.messages.page(eves.thread_id, before=cursor),
                lambda cursor: uow.messages.page(eves.thread_id, after=cursor),
                lambda cursor: uow.states.page(eves.thread_id, after=cursor),
                lambda cursor: uow.messages.page(adas.thread_id, before=cursor),
                lambda cursor: uow.messages.page(adas.thread_id, after=cursor),
                lambda cursor: uow.states.page(adas.thread_id, after=cursor),
            ):
                try:
                    page = await read(cursor)
                except InvalidInputError as error:
                    refusals.append(error.reason)
                else:
                    assert {one.thread_id for one in page} <= mine
                    shown += len(page)

    assert shown > 20
    assert len(refusals) > 500
    assert set(refusals) == {"is not a cursor of this list; pass page.before or page.after unchanged"}


SEARCHES = (
    "", "%", "_", "%%", "\\", "\\%", "'", "' OR 1=1 --", "%' OR user_id <> '", "\") OR (\"a\"=\"a", "mine", "MINE",
    "$1", ":name", "%(name)s", "{}", "/", "//", "ada", "eve",
)  # fmt: skip


@every_kind
@pytest.mark.parametrize("cache", ["cached", "plain"])
async def test_no_search_finds_a_row_of_another(tenants: Tenants, cache: str) -> None:
    store, texts = tenants.stores[cache], ("mine 100%", "Mine a_b \\ ' / \" {} $1")
    threads: dict[Any, Any] = {}
    for owner in (tenants.ada, tenants.eve):
        for text in texts:
            thread = await store.threads.create(user_id=owner, name=text, meta={"name": text, "tags": [text]})
            threads[owner] = thread.thread_id
        for message_id, text in zip(tenants.taken_message_ids, texts, strict=True):
            said = {"role": "user", "content": text}
            await store.messages.append(threads[owner], said, message_id=message_id, user_id=owner)

    async with store.begin(user_id=tenants.eve) as uow:
        for search in SEARCHES:
            wanted = sorted(text for text in texts if search.lower() in text.lower())
            named = await uow.threads.page(search=search)
            said = await uow.messages.page(threads[tenants.eve], search=search)

            assert sorted(str(one.name) for one in named) == sorted(str(one.text) for one in said) == wanted
            assert {one.user_id for one in named} <= {tenants.eve}
            assert (await uow.messages.page(threads[tenants.ada], search=search)).items == ()
        for meta in ({"name": texts[0]}, {"tags": [texts[0]]}, {"tags": []}, {"name": "%"}, {"user_id": "ada"}):
            assert {one.user_id for one in await uow.threads.page(meta=meta)} <= {tenants.eve}


@every_kind
async def test_policies_of_the_database_change_no_answer(
    tenants: Tenants, kind: str, servers: Any, make_database: Callable[[], Awaitable[str]]
) -> None:
    url, role = await make_database(), f"role_{uuid.uuid4().hex[:12]}"
    values: dict[str, Any] = {"id_type": kind, "user_id_type": kind}
    as_owner = PersistenceSettings(_env_file=None, database_url=url, **values)
    await migrate.upgrade(as_owner)
    await migrate.add_optional(as_owner, "row-level-security")
    connection = await asyncpg.connect(url)
    await connection.execute(
        f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA public TO {role}"
    )
    values |= {"database_url": url.replace("//postgres@", f"//{role}@"), "row_level_security": True}
    plain = PersistenceSettings(_env_file=None, **values)
    cached = PersistenceSettings(_env_file=None, redis_url=servers.redis_url, cache_namespace=role, **values)

    def create(store: Any, place: Place, **owner: Any) -> Awaitable[Any]:
        return store.threads.create(thread_id=place.thread_id, **owner)

    async with opened(kind, cached, plain) as secured:
        answers = []
        for both in (secured, tenants):
            place = await both.place(both.ada)
            answers.append(
                {
                    (name, way.__name__, cache): await told(way(store, both.eve, call, place), place)
                    for name, call in [*EVERY_CALL.items(), ("threads.create", create)]
                    for way in (one_call, begin)
                    for cache, store in both.stores.items()
                }
            )
    await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await connection.close()

    assert answers[0] == answers[1]
    assert answers[0]["threads.create", "begin", "cached"][0] is ThreadExistsError
