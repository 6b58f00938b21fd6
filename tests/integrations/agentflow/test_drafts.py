"""Drafts in Redis belong to one owner, go with their thread, and never stand in the way of the saved state."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from frameworks import Framework, need_frameworks

from agent_persistence.cache.keys import draft_keys
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import InvalidInputError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER
from agent_persistence.settings import PersistenceSettings
from conftest import MakeCheckpointer

need_frameworks()


@pytest_asyncio.fixture
async def store(address: str, servers: EmbeddedServers) -> AsyncIterator[Persistence[Any, Any]]:
    """The application's store, on the same servers."""
    settings = PersistenceSettings(_env_file=None, database_url=address, redis_url=servers.redis_url)
    async with Persistence[Any, Any](settings) as opened:
        yield opened


def key_of(store: Persistence[Any, Any], config: dict[str, Any]) -> bytes:
    assert store.cache is not None
    return draft_keys(store.cache.namespace, config["thread_id"], config["user_id"])[0]


def sealed(key: bytes, value: Any) -> bytes:
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return b"%08x %b\n%b" % (zlib.crc32(body), key, body)


async def test_a_draft_that_was_copied_to_another_users_key_is_not_shown(
    words: Framework, make: MakeCheckpointer, config: dict[str, Any], store: Persistence[Any, Any]
) -> None:
    checkpointer = make(words)
    bob = {"thread_id": f"{config['thread_id']}-bob", "user_id": "bob"}
    for one, summary in ((config, "alice's"), (bob, "bob's")):
        await checkpointer.aput_state(one, words.state(context_summary=summary))
    version = (await store.states.get(bob["thread_id"], user_id="bob")).version  # type: ignore[union-attr]
    await store.cache.redis.copy(key_of(store, config), key_of(store, bob), replace=True)  # type: ignore[union-attr]
    await checkpointer.aput_state_cache(config, words.state(context_summary="alice's draft"))
    stolen = await store.cache.redis.get(key_of(store, config))  # type: ignore[union-attr]
    stolen = stolen.replace(stolen.partition(b"\n")[2][:5], b"[%d" % version)

    await store.cache.redis.set(key_of(store, bob), stolen)  # type: ignore[union-attr]

    assert (await checkpointer.aget_state_cache(bob)).context_summary == "bob's"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[", b"null", b"1", b"[1]", b"[1, 2, 3]", b'["1", {}]', b'{"1": 2}', b"\xff", b"[" * 5_000),
        *([0, None], [0, 7], [0, []], [0, {"context": 7}], [0, {"context": [{"role": 3}]}], [0, {"execution_meta": 1}]),
        *([0, {"__escaped__": {"context_summary": "\ue000i7x"}}], [0, {"__escaped__": 1}], [True, {}]),
    ],
)
async def test_a_draft_that_cannot_be_read_is_a_miss(
    words: Framework, make: MakeCheckpointer, config: dict[str, Any], store: Persistence[Any, Any], body: Any
) -> None:
    checkpointer, key = make(words), key_of(store, config)
    await checkpointer.aput_state(config, words.state(context_summary="saved"))
    saved = await store.states.get(config["thread_id"], user_id=config["user_id"])
    assert saved is not None
    if isinstance(body, list) and body[0] is not True:
        body = [saved.version, *body[1:]]

    for value in (sealed(key, body), body if isinstance(body, bytes) else orjson.dumps(body)):
        await store.cache.redis.set(key, value)  # type: ignore[union-attr]
        assert (await checkpointer.aget_state_cache(dict(config))).context_summary == "saved"


@pytest.mark.parametrize("isolates", [True, False])
@pytest.mark.parametrize("way", ["one call", "unit of work", "as administrator", "checkpointer"])
async def test_a_draft_goes_with_its_thread(
    words: Framework,
    make: MakeCheckpointer,
    config: dict[str, Any],
    store: Persistence[Any, Any],
    way: str,
    isolates: bool,
) -> None:
    checkpointer, thread_id = make(words, enforce_user_isolation=isolates), config["thread_id"]
    await store.threads.create(thread_id=thread_id, user_id=config["user_id"])
    await checkpointer.aput_state_cache(dict(config), words.state(context_summary="draft"))
    assert (await checkpointer.aget_state_cache(dict(config))).context_summary == "draft"

    match way:
        case "one call":
            await store.threads.delete(thread_id, user_id=config["user_id"])
        case "unit of work":
            async with store.begin(user_id=config["user_id"]) as uow:
                await uow.threads.delete(thread_id)
        case "as administrator":
            await store.threads.delete(thread_id, user_id=ANY_USER)
        case _:
            await checkpointer.aclean_thread(dict(config))

    left = [key async for key in store.cache.redis.scan_iter(b"*%b*" % thread_id.encode())]  # type: ignore[union-attr]
    assert [key for key in left if b":values:" in key] == []
    await store.threads.create(thread_id=thread_id, user_id=config["user_id"])
    assert await checkpointer.aget_state_cache(dict(config)) is None


async def test_a_draft_goes_with_a_thread_that_was_deleted_while_redis_was_away(
    words: Framework, make: MakeCheckpointer, config: dict[str, Any], store: Persistence[Any, Any], monkeypatch: Any
) -> None:
    checkpointer, thread_id = make(words), config["thread_id"]
    await store.threads.create(thread_id=thread_id, user_id=config["user_id"])
    await checkpointer.aput_state_cache(dict(config), words.state(context_summary="draft"))
    with monkeypatch.context() as patch:
        patch.setattr(store.cache, "is_named", False)
        await store.threads.delete(thread_id, user_id=config["user_id"])

    await store.sweep()

    assert await store.cache.redis.exists(key_of(store, config)) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("ttl", [0, -1, True, float("nan"), float("inf"), 10**12, "60", 1j, 2**63])
async def test_a_lifetime_that_is_none_is_refused_before_redis(
    words: Framework, make: MakeCheckpointer, ttl: Any
) -> None:
    with pytest.raises(InvalidInputError, match=r"^ttl_seconds: "):
        await make(words).aput_cache_value("n", "k", 1, ttl_seconds=ttl)
    with pytest.raises(InvalidInputError, match=r"^cache_ttl: "):
        make(words, cache_ttl=ttl)


async def test_short_lifetimes_are_exact(words: Framework, make: MakeCheckpointer) -> None:
    checkpointer = make(words)

    await checkpointer.aput_cache_value("n", "k", 1, ttl_seconds=0.05)
    await asyncio.sleep(0.1)

    assert await checkpointer.aget_cache_value("n", "k") is None
