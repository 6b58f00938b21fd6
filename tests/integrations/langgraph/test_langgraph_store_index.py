"""A store with vectors: embeddings are made before the transaction, and a query finds what it finds in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.repository_testing import counted_statements
from langgraph.store.base import GetOp, IndexConfig, PutOp, SearchItem, SearchOp
from langgraph.store.memory import InMemoryStore

from agent_persistence import Persistence, PersistenceSettings, migrate
from agent_persistence.errors import InvalidInputError, SchemaError
from agent_persistence.integrations.langgraph import PersistenceStore

Store = Persistence[str, str]
LETTERS = "abc"


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Count letters; the last number keeps a text of others from being zero."""
    return [[float(text.count(letter)) for letter in LETTERS] + [0.5] for text in texts]


class Model:
    """An embedding function that notes what it is asked."""

    def __init__(self, dims: int = 4) -> None:
        self.asked: list[list[str]] = []
        self._dims = dims

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked.append(list(texts))
        return [vector[: self._dims] for vector in embed(texts)]


@pytest_asyncio.fixture(scope="module")
async def opened(make_database: Any) -> AsyncIterator[Store]:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database())
    await migrate.upgrade(settings)
    await migrate.add_optional(settings, "vectors", dims=4)
    async with Persistence[str, str](settings) as store:
        yield store


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def store(opened: Store, user_id: str, model: Model) -> PersistenceStore:
    return PersistenceStore(opened, user_id=user_id, index={"dims": 4, "embed": model, "fields": ["text"]})


async def keys(store: PersistenceStore, query: str, **options: Any) -> list[str]:
    return [item.key for item in await store.asearch((), query=query, **options)]


TEXTS = st.text(alphabet="abcz", min_size=1, max_size=4)
VALUES = st.fixed_dictionaries({"text": TEXTS, "n": st.integers(2, 4)})
PUTS = st.dictionaries(st.sampled_from("klmno"), VALUES, max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=PUTS, second=PUTS, query=TEXTS, fields=st.sampled_from([None, ["text"], ["text", "n"]]))
async def test_a_query_has_the_scores_that_it_has_in_memory(
    first: dict[str, Any], second: dict[str, Any], query: str, fields: list[str] | None, opened: Store
) -> None:
    index: IndexConfig = {"dims": 4, "embed": embed, "fields": fields}
    ours, theirs = PersistenceStore(opened, user_id=uuid.uuid4().hex, index=index), InMemoryStore(index=index)
    for puts in (first, second):
        ops = [PutOp(("a",), key, value) for key, value in puts.items()]
        for op in ops:  # theirs refuses equal texts in one batch
            theirs.batch([op])
        await ours.abatch(ops)

    for wanted in ({"n": {"$ne": 2}}, None):
        found = await ours.asearch((), query=query, filter=wanted, limit=100)
        expected = await theirs.asearch((), query=query, filter=wanted, limit=100)
        assert {item.key: item.score for item in found} == pytest.approx({item.key: item.score for item in expected})
        scores = [item.score for item in found if item.score is not None]
        assert scores == sorted(scores, reverse=True)


async def test_what_is_embedded_is_what_the_fields_name(store: PersistenceStore, model: Model) -> None:
    many = {"text": "a", "other": "bb", "list": [{"x": "c"}, {"x": "cc"}, {"y": 1}]}
    await store.abatch(
        [
            PutOp(("a",), "k", many),
            PutOp(("a",), "l", many, index=["other", "list[*].x"]),
            PutOp(("a",), "m", many, index=False),
            PutOp(("a",), "n", {"none": 1}),
            PutOp(("a",), "k", many),
        ]
    )
    assert model.asked == [["a", "bb", "c", "cc"]]
    assert await keys(store, "bb", limit=2) == ["l", "k"]
    assert (await store.asearch((), query="c"))[-1].score is None


async def test_nothing_is_embedded_for_what_is_refused_or_only_read(store: PersistenceStore, model: Model) -> None:
    with pytest.raises(ValueError, match="period"):
        await store.abatch([PutOp(("a",), "k", {"text": "a"}), PutOp(("a.b",), "k", {"text": "b"})])
    await store.abatch([GetOp(("a",), "k"), SearchOp(()), SearchOp((), query=""), PutOp(("a",), "k", None)])
    assert model.asked == []


async def test_no_connection_is_held_while_the_model_works(opened: Store, user_id: str) -> None:
    sent: list[list[str]] = []

    async def slow(texts: Sequence[str]) -> list[list[float]]:
        assert sent == [[]]
        return embed(texts)

    store = PersistenceStore(opened, user_id=user_id, index={"dims": 4, "embed": slow, "fields": ["text"]})
    async with counted_statements(opened) as statements:
        sent.append(statements)
        await store.abatch([GetOp(("a",), "k"), PutOp(("a",), "k", {"text": "a"}), SearchOp((), query="a")])
    assert statements


async def test_a_model_that_fails_leaves_everything_as_it_was(opened: Store, user_id: str) -> None:
    async def fail(_texts: Sequence[str]) -> list[list[float]]:
        raise TimeoutError

    plain = PersistenceStore(opened, user_id=user_id)
    await plain.aput(("a",), "k", {"text": "old"})
    failing = PersistenceStore(opened, user_id=user_id, index={"dims": 4, "embed": fail})
    with pytest.raises(TimeoutError):
        await failing.abatch([PutOp(("a",), "k", {"text": "new"}), PutOp(("a",), "l", None)])
    assert [item.value for item in await plain.asearch(())] == [{"text": "old"}]


async def test_a_put_without_an_index_forgets_the_vectors(opened: Store, user_id: str, store: PersistenceStore) -> None:
    await store.abatch([PutOp(("a",), key, {"text": "a"}) for key in "klmn"])
    await PersistenceStore(opened, user_id=user_id).aput(("a",), "k", {"text": "b"})
    await store.aput(("a",), "l", {"text": "b"}, index=False)
    await store.aput(("a",), "m", {"other": "b"})
    assert {item.key: item.score is None for item in await store.asearch((), query="a")} == {
        "n": False,
        **dict.fromkeys("klm", True),
    }


async def test_pages_under_a_query_have_every_item_once(store: PersistenceStore) -> None:
    await store.abatch([PutOp(("a",), f"{n:02}", {"text": "a" * n or "z"}) for n in range(23)])
    pages = [await keys(store, "a", limit=5, offset=offset) for offset in range(0, 30, 5)]
    assert [len(page) for page in pages] == [5, 5, 5, 5, 3, 0]
    every = list(chain.from_iterable(pages))
    assert every == await keys(store, "a", limit=100)
    assert len(set(every)) == 23


async def test_the_wrong_number_of_vectors_or_of_their_numbers_is_refused(opened: Store, user_id: str) -> None:
    async def short(texts: Sequence[str]) -> list[list[float]]:
        return embed(texts)[1:]

    for model, said in ((Model(dims=3), "3 numbers instead of 4"), (short, "1 vectors for 2 texts")):
        store = PersistenceStore(opened, user_id=user_id, index={"dims": 4, "embed": model, "fields": ["text", "more"]})
        with pytest.raises(InvalidInputError, match=said):
            await store.aput(("a",), "k", {"text": "a", "more": "b"})
    other = PersistenceStore(opened, user_id=user_id, index={"dims": 3, "embed": Model(dims=3)})
    with pytest.raises(InvalidInputError, match="other dimensions than the vectors of the database"):
        await other.aput(("a",), "k", {"text": "a"})


async def test_without_the_optional_object_the_command_is_named(persistence: Store, user_id: str) -> None:
    store = PersistenceStore(persistence, user_id=user_id, index={"dims": 4, "embed": embed})
    with pytest.raises(SchemaError, match="optional add vectors"):
        await store.aput(("a",), "k", {"text": "a"})
    assert await store.aget(("a",), "k") is None


@pytest.mark.parametrize(
    "index",
    [{"embed": embed}, {"dims": 4}, {"dims": 0, "embed": embed}, {"dims": 4, "embed": embed, "distance_type": "l2"}],
)
def test_an_index_that_cannot_be_meant_is_refused(index: Any, persistence: Store) -> None:
    with pytest.raises(InvalidInputError, match="index"):
        PersistenceStore(persistence, user_id="u", index=index)


async def test_owners_of_one_batch_are_embedded_at_once(opened: Store, new_ids: Any, model: Model) -> None:
    index: IndexConfig = {"dims": 4, "embed": model, "fields": ["text"]}
    store = PersistenceStore(opened, owner_of=lambda namespace: namespace[0], index=index)
    ada, eve = new_ids.user(), new_ids.user()
    await store.abatch([PutOp((owner,), "k", {"text": text}) for owner, text in ((ada, "a"), (eve, "b"))])
    found: Any = await store.abatch([SearchOp((owner,), query="a") for owner in (ada, eve)])
    assert [[item.value for item in one] for one in found] == [[{"text": "a"}], [{"text": "b"}]]
    assert found[0][0].score > found[1][0].score
    assert isinstance(found[0][0], SearchItem)


async def test_a_sync_model_does_not_stop_the_event_loop(opened: Store, user_id: str) -> None:
    loop = asyncio.get_running_loop()

    def asks_the_loop(texts: Sequence[str]) -> list[list[float]]:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(5)  # which a blocked loop never answers
        return embed(texts)

    store = PersistenceStore(opened, user_id=user_id, index={"dims": 4, "embed": asks_the_loop})
    await store.aput(("a",), "k", {"text": "a"})
    assert await keys(store, "a") == ["k"]
