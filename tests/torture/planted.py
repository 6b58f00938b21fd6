"""Defects to be found: each spoils the store of a client as a careless author would have written it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence import ANY_USER
from agent_persistence.records import MessageRecord, StateRecord
from torture.workload import Store


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


def naive_cache(store: Store, random: Random) -> None:
    url = store.settings.redis_url
    assert url is not None
    store.states = NaiveCache(store.states, Redis.from_url(url.get_secret_value()), random)


def blind_retry(store: Store, _random: Random) -> None:
    store.messages = BlindRetry(store.messages, store)


def dropped_ack(store: Store, random: Random) -> None:
    store.messages = DroppedAck(store.messages, random)


def no_owner_filter(store: Store, _random: Random) -> None:
    store.messages = NoOwnerFilter(store.messages)


PLANTS: dict[str, Callable[[Store, Random], None]] = {
    "naive-cache": naive_cache,
    "blind-retry": blind_retry,
    "dropped-ack": dropped_ack,
    "no-owner-filter": no_owner_filter,
}
