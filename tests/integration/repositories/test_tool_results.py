"""The ledger of tool calls: each is recorded once, and goes with its thread."""

import asyncio
from typing import Any

import pytest
from integration.repository_testing import run_sql

from agent_persistence.errors import InvalidInputError, ThreadNotFoundError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER

RESULT = {"charged": 12.5, "receipt": ["a", None]}


async def test_a_result_is_read_back_by_its_call(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    ledger = any_persistence.tool_results
    thread_id = (await any_persistence.threads.create(user_id=any_user)).thread_id

    recorded = await ledger.record(thread_id, "call-1", RESULT, user_id=any_user)

    assert recorded == RESULT
    assert await ledger.get(thread_id, "call-1", user_id=any_user) == RESULT
    assert await ledger.get(thread_id, "call-1", user_id=ANY_USER) == RESULT
    assert await ledger.get(thread_id, "call-2", user_id=any_user) is None


async def test_what_was_recorded_first_counts(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    counted = await asyncio.gather(
        *(persistence.tool_results.record(thread_id, "call", number, user_id=user_id) for number in range(1, 6))
    )

    assert len(set(counted)) == 1
    assert await persistence.tool_results.get(thread_id, "call", user_id=user_id) == counted[0]


async def test_a_result_is_recorded_in_the_transaction_of_its_unit_of_work(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    async with persistence.begin(user_id=user_id) as uow:
        await uow.tool_results.record(thread_id, "call", RESULT)
        assert await uow.tool_results.get(thread_id, "call") == RESULT
        await uow.session.rollback()

    assert await persistence.tool_results.get(thread_id, "call", user_id=user_id) is None


async def test_results_go_with_their_thread(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    await persistence.tool_results.record(thread_id, "call", RESULT, user_id=user_id)

    await persistence.threads.delete(thread_id, user_id=user_id)

    assert await run_sql(persistence, "SELECT 1 FROM tool_results WHERE thread_id = :id", id=thread_id) == []
    with pytest.raises(ThreadNotFoundError):
        await persistence.tool_results.record(thread_id, "call", RESULT, user_id=user_id)


@pytest.mark.parametrize("length", [255, 256, 949, 100_000])
async def test_an_id_of_any_length_names_one_call(
    persistence: Persistence[str, str], user_id: str, length: int
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    ids = [start + "é" * (length - 1) for start in ("a", "b")]

    for call_id in ids:
        assert await persistence.tool_results.record(thread_id, call_id, call_id[0], user_id=user_id) == call_id[0]
        assert await persistence.tool_results.record(thread_id, call_id, "again", user_id=user_id) == call_id[0]

    found = [await persistence.tool_results.get(thread_id, call_id, user_id=user_id) for call_id in ids]
    assert found == ["a", "b"]


@pytest.mark.parametrize(
    ("call_id", "result", "field"),
    [(7, 1, "tool_call_id"), ("c\0" * 200, 1, "tool_call_id"), ("c", None, "result"), ("c", {1, 2}, "result")],
)
async def test_what_cannot_be_recorded_is_refused_by_name(
    persistence: Persistence[str, str], user_id: str, call_id: Any, result: Any, field: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    with pytest.raises(InvalidInputError) as refusal:
        await persistence.tool_results.record(thread_id, call_id, result, user_id=user_id)

    assert refusal.value.field == field
