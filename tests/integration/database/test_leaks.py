"""Every error that contents or passwords can come near tells neither, and no log does."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from integration.repository_testing import run_sql
from leaks import CANARY, watched_for_leaks, with_password
from sqlalchemy import insert, text

from agent_persistence import errors, migrate
from agent_persistence.errors import PersistenceError, UnavailableError
from agent_persistence.models.base import table_of
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage
from agent_persistence.settings import PersistenceSettings

OWNER = "ann"
SECRET = {"role": "user", "content": CANARY, "name": CANARY}
META = {"note": [CANARY]}


class Spoiled:
    """A store of a database whose host has added what refuses our writes; some of the rows in it hold the canary."""

    def __init__(self, url: str, redis_url: str, **values: Any) -> None:
        self._values: dict[str, Any] = {"database_url": url, "redis_url": redis_url, "retry_deadline": 0, **values}
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        self.store = await self.another(pool_size=2, max_overflow=0, pool_timeout=0.05, sql_log_level="INFO")
        await migrate.upgrade(self.store.settings)
        await run_sql(self.store, "ALTER TABLE messages ADD CONSTRAINT hosts_own CHECK (reasoning IS NULL)")
        await run_sql(self.store, "CREATE UNIQUE INDEX hosts_names ON threads (thread_name)")
        await run_sql(
            self.store,
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        )
        await run_sql(
            self.store,
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON threads DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW WHEN (NEW.user_id = 'dies at commit') EXECUTE FUNCTION die()",
        )
        thread = await self.store.threads.create(user_id=OWNER, name=CANARY, meta=META)
        self.thread_id = thread.thread_id
        new = NewMessage(message=SECRET, meta=META, usages=META)
        self.message_id = (await self.store.messages.append(self.thread_id, new, user_id=OWNER)).message_id
        await self.store.states.put(self.thread_id, META, meta=META, user_id=OWNER)
        assert (await self.store.threads.page(user_id=OWNER, search=CANARY, meta=META)).items == (thread,)
        assert len(await self.store.messages.page(self.thread_id, user_id=OWNER, search=CANARY)) == 1

    async def another(self, **changes: Any) -> Persistence[str, str]:
        store = Persistence[str, str](PersistenceSettings(_env_file=None, **{**self._values, **changes}))
        self._opened.push_async_callback(store.aclose)
        return store

    async def close(self) -> None:
        await self._opened.aclose()


@pytest_asyncio.fixture(scope="module")
async def spoiled(servers: Any, make_database: Callable[[], Awaitable[str]]) -> AsyncIterator[Spoiled]:
    made = Spoiled(with_password(await make_database()), servers.redis_url)
    sql_log = logging.getLogger("sqlalchemy.engine")
    usual_level = sql_log.level
    await made.open()
    yield made
    await made.close()
    sql_log.setLevel(usual_level)


async def too_late(at: Spoiled, **limit: float) -> None:
    store = await at.another(**limit)
    async with at.store.begin(user_id=OWNER) as uow:
        await uow.threads.update(at.thread_id, meta=META)
        await store.messages.append(at.thread_id, SECRET, user_id=OWNER)


async def without_a_connection(at: Spoiled) -> None:
    async with at.store.begin(user_id=OWNER) as first, at.store.begin(user_id=OWNER) as second:
        await first.threads.get(at.thread_id)
        await second.threads.get(at.thread_id)
        await at.store.messages.append(at.thread_id, SECRET, user_id=OWNER)


async def cut_off(at: Spoiled) -> None:
    async with at.store.begin(user_id=OWNER) as uow:
        pid = (await uow.session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await run_sql(at.store, "SELECT pg_terminate_backend(:pid)", pid=pid)
        await uow.messages.append(at.thread_id, SECRET)


async def cut_off_at_commit(at: Spoiled) -> None:
    async with at.store.begin(user_id=OWNER) as uow:
        await uow.session.execute(
            insert(table_of(at.store.models.Thread)).values(thread_id="t", user_id="dies at commit", meta=META)
        )


async def at_once(at: Spoiled) -> None:
    async with at.store.begin(user_id=OWNER) as uow:
        calls = [asyncio.create_task(uow.messages.append(at.thread_id, SECRET)) for _ in range(2)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        raise next(one for one in results if isinstance(one, Exception))


async def unreadable(at: Spoiled) -> None:
    thread = await at.store.threads.create(user_id=OWNER, name=f"{CANARY} unreadable")
    spoil = (
        "UPDATE threads SET meta = jsonb_build_object('note', CAST(:note AS text), 'n', 1e5000) WHERE thread_id = :id"
    )
    await run_sql(at.store, spoil, note=CANARY, id=thread.thread_id)
    assert len((await at.store.threads.page(user_id=OWNER)).corrupt) == 1
    await at.store.threads.get(thread.thread_id, user_id=OWNER)


async def unreachable(at: Spoiled) -> None:
    store = await at.another(database_url=f"postgresql://ann:{CANARY}@127.0.0.1:1/db?connect_timeout=1")
    await store.messages.append(at.thread_id, SECRET, user_id=OWNER)


async def of_another_loop(at: Spoiled) -> None:
    await at.store.threads.page(user_id=OWNER)
    await asyncio.to_thread(asyncio.run, at.store.messages.append(at.thread_id, SECRET, user_id=OWNER))


async def check(at: Spoiled, **changes: Any) -> None:
    await (await at.another(**changes)).check()


async def append(at: Spoiled, message: Any, **changes: Any) -> None:
    await at.store.messages.append(at.thread_id, message, user_id=OWNER, **changes)


async def put(at: Spoiled, *, settings: dict[str, Any] | None = None, **arguments: Any) -> None:
    store = await at.another(**(settings or {}))
    await store.states.put(at.thread_id, META, user_id=OWNER, **arguments)


async def create(at: Spoiled, **values: Any) -> None:
    await at.store.threads.create(user_id=OWNER, **values)


@dataclass(frozen=True)
class Provoked:
    kind: type[PersistenceError]
    how: Callable[[Spoiled], Awaitable[Any]]


PROVOKED = {
    "a name that is too long": Provoked(errors.InvalidInputError, lambda at: create(at, name=CANARY * 40)),
    "a value that is none of JSON": Provoked(
        errors.InvalidInputError, lambda at: create(at, meta={"a": [CANARY, {CANARY}]})
    ),
    "a text that cannot be stored": Provoked(
        errors.InvalidInputError, lambda at: append(at, {**SECRET, "content": f"{CANARY}\0"})
    ),
    "an id that is none": Provoked(errors.InvalidInputError, lambda at: create(at, thread_id=f"{CANARY}\n")),
    "a search for what no text holds": Provoked(
        errors.InvalidInputError, lambda at: at.store.threads.page(user_id=OWNER, search=f"{CANARY}\ud800")
    ),
    "a cursor that is none": Provoked(
        errors.InvalidInputError, lambda at: at.store.threads.page(user_id=OWNER, after=CANARY)
    ),
    "no such thread": Provoked(
        errors.ThreadNotFoundError, lambda at: at.store.messages.append("nowhere", SECRET, user_id=OWNER)
    ),
    "no such message": Provoked(
        errors.MessageNotFoundError,
        lambda at: at.store.messages.update(at.thread_id, "none", message=SECRET, user_id=OWNER),
    ),
    "no such state": Provoked(errors.StateNotFoundError, lambda at: at.store.states.require("nowhere", user_id=OWNER)),
    "a taken id": Provoked(errors.ThreadExistsError, lambda at: create(at, thread_id=at.thread_id, meta=META)),
    "the id of another message": Provoked(
        errors.IdempotencyConflictError, lambda at: append(at, {**SECRET, "role": "system"}, message_id=at.message_id)
    ),
    "another version": Provoked(errors.StateConflictError, lambda at: put(at, expected_version=99)),
    "a unique index": Provoked(errors.UniqueConflictError, lambda at: create(at, name=CANARY)),
    "a constraint": Provoked(errors.DatabaseError, lambda at: append(at, {**SECRET, "reasoning_content": CANARY})),
    "an unreadable row": Provoked(errors.CorruptRowError, unreadable),
    "states switched off": Provoked(
        errors.CheckpointingDisabledError, lambda at: put(at, settings={"enable_checkpointing": False})
    ),
    "a server that went away": Provoked(errors.UnavailableError, cut_off),
    "a server that is not there": Provoked(errors.UnavailableError, unreachable),
    "no connection left": Provoked(errors.PoolTimeoutError, without_a_connection),
    "a slow statement": Provoked(errors.StatementTimeoutError, lambda at: too_late(at, statement_timeout=0.1)),
    "a locked row": Provoked(errors.LockTimeoutError, lambda at: too_late(at, lock_timeout=0.03)),
    "a server that went away during COMMIT": Provoked(errors.CommitUnknownError, cut_off_at_commit),
    "two tasks at once": Provoked(errors.UnitOfWorkInUseError, at_once),
    "another event loop": Provoked(errors.WrongLoopError, of_another_loop),
    "no tables": Provoked(errors.NotMigratedError, lambda at: check(at, db_schema="never_made")),
    "ids of another type": Provoked(errors.IdTypeMismatchError, lambda at: check(at, id_type="bigint")),
    "an address that is none": Provoked(
        errors.SettingsError, lambda at: at.another(database_url=f"postgresql://ann:{CANARY}@host:x/{CANARY}")
    ),
    "an address of Redis that is none": Provoked(
        errors.SettingsError, lambda at: at.another(redis_url=f"http://:{CANARY}@host")
    ),
}


@pytest.mark.parametrize("provoked", PROVOKED.values(), ids=PROVOKED)
async def test_an_error_tells_neither_contents_nor_passwords(spoiled: Spoiled, provoked: Provoked) -> None:
    with pytest.raises(provoked.kind) as caught:
        await provoked.how(spoiled)

    error = caught.value
    assert type(error) is provoked.kind
    assert CANARY not in f"{error} {error!r} {error.args} {vars(error)}"
    assert CANARY not in "".join(traceback.format_exception(error, chain=False))
    assert CANARY not in "".join(traceback.format_exception(error))


async def test_trouble_with_redis_tells_neither_contents_nor_passwords(
    spoiled: Spoiled, caplog: pytest.LogCaptureFixture
) -> None:
    store = await spoiled.another(redis_url=f"redis://:{CANARY}@127.0.0.1:1/0")

    for _ in range(5):
        await store.states.put(spoiled.thread_id, META, user_id=OWNER)
        await store.states.get(spoiled.thread_id, user_id=OWNER)
    await store.sweep()

    assert "state cache unavailable" in caplog.text
    assert CANARY not in f"{caplog.text} {await store.health()}"


async def test_the_log_of_statements_holds_no_parameters(spoiled: Spoiled, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        await spoiled.store.messages.append(spoiled.thread_id, SECRET, user_id=OWNER)
        await spoiled.store.messages.page(spoiled.thread_id, user_id=OWNER, search=CANARY)
        with pytest.raises(PersistenceError):
            await spoiled.store.threads.create(user_id=OWNER, name=CANARY)

    assert "INSERT INTO messages" in caplog.text
    assert CANARY not in caplog.text


def test_a_leak_of_any_log_or_error_is_found() -> None:
    logger = logging.getLogger("somebody.else")

    with watched_for_leaks() as leaks:
        logger.debug("quiet")
        logger.debug("said %s", CANARY)
        try:
            raise ValueError(CANARY)
        except ValueError:
            logger.info("failed", exc_info=True)
        UnavailableError(CANARY)
        errors.SettingsError("PERSISTENCE_POOL_SIZE", CANARY)
        errors.MissingExtraError("cli")

    assert [leak.partition(", in ")[0] for leak in leaks] == [
        "log of somebody.else",
        "log of somebody.else",
        "UnavailableError",
        "SettingsError",
    ]
    assert all("test_a_leak_of_any_log_or_error_is_found" in leak for leak in leaks)


def test_the_run_is_watched_and_its_addresses_hold_a_password(
    persistence: Persistence[str, str], request: pytest.FixtureRequest
) -> None:
    assert persistence.settings.database_url is not None
    assert f":{CANARY}-password@" in persistence.settings.database_url.get_secret_value()
    assert CANARY not in repr(persistence.settings)
    assert "no_leaks" in request.fixturenames
