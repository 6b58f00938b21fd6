"""Defects to be found: each spoils the store of a client as a careless author would have written it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence import ANY_USER, ThreadExistsError, ThreadNotFoundError, UnavailableError
from agent_persistence.degraded import DegradedMode
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.integrations.shared_threads import SharedThread
from agent_persistence.operations.group_writes import StateGroupWriter
from agent_persistence.records import MessageRecord, Page, StateRecord
from torture.workload import SHARED, Store

Plant = Callable[[Store, Random], None]


@dataclass
class Spoiled:
    """A repository of which some methods are replaced."""

    whole: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


@dataclass
class NaiveCache(Spoiled):
    """Reads with GET, fills with SET, deletes after the commit: the race of the textbook."""

    redis: Redis
    random: Random

    async def get(self, thread_id: str, *, user_id: str) -> Any:
        key = f"naive:{user_id}:{thread_id}"
        if held := await self.redis.get(key):
            kept = json.loads(held)
            now = datetime.now(UTC)
            return StateRecord(thread_id, kept["version"], kept["data"], kept["meta"], now, now)
        state = await self.whole.get(thread_id, user_id=user_id, fresh=True)
        if state is not None:
            await asyncio.sleep(self.random.uniform(0, 0.03))  # whatever else a request awaits
            await self.redis.set(key, json.dumps(asdict(state), default=str), ex=300)
        return state

    async def put(self, thread_id: str, data: Any, *, user_id: str, expected_version: int | None = None) -> Any:
        state = await self.whole.put(thread_id, data, user_id=user_id, expected_version=expected_version)
        await self.redis.delete(f"naive:{user_id}:{thread_id}")
        return state


@dataclass
class BlindRetry(Spoiled):
    """Takes every lost connection for a write that did not happen, and writes again under a new id."""

    store: Store

    async def append(self, thread_id: str, message: Any, *, user_id: str, message_id: str | None = None) -> Any:
        while True:
            try:
                async with AsyncSession(self.store.engine) as session:
                    messages = self.store.bind(session, user_id=user_id).messages
                    record = await messages.append(thread_id, message, message_id=message_id)
                    await session.commit()
                    return record
            except DBAPIError:
                message_id = None


@dataclass
class DroppedAck(Spoiled):
    """Says now and then that a message was stored which was not sent."""

    random: Random

    async def append(self, thread_id: str, message: Any, *, user_id: str, message_id: str | None = None) -> Any:
        if message_id is None and self.random.random() < 0.05:
            now = datetime.now(UTC)
            return MessageRecord(thread_id, "never sent", 1, "user", message, "", 0, {}, {}, now, now)
        return await self.whole.append(thread_id, message, user_id=user_id, message_id=message_id)


@dataclass
class NoOwnerFilter(Spoiled):
    """Forgets whose thread it is."""

    async def page(self, thread_id: str, **arguments: Any) -> Any:
        return await self.whole.page(thread_id, **{**arguments, "user_id": ANY_USER})


@dataclass
class ForgetfulCache(NaiveCache):
    """The same, and takes a Redis that refuses the deletion for one that did it."""

    async def put(self, thread_id: str, data: Any, **arguments: Any) -> Any:
        state = await self.whole.put(thread_id, data, **arguments)
        with suppress(RedisError):  # it will expire
            await self.redis.delete(f"naive:{arguments['user_id']}:{thread_id}")
        return state

    async def get(self, thread_id: str, **arguments: Any) -> Any:
        try:
            return await super().get(thread_id, **arguments)
        except RedisError:
            return await self.whole.get(thread_id, **arguments)


@dataclass
class PatientCache(Spoiled):
    """Asks Redis without a time limit."""

    redis: Redis

    async def get(self, thread_id: str, **arguments: Any) -> Any:
        with suppress(RedisError):
            await self.redis.get(f"patient:{thread_id}")
        return await self.whole.get(thread_id, **arguments)


@dataclass
class FloatJSON(Spoiled):
    """Reads every number as a float, as some parsers do."""

    async def get(self, thread_id: str, **arguments: Any) -> Any:
        state = await self.whole.get(thread_id, **arguments)
        return state and replace(state, data=json.loads(json.dumps(state.data), parse_int=float))


@dataclass
class OldVersion(Spoiled):
    """Tells of the version that it found, not of the one that it made."""

    versions: dict[str, int] = field(default_factory=dict)

    async def put(self, thread_id: str, data: Any, **arguments: Any) -> Any:
        state = await self.whole.put(thread_id, data, **arguments)
        before = self.versions.get(thread_id, state.version)
        self.versions[thread_id] = state.version
        return replace(state, version=before)


@dataclass
class LastWriterWins(Spoiled):
    """Forgets which version was expected."""

    async def put(self, thread_id: str, data: Any, **arguments: Any) -> Any:
        return await self.whole.put(thread_id, data, **{**arguments, "expected_version": None})


@dataclass
class WrongSeq(Spoiled):
    """Numbers messages by itself."""

    async def append(self, thread_id: str, message: Any, **arguments: Any) -> Any:
        record = await self.whole.append(thread_id, message, **arguments)
        return replace(record, seq=record.seq + 1)


@dataclass
class WrongThread(Spoiled):
    """Mixes up two threads of one owner now and then."""

    random: Random

    async def append(self, thread_id: str, message: Any, **arguments: Any) -> Any:
        others = [one for one, owner in SHARED.items() if owner == arguments["user_id"] and one != thread_id]
        chosen = self.random.choice(others) if others and self.random.random() < 0.1 else thread_id
        return await self.whole.append(chosen, message, **arguments)


@dataclass
class IgnoredIds(Spoiled):
    """Appends under a new id, whatever the caller gave."""

    async def append(self, thread_id: str, message: Any, *, user_id: str, **_: Any) -> Any:
        return await self.whole.append(thread_id, message, user_id=user_id)


@dataclass
class RaisedDead(Spoiled):
    """Takes a thread that is gone for a reason to say nothing."""

    async def append(self, thread_id: str, message: Any, **arguments: Any) -> Any:
        try:
            return await self.whole.append(thread_id, message, **arguments)
        except ThreadNotFoundError:
            now = datetime.now(UTC)
            return MessageRecord(thread_id, "never stored", 1, "user", message, "", 0, {}, {}, now, now)


@dataclass
class SkippingPage(Spoiled):
    """Loses a message in the middle of a page."""

    async def page(self, thread_id: str, **arguments: Any) -> Any:
        page = await self.whole.page(thread_id, **arguments)
        return Page(page.items[:1] + page.items[2:], page.before, page.after)


@dataclass
class OldPage(Spoiled):
    """Shows a page again that it has shown within the last second."""

    kept: dict[str, tuple[float, Any]] = field(default_factory=dict)

    async def page(self, thread_id: str, **arguments: Any) -> Any:
        key = f"{thread_id} {sorted(arguments.items())}"
        since, page = self.kept.get(key, (0.0, None))
        if page is None or time.monotonic() > since + 1:
            page = await self.whole.page(thread_id, **arguments)
            self.kept[key] = time.monotonic(), page
        return page


@dataclass
class ForgottenEdits(Spoiled):
    """Says that a message was changed."""

    async def update(self, thread_id: str, message_id: str, *, user_id: str, **_: Any) -> Any:
        return await self.whole.require(thread_id, message_id, user_id=user_id)


@dataclass
class ForgottenDeletions(Spoiled):
    """Says that a message was deleted."""

    async def delete(self, thread_id: str, message_id: str, *, user_id: str) -> bool:
        return await self.whole.get(thread_id, message_id, user_id=user_id) is not None


@dataclass
class Liar(Spoiled):
    """Says now and then that nothing was stored, after it was."""

    random: Random

    async def append_many(self, *arguments: Any, **named: Any) -> Any:
        records = await self.whole.append_many(*arguments, **named)
        if self.random.random() < 0.3:
            raise UnavailableError("the reply took too long")
        return records


@dataclass
class NoRetry(Spoiled):
    """Passes on what it meets."""

    store: Store

    async def append_many(self, thread_id: str, messages: Any, *, user_id: str) -> Any:
        async with self.store.begin(user_id=user_id) as uow:
            records = await uow.messages.append_many(thread_id, messages)
            await asyncio.sleep(0.5)
            return records


@dataclass
class Endless(Spoiled):
    """Waits for the database as long as it takes."""

    store: Store

    async def get(self, thread_id: str, **arguments: Any) -> Any:
        address = self.store.settings.database
        assert address is not None
        connection = await asyncpg.connect(host="127.0.0.1", port=address.hosts[0].port, user="postgres", timeout=60)
        await connection.execute("SELECT 1", timeout=60)
        await connection.close()
        return await self.whole.get(thread_id, **arguments)


@dataclass
class LastResult(Spoiled):
    """Answers with the result of this caller, whatever was recorded before."""

    async def record(self, thread_id: str, tool_call_id: str, result: Any, **arguments: Any) -> Any:
        await self.whole.record(thread_id, tool_call_id, result, **arguments)
        return result


@dataclass
class HalfUnit(Spoiled):
    """Loses the second message of a unit of work."""

    appended: int = 0

    @property
    def messages(self) -> Any:
        return HalfUnit(self.whole.messages, self.appended)

    async def append(self, thread_id: str, message: Any, **arguments: Any) -> Any:
        self.appended += 1
        if self.appended == 1:
            return await self.whole.append(thread_id, message, **arguments)
        now = datetime.now(UTC)
        return MessageRecord(thread_id, "never stored", 1 << 40, "user", message, "", 0, {}, {}, now, now)


def forgetful_journal(_store: Store, random: Random) -> None:
    """Take states of an outage for written that were not."""
    write = DegradedMode._write  # noqa: SLF001 - what is spoiled

    async def forget(mode: DegradedMode, pending: Any) -> None:
        if random.random() < 0.3:
            mode._outage.journal.settle(pending.key, 1)  # noqa: SLF001 - as above
        else:
            await write(mode, pending)

    DegradedMode._write = forget  # type: ignore[method-assign]  # noqa: SLF001 - as above


def blind_journal(_store: Store, _random: Random) -> None:
    """Write the states of an outage over whatever is there."""
    write = DegradedMode._write  # noqa: SLF001 - what is spoiled

    async def overwrite(mode: DegradedMode, pending: Any) -> None:
        pending.expected = None
        await write(mode, pending)

    DegradedMode._write = overwrite  # type: ignore[method-assign]  # noqa: SLF001 - as above


def unsaved_checkpoint(_store: Store, random: Random) -> None:
    """Forget to save a checkpoint now and then."""
    put = PersistenceSaver.aput

    async def forget(saver: PersistenceSaver, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        if random.random() < 0.1:
            return {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}
        return await put(saver, config, checkpoint, metadata, versions)

    PersistenceSaver.aput = forget  # type: ignore[method-assign]


def doubled_item(_store: Store, random: Random) -> None:
    """Store the last item of a list twice now and then."""
    put = PersistenceSaver.aput

    async def double(saver: PersistenceSaver, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        values = checkpoint["channel_values"]
        if random.random() < 0.1:
            values = {**values, "log": [*values["log"], values["log"][-1]]}
        return await put(saver, config, {**checkpoint, "channel_values": values}, metadata, versions)

    PersistenceSaver.aput = double  # type: ignore[method-assign]


def old_checkpoint(_store: Store, random: Random) -> None:
    """Return now and then what was returned before."""
    get, kept = PersistenceSaver.aget_tuple, dict[str, Any]()

    async def remember(saver: PersistenceSaver, config: Any) -> Any:
        thread = config["configurable"]["thread_id"]
        if thread not in kept or random.random() < 0.8:
            kept[thread] = await get(saver, config)
        return kept[thread]

    PersistenceSaver.aget_tuple = remember  # type: ignore[method-assign]


def deaf_session(_store: Store, _random: Random) -> None:
    """Pass by the second item of a session."""
    get = PersistenceSession.get_items

    async def skip(session: PersistenceSession, limit: int | None = None) -> Any:
        items = await get(session, limit)
        return [*items[:1], *items[2:]]

    PersistenceSession.get_items = skip  # type: ignore[method-assign]


def late_begin(_store: Store, _random: Random) -> None:
    """Take a thread that somebody else has begun meanwhile for one that holds the messages."""
    write = SharedThread.write

    async def forget(thread: SharedThread, write_it: Any, begin: Any) -> None:
        with suppress(ThreadExistsError):
            await write(thread, begin if not thread.existed else write_it, begin)

    SharedThread.write = forget  # type: ignore[method-assign]


def unmeasured_results(store: Store, _random: Random) -> None:
    """Forget to measure the records of tool results."""
    vars(store.tool_results).pop("record", None)  # what measures hides the method itself


def no_policies(store: Store, _random: Random) -> None:
    """Name nobody to the policies of PostgreSQL, and everybody instead."""
    run = store.run

    def run_for_all(work: Any, **_: Any) -> Any:
        return run(work, user_id=ANY_USER)

    store.run = run_for_all  # type: ignore[method-assign]


def naive_cache(store: Store, random: Random) -> None:
    store.states = NaiveCache(store.states, _redis(store), random)


def forgetful_cache(store: Store, random: Random) -> None:
    store.states = ForgetfulCache(store.states, _redis(store), random)


def patient_cache(store: Store, _random: Random) -> None:
    store.states = PatientCache(store.states, _redis(store))


def endless(store: Store, _random: Random) -> None:
    store.states = Endless(store.states, store)


def half_units(store: Store, _random: Random) -> None:
    run = store.run

    def run_half(work: Any, **arguments: Any) -> Any:
        async def half(uow: Any) -> Any:
            spoiled = Spoiled(uow)
            spoiled.messages = HalfUnit(uow.messages)  # type: ignore[attr-defined]  # what is set hides the whole's
            return await work(spoiled)

        return run(half, **arguments)

    store.run = run_half  # type: ignore[method-assign]


def last_result(store: Store, _random: Random) -> None:
    store.tool_results = LastResult(store.tool_results)


def blind_save(_store: Store, _random: Random) -> None:
    """Take a save whose reply was lost for one that was not executed."""

    async def find_nothing(*_: Any) -> None:
        return None

    StateGroupWriter.find = find_nothing  # type: ignore[method-assign,assignment]


def _redis(store: Store) -> Redis:
    url = store.settings.redis_url
    assert url is not None
    return Redis.from_url(url.get_secret_value(), socket_timeout=None)


def _spoiled_states(kind: type[Spoiled]) -> Plant:
    def plant(store: Store, _random: Random) -> None:
        store.states = kind(store.states)

    return plant


def _spoiled_messages(kind: Any, *also: str) -> Plant:
    def plant(store: Store, random: Random) -> None:
        store.messages = kind(store.messages, *[{"store": store, "random": random}[name] for name in also])

    return plant


@dataclass(frozen=True)
class Planted:
    """A defect.

    Attributes:
        plant: spoils a store.
        finding: what the checker must find.
        clients: the processes that have it; the defects of one process lead to different findings.
        fault: without which it does no harm.
    """

    plant: Plant
    finding: str
    clients: tuple[int, ...]
    fault: str = ""


PLANTS: dict[str, Planted] = {
    "naive-cache": Planted(naive_cache, "stale beyond bound", (1,)),
    "wrong-seq": Planted(_spoiled_messages(WrongSeq), "moved", (1,)),
    "ignored-ids": Planted(_spoiled_messages(IgnoredIds), "duplicated", (1,)),
    "last-result": Planted(last_result, "wrong tool result", (1,)),
    "dropped-ack": Planted(_spoiled_messages(DroppedAck, "random"), "lost", (2,)),
    "skipping-page": Planted(_spoiled_messages(SkippingPage), "wrong page", (2,)),
    "last-writer-wins": Planted(_spoiled_states(LastWriterWins), "overwritten", (2,)),
    "raised-dead": Planted(_spoiled_messages(RaisedDead), "raised from the dead", (2,)),
    "no-owner-filter": Planted(_spoiled_messages(NoOwnerFilter), "cross-owner", (3,)),
    "wrong-thread": Planted(_spoiled_messages(WrongThread, "random"), "moved", (3,)),
    "float-json": Planted(_spoiled_states(FloatJSON), "wrong state", (3,)),
    "forgotten-deletions": Planted(_spoiled_messages(ForgottenDeletions), "undead", (3,)),
    "old-page": Planted(_spoiled_messages(OldPage), "stale page", (4,)),
    "old-version": Planted(_spoiled_states(OldVersion), "version went back", (4,)),
    "half-units": Planted(half_units, "torn", (4,)),
    "forgotten-edits": Planted(_spoiled_messages(ForgottenEdits), "stale message", (4,)),
    "liar": Planted(_spoiled_messages(Liar, "random"), "denied but stored", (4,)),
    "doubled-item": Planted(doubled_item, "wrong checkpoint", (1,)),
    "old-checkpoint": Planted(old_checkpoint, "stale checkpoint", (4,)),
    "unsaved-checkpoint": Planted(unsaved_checkpoint, "lost", (3,)),
    "deaf-session": Planted(deaf_session, "wrong conversation", (1,)),
    "late-begin": Planted(late_begin, "lost", (1,)),
    "unmeasured-results": Planted(unmeasured_results, "miscounted tool_results.record", (2,)),
    "no-policies": Planted(no_policies, "cross-owner", (2,)),
    "blind-retry": Planted(
        _spoiled_messages(BlindRetry, "store"), "duplicated", (5, 6), "postgresql COMMIT replies lost"
    ),
    "blind-save": Planted(blind_save, "duplicated", (5, 7), "postgresql COMMIT replies lost"),
    "patient-cache": Planted(patient_cache, "delayed by Redis", (5,), "redis hung"),
    "no-retry": Planted(_spoiled_messages(NoRetry, "store"), "error", (6,), "postgresql connections cut"),
    "forgetful-cache": Planted(forgetful_cache, "stale beyond bound", (6,), "redis READONLY"),
    "endless": Planted(endless, "too long", (5,), "postgresql black hole"),
    "forgetful-journal": Planted(forgetful_journal, "lost", (5,), "postgresql restart -m immediate"),
    "blind-journal": Planted(blind_journal, "overwritten", (5, 6, 7), "postgresql restart -m immediate"),
}
