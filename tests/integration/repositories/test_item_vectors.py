"""Vectors of items: the nearest come first, and an item's vectors go with its value."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from integration.repository_testing import run_sql

from agent_persistence import Persistence, PersistenceSettings, migrate
from agent_persistence.errors import InvalidInputError, SchemaError
from agent_persistence.ids import ID_TYPES
from agent_persistence.records import ItemKey, NewItem

Store = Persistence[Any, Any]
HOME = ("home",)
EAST, NORTH, NORTHEAST, WEST = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.0, 0.0)


def new(key: str, *vectors: Any, namespace: tuple[str, ...] = HOME, **value: Any) -> NewItem:
    return NewItem(namespace=namespace, key=key, value=value, vectors=vectors)


@pytest_asyncio.fixture(scope="module")
async def opened(make_database: Any) -> AsyncIterator[Store]:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database())
    await migrate.upgrade(settings)
    await migrate.add_optional(settings, "vectors", dims=2)
    async with Persistence[Any, Any](settings) as store:
        yield store


@pytest.fixture
def near(opened: Store, user_id: str) -> Any:
    """Search the items of an owner who had none."""

    async def search(vector: Any, *prefix: str, **options: Any) -> list[tuple[str, float | None]]:
        found = await opened.items.search(prefix, near=vector, user_id=user_id, **options)
        return [(item.key, None if item.score is None else round(item.score, 3)) for item in found]

    return search


async def test_the_nearest_come_first_then_items_without_vectors(opened: Store, user_id: str, near: Any) -> None:
    await opened.items.put_many(
        [new("east", EAST), new("west", WEST), new("both", NORTH, NORTHEAST), new("none")], user_id=user_id
    )
    assert await near(EAST) == [("east", 1.0), ("both", 0.707), ("west", -1.0), ("none", None)]
    assert await near([3, 3], "home") == [("both", 1.0), ("east", 0.707), ("west", -0.707), ("none", None)]
    assert (await opened.items.search(user_id=user_id))[0].score is None


async def test_pages_of_a_search_follow_each_other_and_obey_filters(opened: Store, user_id: str, near: Any) -> None:
    items = [new(f"k{n:02}", (1.0, n / 10), (-1.0, 0.5), even=n % 2 == 0) for n in range(25)]
    await opened.items.put_many([*items, new("elsewhere", EAST, namespace=("away",))], user_id=user_id)

    pages = [await near(EAST, "home", limit=10, offset=offset) for offset in (0, 10, 20, 30)]

    assert [key for page in pages for key, _ in page] == [f"k{n:02}" for n in range(25)]
    odd = await near(EAST, "home", filter={"even": False}, limit=3, offset=1)
    assert [key for key, _ in odd] == ["k03", "k05", "k07"]
    async with opened.begin(user_id=user_id) as uow:
        assert [item.key for item in await uow.items.search(near=EAST, limit=2)] == ["elsewhere", "k00"]


async def test_each_put_takes_the_former_vectors_away(opened: Store, user_id: str, near: Any) -> None:
    await opened.items.put_many([new("a", EAST, NORTH), new("b", NORTH)], user_id=user_id)
    await opened.items.put_many([new("a", WEST)], user_id=user_id)
    assert await near(EAST) == [("b", 0.0), ("a", -1.0)]
    await opened.items.put_many([new("a")], user_id=user_id)
    assert await near(EAST) == [("b", 0.0), ("a", None)]
    await opened.items.delete_many([ItemKey(HOME, "b")], user_id=user_id)
    await opened.items.put_many([new("b")], user_id=user_id)
    assert await near(EAST) == [("b", None), ("a", None)]


async def test_a_read_that_grants_time_leaves_the_vectors(opened: Store, user_id: str, near: Any) -> None:
    await opened.items.put_many([NewItem(namespace=HOME, key="a", value={}, ttl=60, vectors=[EAST])], user_id=user_id)
    await run_sql(
        opened, "UPDATE items SET expires_at = expires_at - interval '30 s' WHERE user_id = :owner", owner=user_id
    )
    assert await near(EAST, refresh=True) == [("a", 1.0)]
    assert await near(EAST) == [("a", 1.0)]


async def test_an_expired_item_is_not_near(opened: Store, user_id: str, near: Any) -> None:
    await opened.items.put_many([new("a", EAST)], user_id=user_id)
    await run_sql(opened, "UPDATE items SET expires_at = now() WHERE user_id = :owner", owner=user_id)
    assert await near(EAST) == []


async def test_another_owner_is_near_to_nobody(opened: Store, new_ids: Any, near: Any) -> None:
    await opened.items.put_many([new("a", EAST)], user_id=new_ids.user())
    assert await near(EAST) == []


async def test_a_put_that_fails_keeps_the_former_vectors(opened: Store, user_id: str, near: Any) -> None:
    await opened.items.put_many([new("a", EAST, n=1)], user_id=user_id)
    with pytest.raises(InvalidInputError, match="dimensions"):
        await opened.items.put_many([new("a", (1.0, 2.0, 3.0), n=2)], user_id=user_id)
    with pytest.raises(InvalidInputError, match="dimensions"):
        await near((1.0, 2.0, 3.0))
    [item] = await opened.items.search(near=EAST, user_id=user_id)
    assert (item.value, item.score) == ({"n": 1}, 1.0)


async def test_writers_of_one_item_leave_the_vectors_of_the_last(opened: Store, user_id: str) -> None:
    async def write(number: int) -> None:
        for _ in range(5):
            await opened.items.put_many([new("a", *[(1.0, float(number))] * (number + 1), n=number)], user_id=user_id)

    await asyncio.gather(*map(write, range(8)))

    [item] = await opened.items.search(near=EAST, user_id=user_id)
    rows = await run_sql(opened, "SELECT embedding::text FROM opt_item_vectors WHERE user_id = :owner", owner=user_id)
    assert [row[0] for row in rows] == [f"[1,{item.value['n']}]"] * (item.value["n"] + 1)


async def test_a_vector_of_zeros_is_far_from_all(opened: Store, user_id: str, near: Any) -> None:
    await opened.items.put_many([new("zero", (0, 0)), new("east", EAST), new("west", WEST)], user_id=user_id)
    assert await near(EAST) == [("east", 1.0), ("zero", 0.0), ("west", -1.0)]


async def test_vectors_stay_in_the_pages_of_their_table(make_database: Any) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database())
    await migrate.upgrade(settings)
    await migrate.add_optional(settings, "vectors", dims=1536)
    async with Persistence[Any, Any](settings) as store:
        many = [new("k" * 100 + str(n), [n / 7 + place for place in range(1536)]) for n in range(20)]
        await store.items.put_many(many, user_id="ada")
        assert len(await store.items.search(near=[1.0] * 1536, user_id="ada", limit=100)) == 20
        [[toasted]] = await run_sql(
            store, "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'opt_item_vectors'"
        )
    assert toasted == 0


@pytest.mark.parametrize(
    "vectors", [[[1.0, float("nan")]], [[]], [["a", "b"]], ["ab"], [None], "ab", 7, [[1.0, float("inf")]]]
)
async def test_what_is_no_vector_is_refused(opened: Store, user_id: str, vectors: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"items\[0\]\.vectors"):
        await opened.items.put_many([NewItem(namespace=HOME, key="a", value={}, vectors=vectors)], user_id=user_id)
    if isinstance(vectors, list):
        with pytest.raises(InvalidInputError, match="near"):
            await opened.items.search(near=vectors[0] or "x", user_id=user_id)


async def test_without_their_table_vectors_name_the_command_that_adds_it(persistence: Store, user_id: str) -> None:
    for call in (
        persistence.items.put_many([new("a", EAST)], user_id=user_id),
        persistence.items.search(near=EAST, user_id=user_id),
    ):
        with pytest.raises(SchemaError, match="optional add vectors"):
            await call
    assert await persistence.items.search(user_id=user_id) == []


@pytest.mark.parametrize(("kind", "half"), zip(ID_TYPES, (True, False) * 2, strict=True))
async def test_every_kind_of_owner_and_a_schema_of_their_own(kind: str, half: bool, make_database: Any) -> None:
    settings = PersistenceSettings(
        _env_file=None, database_url=await make_database(), user_id_type=kind, db_schema="Own"
    )
    owner: Any = {"string": "ada", "uuid": uuid.UUID(int=7)}.get(kind, 7)
    await migrate.upgrade(settings)
    await migrate.add_optional(settings, "vectors", dims=2, half=half)
    async with Persistence[Any, Any](settings) as store:
        await store.items.put_many([new("a", EAST), new("b", NORTH)], user_id=owner)
        await store.items.put_many([new("b", WEST)], user_id=owner)
        found = await store.items.search(near=EAST, user_id=owner)
    assert [(item.key, item.score) for item in found] == [("a", 1.0), ("b", -1.0)]
