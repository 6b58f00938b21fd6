"""Every backend without PostgreSQL keeps ``CheckpointLimits``."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from agent_persistence import CheckpointingDisabledError, InvalidInputError, PersistenceSettings
from agent_persistence.backends.dynamodb import DynamoDBCheckpointer
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.backends.memory import MemoryCheckpointer, MemoryStore
from agent_persistence.backends.redis import RedisCheckpointer
from agent_persistence.checkpointer import Checkpointer

Make = Callable[..., Checkpointer]


@pytest.fixture(params=["memory", "redis", "dynamodb"])
def make(request: pytest.FixtureRequest, redis: Redis, dynamodb: Any, dynamodb_table: str) -> Make:
    """Make a checkpointer that keeps to some limits."""
    common: dict[str, Any] = {"user_id": "u", "namespace": f"limits-{uuid.uuid4().hex[:12]}"}

    def make(**limits: Any) -> Checkpointer:
        options = common | {"limits": CheckpointLimits(**limits)}
        if request.param == "memory":
            return MemoryCheckpointer(**options)
        if request.param == "redis":
            return RedisCheckpointer(client=redis, **options)
        return DynamoDBCheckpointer(client=dynamodb, table=dynamodb_table, **options)

    return make


async def test_only_the_newest_versions_are_kept(make: Make) -> None:
    checkpointer = make(max_history=2)
    saved = [await checkpointer.save_state("t", step) for step in range(5)]

    assert list(await checkpointer.state_history("t")) == [saved[4], saved[3]]
    assert await checkpointer.load_state("t", version=saved[2].version) is None


async def test_states_expire_by_the_limits_unless_the_save_has_a_ttl(make: Make) -> None:
    checkpointer = make(ttl_seconds=60)

    usual, short = await checkpointer.save_state("a", 1), await checkpointer.save_state("b", 1, ttl=5)

    assert usual.expires_at == usual.created_at + timedelta(seconds=60)
    assert short.expires_at == short.created_at + timedelta(seconds=5)


async def test_states_that_are_too_large_are_refused(make: Make) -> None:
    checkpointer = make(max_json_bytes=10)

    await checkpointer.save_state("t", "12345678")
    with pytest.raises(InvalidInputError, match="^state: takes 11 bytes"):
        await checkpointer.save_state("t", "123456789")


async def test_unstorable_characters_are_replaced_if_the_limits_say_so(make: Make) -> None:
    checkpointer = make(replace_unstorable=True)

    saved = await checkpointer.save_state("t", ["a\0b", float("nan")])

    assert saved.state == ["a\ufffdb", None]
    assert await checkpointer.load_state("t") == saved


async def test_states_can_be_turned_off(make: Make) -> None:
    checkpointer = make(save_states=False)

    with pytest.raises(CheckpointingDisabledError):
        await checkpointer.save_state("t", {})
    assert await checkpointer.load_state("t") is None


def test_limits_are_those_of_the_settings() -> None:
    settings = PersistenceSettings(
        max_checkpoint_history=3,
        checkpoint_ttl_seconds=60,
        max_json_bytes=100,
        sanitize="replace",
        enable_checkpointing=False,
    )

    assert CheckpointLimits.from_settings(settings) == CheckpointLimits(
        max_history=3, ttl_seconds=60.0, max_json_bytes=100, replace_unstorable=True, save_states=False
    )
    assert CheckpointLimits.from_settings(PersistenceSettings()) == CheckpointLimits()


@pytest.mark.parametrize(("field", "bad"), [("max_history", -1), ("ttl_seconds", 0.0)])
def test_wrong_limits_are_refused_by_name(field: str, bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"^{field}: "):
        CheckpointLimits(**{field: bad})


async def test_memory_checkpointers_share_a_store_only_if_it_is_given() -> None:
    store = MemoryStore()
    one, same, other = (
        MemoryCheckpointer(user_id="u", store=store),
        MemoryCheckpointer.from_settings(PersistenceSettings(), user_id="u", store=store),
        MemoryCheckpointer.from_env(user_id="u"),
    )

    saved = await one.save_state("t", 1)

    assert await same.load_state("t") == saved
    assert await other.load_state("t") is None


async def test_saves_are_ordered_while_the_clock_stands_still() -> None:
    checkpointer = MemoryCheckpointer(user_id="u", store=MemoryStore(clock=lambda: 1.0))
    first = await checkpointer.save_state("a", 1)
    await checkpointer.save_state("b", 1)
    await checkpointer.delete_thread("a")

    again = await checkpointer.save_state("a", 2)

    assert again.version > first.version
    pages = [await checkpointer.list_threads(limit=1)]
    pages.append(await checkpointer.list_threads(limit=1, after=pages[0].after))
    assert [thread.thread_id for page in pages for thread in page] == ["a", "b"]


async def test_memory_drops_expired_threads() -> None:
    now = 0.0
    store = MemoryStore(clock=lambda: now)
    checkpointer = MemoryCheckpointer(user_id="u", store=store)
    for number in range(50):
        await checkpointer.save_state(f"t-{number}", {"text": f"{number}" * 1000}, ttl=10)
    now = 11.0

    await checkpointer.save_state("another", 1)

    assert len(store) == 1
