"""The calls that only Agentflow has give the results of its in-memory checkpointer: both must pass."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest
from frameworks import Framework, need_frameworks

need_frameworks()

RESULT = {"__kind__": "raw", "value": {"charged": 12.5}}


@pytest.fixture(params=["in memory", "ours", "ours without Redis"])
def checkpointer(request: pytest.FixtureRequest, agentflow: Framework, make: Any) -> Any:
    if request.param == "in memory":
        return agentflow.in_memory()
    return make(agentflow, **({"redis_url": None} if request.param == "ours without Redis" else {}))


@pytest.fixture
def namespace() -> str:
    return f"media:signed-url[*]?-{uuid.uuid4()}"


async def test_a_checkpoint_is_a_state_and_messages(
    checkpointer: Any, agentflow: Framework, config: dict[str, Any]
) -> None:
    said = [agentflow.text("one"), agentflow.text("two", "assistant")]
    state = agentflow.state(context=said)

    assert await checkpointer.aput_checkpoint(config, state, said[:1], {"source": "test"}) == state
    assert await checkpointer.aput_checkpoint(config, state, said[1:]) == state
    assert await checkpointer.aput_checkpoint(config, state) == state

    assert await checkpointer.aget_state(config) == state
    assert await checkpointer.alist_messages(config) == said


async def test_a_cached_value_is_read_back_and_forgotten(checkpointer: Any, namespace: str) -> None:
    values = {"a": {"n": [1, 2.5, None]}, "b:c d/é*": "text", "b": 0, "": True}
    for key, value in values.items():
        assert await checkpointer.aput_cache_value(namespace, key, value) is not None

    assert {key: await checkpointer.aget_cache_value(namespace, key) for key in values} == values
    assert sorted(await checkpointer.alist_cache_keys(namespace)) == sorted(values)
    assert sorted(await checkpointer.alist_cache_keys(namespace, "b")) == ["b", "b:c d/é*"]
    assert await checkpointer.alist_cache_keys(namespace[:-1]) == []

    await checkpointer.aclear_cache_value(namespace, "a")

    assert await checkpointer.aget_cache_value(namespace, "a") is None
    assert await checkpointer.aget_cache_value(f"{namespace}2", "b") is None
    assert len(await checkpointer.alist_cache_keys(namespace)) == 3


async def test_a_cached_value_ends(checkpointer: Any, namespace: str) -> None:
    await checkpointer.aput_cache_value(namespace, "short", 1, ttl_seconds=1)
    await checkpointer.aput_cache_value(namespace, "long", 1, ttl_seconds=100)
    until = time.monotonic() + 10

    while await checkpointer.aget_cache_value(namespace, "short") is not None:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)

    assert await checkpointer.aget_cache_value(namespace, "long") == 1


async def test_a_run_is_asked_to_stop(checkpointer: Any, config: dict[str, Any]) -> None:
    assert await checkpointer.ais_stop_requested(config) is False

    await checkpointer.arequest_stop(config)

    assert await checkpointer.ais_stop_requested(config) is True
    assert await checkpointer.ais_stop_requested({**config, "user_id": "somebody else"}) is False
    await checkpointer.aclear_stop_request(config)
    assert await checkpointer.ais_stop_requested(config) is False


async def test_the_result_of_a_tool_call_is_kept(checkpointer: Any, config: dict[str, Any]) -> None:
    assert await checkpointer.aget_tool_result(config, "call") is None

    await checkpointer.aput_tool_result(config, "call", RESULT)

    assert await checkpointer.aget_tool_result(config, "call") == RESULT
    assert await checkpointer.aget_tool_result({**config, "thread_id": f"t-{uuid.uuid4()}"}, "call") is None


async def test_a_thread_has_an_owner(checkpointer: Any, agentflow: Framework, config: dict[str, Any]) -> None:
    assert await checkpointer.aget_thread_owner(config["thread_id"]) is None

    info = agentflow.thread_info(thread_id=config["thread_id"], user_id=config["user_id"])
    await checkpointer.aput_thread(config, info)

    assert await checkpointer.aget_thread_owner(config["thread_id"]) == config["user_id"]


async def test_a_thread_of_another_user_is_absent(
    checkpointer: Any, agentflow: Framework, config: dict[str, Any]
) -> None:
    policy = {"authz": {"scope": "owner"}}
    mine, theirs = config | policy, {**config, "user_id": "mallory"} | policy
    said, state = [agentflow.text("secret", message_id="m")], agentflow.state(context_summary="secret")
    info = agentflow.thread_info(thread_id=config["thread_id"], user_id=config["user_id"], thread_name="mine")
    await checkpointer.aput_state(mine, state)
    await checkpointer.aput_messages(mine, said)
    await checkpointer.aput_thread(mine, info)

    assert await checkpointer.aget_state(theirs) is None
    assert await checkpointer.aget_state_cache(theirs) is None
    assert await checkpointer.alist_messages(theirs) == []
    assert await checkpointer.aget_thread(theirs) is None
    assert await checkpointer.alist_threads(theirs) == []
    assert await checkpointer.aclear_state(theirs) is True
    assert await checkpointer.aclean_thread(theirs) is False
    for call in (checkpointer.aget_message, checkpointer.adelete_message):
        with pytest.raises(IndexError):
            await call(theirs, "m")
    for write in (
        checkpointer.aput_state(theirs, agentflow.state()),
        checkpointer.aput_checkpoint(theirs, agentflow.state(), said),
        checkpointer.aput_messages(theirs, [agentflow.text("forged", message_id="m")]),
        checkpointer.aput_thread(theirs, agentflow.thread_info(thread_id=config["thread_id"], user_id="mallory")),
    ):
        with pytest.raises(agentflow.storage_error):
            await write

    assert await checkpointer.aget_state(mine) == state
    assert await checkpointer.alist_messages(mine) == said
    assert (await checkpointer.aget_thread(mine)).thread_name == "mine"


async def test_a_policy_may_show_all_threads_to_all(
    checkpointer: Any, agentflow: Framework, config: dict[str, Any]
) -> None:
    anybody = {**config, "user_id": "another", "authz": {"scope": "none"}}
    await checkpointer.aput_state(config, agentflow.state(context_summary="one"))

    assert (await checkpointer.aget_state(anybody)).context_summary == "one"
    await checkpointer.aput_state(anybody, agentflow.state(context_summary="two"))

    assert (await checkpointer.aget_state(config)).context_summary == "two"


def test_these_calls_have_synchronous_twins(checkpointer: Any, namespace: str, config: dict[str, Any]) -> None:
    assert checkpointer.put_cache_value(namespace, "a", {"n": 1}, ttl_seconds=60) == {"n": 1}
    assert checkpointer.get_cache_value(namespace, "a") == {"n": 1}
    assert checkpointer.clear_cache_value(namespace, "a")
    assert checkpointer.get_cache_value(namespace, "a") is None
    assert checkpointer.request_stop(config)
    assert checkpointer.is_stop_requested(config) is True
    assert checkpointer.clear_stop_request(config)
    assert checkpointer.is_stop_requested(config) is False
