"""LangGraph's long-term memory: the same results as its store in memory, in an owner's items."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.repository_testing import counted_statements, run_sql
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.errors import InvalidInputError, SyncInLoopError
from agent_persistence.integrations.langgraph import PersistenceSaver, PersistenceStore
from agent_persistence.records import ANY_USER

Store = Persistence[str, str]


@pytest.fixture
def store(persistence: Store, user_id: str) -> PersistenceStore:
    """The memory of an owner who has nothing yet."""
    return PersistenceStore(persistence, user_id=user_id)


# --- The same results as in memory ---


LABELS = st.sampled_from(["a", "b", "a-b", "a/", "é", "\x01"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["k", "l", "k.l", ""])
PATHS = st.lists(st.one_of(LABELS, st.just("*")), max_size=3).map(tuple)
# Where true is 1 in Python, it is not in JSON, so no number here is 0 or 1.
NUMBERS = st.integers(2, 12) | st.sampled_from([2.0, 9.5, -0.5])
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from("xyz"))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("pq0"), inner, max_size=2)),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from("nm"), VALUES, max_size=2)
OPERATORS = st.dictionaries(st.sampled_from(["$eq", "$ne"]), VALUES, min_size=1, max_size=2)
FILTERS = st.dictionaries(st.sampled_from("nm"), st.one_of(VALUES, OPERATORS), max_size=2)
CONDITIONS = st.lists(
    st.tuples(st.sampled_from(["prefix", "suffix"]), PATHS).map(lambda pair: MatchCondition(*pair)), max_size=3
)
PAGES = (st.sampled_from([2, 100]), st.sampled_from([0, 1]))
PUTS = st.tuples(NAMESPACES, KEYS, st.none() | OBJECTS).map(lambda parts: PutOp(*parts))
OPS = st.one_of(
    PUTS,
    st.tuples(NAMESPACES, KEYS).map(lambda parts: GetOp(*parts)),
    st.tuples(st.just(()) | NAMESPACES, st.none() | FILTERS, st.just(100)).map(lambda parts: SearchOp(*parts)),
    st.tuples(CONDITIONS.map(tuple), st.none() | st.integers(1, 3), *PAGES).map(lambda parts: ListNamespacesOp(*parts)),
)


def told(result: Result) -> Any:
    """What a result says, without times; items of a search in one order, which differs."""
    if isinstance(result, list):
        return sorted(map(told, result)) if result and not isinstance(result[0], tuple) else result
    return repr((result.namespace, result.key, told_value(result.value))) if result is not None else None


def told_value(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, told_value(item)) for key, item in value.items())
    return [told_value(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(OPS, min_size=1, max_size=6), min_size=1, max_size=6), puts=st.lists(PUTS, max_size=8))
async def test_any_operations_have_the_results_that_they_have_in_memory(
    batches: list[list[Op]], puts: list[Op], persistence: Store
) -> None:
    ours, theirs = PersistenceStore(persistence, user_id=uuid.uuid4().hex), MemoryStore()
    for batch in [puts, *batches]:
        expected = [told(result) for result in theirs.batch(batch)]
        assert [told(result) for result in await ours.abatch(batch)] == expected


class MemoryStore(InMemoryStore):
    """LangGraph's store in memory, without namespaces that a read or a deletion has left there, which hold nothing."""

    def _handle_list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        for namespace in [namespace for namespace, items in self._data.items() if not items]:
            del self._data[namespace]
        return super()._handle_list_namespaces(op)


async def test_results_are_in_the_order_of_the_operations_and_reads_come_first(store: PersistenceStore) -> None:
    await store.aput(("a",), "k", {"n": 1})

    got, put, listed, found, missing, deleted = await store.abatch(
        [
            GetOp(("a",), "k"),
            PutOp(("b",), "k", {"n": 2}),
            ListNamespacesOp(),
            SearchOp(("b",)),
            GetOp(("b",), "k"),
            PutOp(("a",), "k", None),
        ]
    )

    assert got is not None
    assert (put, listed, found, missing, deleted) == (None, [("a",)], [], None, None)
    assert await store.alist_namespaces() == [("b",)]
    assert await store.abatch([]) == []


async def test_of_several_puts_to_one_key_the_last_counts(store: PersistenceStore) -> None:
    a = ("a",)
    ops = [PutOp(a, "k", {"n": 1}), PutOp(a, "k", None), PutOp(a, "l", {"n": 1}), PutOp(a, "k", {"n": 2})]
    await store.abatch([*ops, PutOp(a, "l", None)])
    assert [(item.key, item.value) for item in await store.asearch(())] == [("k", {"n": 2})]


async def test_a_batch_is_saved_whole_or_not_at_all(store: PersistenceStore) -> None:
    with pytest.raises(InvalidInputError, match="NaN"):
        await store.abatch([PutOp(("a",), "k", {"n": 1}), PutOp(("a",), "l", {"n": float("nan")})])
    with pytest.raises(InvalidNamespaceError):
        await store.abatch([PutOp(("a",), "k", {"n": 1}), GetOp(("a.b",), "k")])
    assert await store.asearch(()) == []


async def test_numbers_are_compared_as_numbers(store: PersistenceStore) -> None:
    for value in (9, 10, {"b": 1}, "x"):
        await store.aput(("a",), str(value), {"n": value})

    async def keys(wanted: dict[str, Any]) -> list[str]:
        return [item.key for item in await store.asearch(("a",), filter=wanted)]

    assert await keys({"n": {"$gt": 9.5}}) == ["10"]
    assert await keys({"n": {"b": 1}}) == ["{'b': 1}"]
    assert await keys({"n": ("x",)}) == []
    with pytest.raises(ValueError, match="unknown operator"):
        await keys({"n": {"$near": 1}})


class Colour(StrEnum):
    RED = "red"


async def test_a_value_is_kept_equal_or_refused_by_name(store: PersistenceStore) -> None:
    value = {"text": AIMessage("tea").text, "colour": Colour.RED, "n": OrderedDict(a=[True, 2**60]), Colour.RED: 1}
    await store.aput(("a",), "k", value)
    item = await store.aget(("a",), "k")
    assert item is not None
    assert item.value == value
    itself: dict[str, Any] = {}
    itself["a"] = itself
    for refused, where in (
        ({"a": [(1,)]}, r"value\.a\[0\]"),
        ({"a": "\0"}, r"value\.a"),
        (itself, "value"),
        ({1: 2}, "value"),
    ):
        with pytest.raises(InvalidInputError, match=where):
            await store.aput(("a",), "k", refused)  # type: ignore[arg-type]  # on purpose


# --- Owners ---


async def test_an_owner_sees_nothing_of_another(persistence: Store, store: PersistenceStore, new_ids: Any) -> None:
    stranger = PersistenceStore(persistence, user_id=new_ids.user())
    await store.aput(("a",), "k", {"n": 1})

    assert await stranger.abatch([GetOp(("a",), "k"), SearchOp(()), ListNamespacesOp()]) == [None, [], []]
    await stranger.adelete(("a",), "k")
    await stranger.aput(("a",), "k", {"n": 2})
    item = await store.aget(("a",), "k")
    assert item is not None
    assert item.value == {"n": 1}


async def test_an_owner_is_found_in_the_namespace(persistence: Store, new_ids: Any) -> None:
    ada, eve = new_ids.user(), new_ids.user()
    store = PersistenceStore(persistence, owner_of=lambda namespace: namespace[1])
    await store.abatch([PutOp(("users", owner, "m"), "k", {"of": owner}) for owner in (ada, eve)])

    assert await persistence.items.namespaces(user_id=ada) == [("users", ada, "m")]
    both = await store.abatch([GetOp(("users", owner, "m"), "k") for owner in (eve, ada)])
    assert [item.value for item in both if item is not None] == [{"of": eve}, {"of": ada}]  # type: ignore[union-attr]
    assert len(await store.asearch(("users", eve))) == 1
    assert await store.alist_namespaces(prefix=("users", eve, "*")) == [("users", eve, "m")]
    for search in (store.asearch(("users",)), store.alist_namespaces(), store.alist_namespaces(prefix=("users", "*"))):
        with pytest.raises(InvalidInputError, match="names no owner"):
            await search
    await persistence.items.clear(user_id=ada)
    assert await store.aget(("users", ada, "m"), "k") is None


async def test_a_batch_of_several_owners_is_saved_whole_or_not_at_all(persistence: Store, new_ids: Any) -> None:
    owners = [new_ids.user() for _ in range(3)]
    store = PersistenceStore(persistence, owner_of=lambda namespace: namespace[0])
    await run_sql(
        persistence,
        f"ALTER TABLE items ADD CONSTRAINT refused CHECK (user_id <> '{owners[2]}')",
    )
    try:
        with pytest.raises(Exception, match="refused"):
            await store.abatch([PutOp((owner,), "k", {}) for owner in owners])
    finally:
        await run_sql(persistence, "ALTER TABLE items DROP CONSTRAINT refused")
    assert await store.abatch([SearchOp((owner,)) for owner in owners]) == [[], [], []]


@pytest.mark.parametrize("arguments", [{}, {"user_id": "u", "owner_of": len}, {"user_id": ANY_USER}])
def test_no_store_is_everybody_s(arguments: dict[str, Any], persistence: Store) -> None:
    with pytest.raises(InvalidInputError, match="either user_id"):
        PersistenceStore(persistence, **arguments)


def test_a_url_is_no_persistence() -> None:
    with pytest.raises(InvalidInputError, match="must be a Persistence, not str"):
        PersistenceStore("postgresql://localhost", user_id="u")  # type: ignore[arg-type]  # on purpose


# --- Time to live ---


async def test_the_time_to_live_is_in_minutes_and_parts_of_them(persistence: Store, user_id: str) -> None:
    store = PersistenceStore(persistence, user_id=user_id, ttl={"default_ttl": 0.4, "refresh_on_read": False})

    async def seconds_left() -> float | None:
        [[left]] = await run_sql(
            persistence,
            "SELECT extract(epoch FROM expires_at - now())::float FROM items WHERE user_id = :owner",
            owner=user_id,
        )
        return left  # type: ignore[no-any-return]  # of a textual statement

    await store.aput(("a",), "k", {})
    assert 23 < (await seconds_left() or 0) <= 24
    await run_sql(
        persistence,
        "UPDATE items SET expires_at = expires_at - interval '10 seconds' WHERE user_id = :owner",
        owner=user_id,
    )
    await store.aget(("a",), "k")
    assert (await seconds_left() or 0) <= 14
    await store.asearch(("a",), refresh_ttl=True)
    assert (await seconds_left() or 0) > 23
    await store.aput(("a",), "k", {}, ttl=None)
    assert await seconds_left() is None
    await store.aput(("a",), "k", {}, ttl=1 / 600)
    await asyncio.sleep(0.12)
    assert await store.abatch([GetOp(("a",), "k"), SearchOp(()), ListNamespacesOp()]) == [None, [], []]


# --- Callers ---


async def test_gets_of_many_callers_share_a_statement(persistence: Store, store: PersistenceStore) -> None:
    await store.abatch([PutOp(("a",), str(number), {"n": number}) for number in range(32)])
    async with counted_statements(persistence) as statements:
        items = await asyncio.gather(*(store.aget(("a",), str(number)) for number in range(32)))
    assert [item.value for item in items if item is not None] == [{"n": number} for number in range(32)]
    assert len(statements) <= 6


async def test_eight_writers_lose_nothing(store: PersistenceStore) -> None:
    async def write(writer: int) -> None:
        for number in range(10):
            await store.abatch(
                [PutOp(("shared",), "k", {"writer": writer}), PutOp(("own", str(writer)), str(number), {"n": number})]
            )

    await asyncio.gather(*map(write, range(8)))

    assert len(await store.asearch(("own",), limit=100)) == 80
    assert len(await store.asearch(("shared",))) == 1


async def test_more_calls_than_connections_wait_for_their_turn(store: PersistenceStore) -> None:
    puts = [store.aput(("many",), str(number), {"n": number}) for number in range(1000)]
    gets = [store.aget(("none",), str(number)) for number in range(1000)]
    assert set(await asyncio.gather(*puts, *gets)) == {None}
    assert len(await store.asearch(("many",), limit=2000)) == 1000


async def test_threads_call_it_as_sync_code(store: PersistenceStore, threads: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(threads, lambda: store.put(("a",), "k", {"n": 1}))
    item = await loop.run_in_executor(threads, lambda: store.get(("a",), "k"))
    assert item is not None
    with pytest.raises(SyncInLoopError) as refusal:
        store.get(("a",), "k")
    assert isinstance(refusal.value, asyncio.InvalidStateError)  # which callers of LangGraph's own stores catch


def test_sync_code_opens_the_persistence(plain_settings: PersistenceSettings) -> None:
    with PersistenceStore(Persistence(plain_settings), user_id=uuid.uuid4().hex) as store:
        store.put(("a",), "k", {"n": 1})
        assert [item.value for item in store.search(("a",))] == [{"n": 1}]
        assert store.list_namespaces() == [("a",)]
        store.delete(("a",), "k")
        assert store.get(("a",), "k") is None


@pytest_asyncio.fixture
async def restricted(settings_for: Any) -> AsyncIterator[Store]:
    """A store of which nothing is batched, as behind PgBouncer."""
    async with Persistence[str, str]((await settings_for()).model_copy(update={"batching": False})) as store:
        yield store


async def test_it_works_without_shared_statements(restricted: Store, user_id: str) -> None:
    store = PersistenceStore(restricted, user_id=user_id)
    await store.abatch([PutOp(("a",), "k", {"n": 1}), PutOp(("a",), "l", {"n": 2})])
    assert await store.aget(("a",), "k") is not None
    assert len(await store.asearch(("a",), filter={"n": {"$gt": 1}})) == 1
    assert await store.alist_namespaces() == [("a",)]


async def test_a_graph_remembers_across_threads(saver: PersistenceSaver, store: PersistenceStore, new_ids: Any) -> None:
    async def answer(state: MessagesState, runtime: Runtime[None]) -> dict[str, Any]:
        assert runtime.store is not None
        known = [item.value["text"] for item in await runtime.store.asearch(("facts",))]
        await runtime.store.aput(("facts",), str(len(known)), {"text": state["messages"][-1].content})
        return {"messages": [("ai", ", ".join(known) or "nothing")]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = builder.compile(checkpointer=saver, store=store)

    answers = []
    for said in ("I like tea", "What do I like?"):
        config: Any = {"configurable": {"thread_id": new_ids.thread()}}
        result = await graph.ainvoke({"messages": [("user", said)]}, config)
        answers.append(result["messages"][-1].content)
    assert answers == ["nothing", "I like tea"]
