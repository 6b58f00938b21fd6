"""What each operation of the hot path costs, in what can be counted: round trips, rows and pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from integration.repository_testing import HELLO
from sqlalchemy import text

from agent_persistence import migrate
from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.ids import uuid7
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage, NewThread
from agent_persistence.repositories.messages.statements import append_messages, chosen_messages, page_of_messages
from agent_persistence.repositories.states.statements import latest_state, latest_states, save_states
from agent_persistence.repositories.threads.statements import one_thread, page_of_threads
from agent_persistence.settings import PersistenceSettings
from benchmarks.writes import counted_writes, start_counting

Store = Persistence[str, str]
Call = Callable[[Store], Awaitable[Any]]

SMALL, GROWING = {"text": 3000 * "x"}, {"text": 30_000 * "x"}

# Writes to the socket of PostgreSQL, each of which waits for an answer.
ROUND_TRIPS: dict[str, tuple[Call, int]] = {
    "latest state": (lambda store: store.states.require("busy", user_id="ann"), 1),
    "latest state, kept as a change": (lambda store: store.states.require("growing", user_id="ann"), 1),
    "last messages": (lambda store: store.messages.page("busy", user_id="ann"), 1),
    "thread": (lambda store: store.threads.require("busy", user_id="ann"), 1),
    "threads": (lambda store: store.threads.page(user_id="ann"), 1),
    "rename a thread: BEGIN, UPDATE, COMMIT": (
        lambda store: store.threads.update("calm", user_id="ann", name="New"),
        3,
    ),
    "append, which may be repeated": (lambda store: store.messages.append("busy", HELLO, user_id="ann"), 1),
    "append several, which may be repeated": (
        lambda store: store.messages.append_many("busy", [HELLO, HELLO], user_id="ann"),
        1,
    ),
    "append several with ids: BEGIN, INSERT, COMMIT": (
        lambda store: store.messages.append_many(
            "busy", [NewMessage(message=HELLO, message_id=str(uuid7())) for _ in range(2)], user_id="ann"
        ),
        3,
    ),
    "append a thousand: BEGIN, lock, COPY and its columns, read back, COMMIT": (
        lambda store: store.messages.append_many("busy", [HELLO] * 1000, user_id="ann"),
        7,
    ),
    "save a state": (lambda store: store.states.put("busy", SMALL, user_id="ann"), 1),
    "save a change": (lambda store: store.states.put("growing", GROWING, user_id="ann"), 1),
}

MANY = {"thread_ids": ["busy", "calm"], "owners": ["ann", "ann"]}
NOTHING = {name: ["{}"] * 2 for name in ("usages", "meta")} | {name: [None] * 2 for name in ("tool_calls", "extra")}
MESSAGES = {"role": ["user"] * 2, "content": ["hello"] * 2, "tool_call_id": [None] * 2, "reasoning": [None] * 2}

# Of each statement: its parameters, and how many rows and pages its plan may touch. A batch of two: twice as many.
PLANS: dict[str, tuple[Callable[[Any], CompiledStatement], dict[str, Any], int, int]] = {
    "latest state": (
        lambda m: latest_state(m, of_any_user=False, knows=False),
        {"thread_id": "busy", "owner": "ann"},
        2,
        8,
    ),
    "latest states": (lambda m: latest_states(m, knows=False), MANY, 4, 16),
    "last messages": (
        lambda m: page_of_messages(m, backwards=True),
        {"thread_id": "busy", "owner": "ann", "limit": 51, "seq": 2**62},
        52,
        30,
    ),
    "thread": (lambda m: one_thread(m, of_any_user=False), {"thread_id": "busy", "owner": "ann"}, 1, 4),
    "threads after a cursor": (
        lambda m: page_of_threads(m, of_any_user=False, continues=True),
        {"owner": "ann", "limit": 21, "last_time": datetime(2100, 1, 1, tzinfo=UTC), "last_id": "x"},
        21,
        40,
    ),
    "threads after one whose row holds the time": (
        lambda m: page_of_threads(m, of_any_user=False, continues=True),
        {"owner": "ann", "limit": 21, "last_id": "busy"},
        22,
        45,
    ),
    "message": (
        lambda m: chosen_messages(m, of_any_user=False, one=True),
        {"thread_id": "busy", "owner": "ann", "message_ids": "none"},
        2,
        12,
    ),
    # A write reads the latest row of the thread, which the new one must follow, and the first of the owner's list.
    "save states": (
        lambda m: save_states(m, touch_seconds=3600, waits=False),
        {**MANY, "state_data": [b'{"a": 1}'] * 2, "meta": ["{}"] * 2},
        10,
        80,
    ),
    "save one state": (
        lambda m: save_states(m, touch_seconds=3600, waits=False, one=True),
        {"thread_ids": "busy", "owners": "ann", "state_data": b'{"a": 1}', "meta": "{}"},
        5,
        40,
    ),
    "append one message": (
        lambda m: append_messages(m, with_ids=True, touch_seconds=3600, waits=False, one=True),
        {name: values[0] for name, values in (MESSAGES | NOTHING | MANY).items()}
        | {"message_id": "new-1", "total_tokens": 0},
        5,
        50,
    ),
    "append messages": (
        lambda m: append_messages(m, with_ids=True, touch_seconds=3600, waits=False),
        {**MANY, **MESSAGES, **NOTHING, "message_id": ["new-1", "new-2"], "total_tokens": [0, 0]},
        10,
        100,
    ),
}


@pytest_asyncio.fixture(scope="module")
async def full(make_database: Callable[[], Awaitable[str]]) -> AsyncIterator[Store]:
    """A store with a thread of 5,000 messages and 2,000 states among others."""
    # One connection: statements are prepared on each, which is a round trip more.
    settings = PersistenceSettings(
        _env_file=None, database_url=await make_database(), redis_url=None, pool_size=1, max_overflow=0
    )
    await migrate.upgrade(settings)
    async with Store(settings) as store:
        others = [NewThread(thread_id=f"other-{n}", messages=[HELLO] * 2, states=[n]) for n in range(5000)]
        busy = NewThread(thread_id="busy", messages=[HELLO] * 5000, states=list(range(2000)))
        await store.threads.create_many([*others, busy, NewThread(thread_id="calm", states=[1])], user_id="ann")
        await store.threads.create(thread_id="growing", user_id="ann")
        for step in range(10):
            await store.states.put("growing", {**GROWING, "step": step}, user_id="ann")
        async with store.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE"))
        yield store


@pytest.fixture(scope="module")
def _counting() -> None:
    start_counting()


@pytest.mark.usefixtures("_counting")
@pytest.mark.parametrize(("call", "trips"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
async def test_an_operation_makes_no_more_round_trips_than_it_must(full: Store, call: Call, trips: int) -> None:
    for _ in range(2):  # the first time on its connection it is prepared, which is a round trip more
        await call(full)
        before = counted_writes()
        await call(full)
        made = counted_writes().since(before)

    assert made == (trips, 0)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(("make", "values", "most_rows", "most_pages"), PLANS.values(), ids=PLANS)
async def test_a_statement_touches_the_rows_that_it_is_about(
    full: Store,
    mode: str,
    make: Callable[[Any], CompiledStatement],
    values: dict[str, Any],
    most_rows: int,
    most_pages: int,
) -> None:
    statement = make(full.models)
    plan = await plan_of(full, mode, statement.text, statement.arguments(values))

    assert sum(touched(node) for node in nodes(plan)) <= most_rows
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= most_pages


async def plan_of(store: Store, mode: str, statement: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """How a statement was run; what it wrote is undone."""
    async with store.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        transaction = driver.transaction()
        await transaction.start()
        await driver.execute(f"SET LOCAL plan_cache_mode = {mode}")
        found = await driver.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        await transaction.rollback()
    return dict(found[0]["Plan"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def touched(node: dict[str, Any]) -> float:
    """The rows of tables that a step looked at, with those that it left out."""
    if "Relation Name" not in node or node["Node Type"] == "ModifyTable":
        return 0
    left_out = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + left_out) * node["Actual Loops"])
