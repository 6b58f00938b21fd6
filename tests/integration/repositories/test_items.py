"""Items: an owner's values by namespace and key, found by range and filter, gone when they expire."""

import asyncio
from typing import Any

import pytest
from integration.repository_testing import counted_statements, run_sql
from sqlalchemy import text

from agent_persistence import Persistence
from agent_persistence.errors import CorruptRowError, DatabaseError, InvalidInputError
from agent_persistence.records import ANY_USER, ItemKey, Namespace, NewItem

Store = Persistence[Any, Any]
HOME: Namespace = ("home",)


def new(key: str, namespace: Namespace = HOME, ttl: float | None = None, **value: Any) -> NewItem:
    return NewItem(namespace=namespace, key=key, value=value, ttl=ttl)


async def found(store: Store, owner: Any, *prefix: str, **options: Any) -> list[str]:
    return [item.key for item in await store.items.search(prefix, user_id=owner, **options)]


async def let_pass(store: Store, owner: Any, seconds: float) -> None:
    """Move the items of an owner into the past."""
    await run_sql(
        store,
        "UPDATE items SET created_at = created_at - interval '1 second' * :seconds,"
        " expires_at = expires_at - interval '1 second' * :seconds WHERE user_id = :owner",
        seconds=seconds,
        owner=owner,
    )


async def seconds_left(store: Store, owner: Any) -> float:
    [[left]] = await run_sql(
        store, "SELECT extract(epoch FROM expires_at - now())::float FROM items WHERE user_id = :owner", owner=owner
    )
    return float(left)


async def test_items_are_read_back_in_the_order_of_their_keys(any_persistence: Store, any_user: Any) -> None:
    items = any_persistence.items
    value = {"n": 1, "x": -0.0, "big": 2**63 - 1, "deep": [{"é": None}], "": {}}
    await items.put_many([new("a", n=1), NewItem(namespace=("home", "cellar"), key="b", value=value)], user_id=any_user)

    keys = [ItemKey(("home", "cellar"), "b"), ItemKey(HOME, "none"), ItemKey(HOME, "a"), ItemKey(HOME, "a")]
    read = await items.get_many(keys, user_id=any_user)

    assert [item and (item.namespace, item.key, item.value) for item in read] == [
        (("home", "cellar"), "b", value),
        None,
        (HOME, "a", {"n": 1}),
        (HOME, "a", {"n": 1}),
    ]
    assert repr(read[0] and read[0].value["x"]) == "-0.0"
    assert await items.get_many([], user_id=any_user) == []
    assert await items.delete_many(keys, user_id=any_user) == 2
    assert await items.get_many(keys, user_id=any_user) == [None] * 4
    assert await items.delete_many(keys, user_id=any_user) == 0


async def test_the_last_of_several_puts_to_one_key_counts(persistence: Store, user_id: str) -> None:
    await persistence.items.put_many([new("a", n=1), new("b"), new("a", n=2)], user_id=user_id)
    [first] = await persistence.items.get_many([ItemKey(HOME, "a")], user_id=user_id)
    await persistence.items.put_many([new("a", n=3)], user_id=user_id)
    [second] = await persistence.items.get_many([ItemKey(HOME, "a")], user_id=user_id)

    assert first is not None
    assert second is not None
    assert (first.value, second.value) == ({"n": 2}, {"n": 3})
    assert first.created_at == second.created_at < second.updated_at


async def test_the_same_key_is_an_item_of_each_owner(any_persistence: Store, any_ids: Any, any_user: Any) -> None:
    stranger, items = any_ids.user(), any_persistence.items
    await items.put_many([new("a", of="mine")], user_id=any_user)
    await items.put_many([new("a", of="theirs"), new("b")], user_id=stranger)

    assert [item.value for item in await items.search(user_id=any_user)] == [{"of": "mine"}]
    assert await items.clear(user_id=any_user) == 1
    assert sorted(await found(any_persistence, stranger)) == ["a", "b"]


async def test_nobody_is_the_owner_of_everybody_s_items(persistence: Store) -> None:
    everybody: Any = ANY_USER
    for call in (
        persistence.items.get_many([ItemKey(HOME, "a")], user_id=everybody),
        persistence.items.put_many([new("a")], user_id=everybody),
        persistence.items.delete_many([ItemKey(HOME, "a")], user_id=everybody),
        persistence.items.clear(user_id=everybody),
        persistence.items.search(user_id=everybody),
        persistence.items.namespaces(user_id=everybody),
    ):
        with pytest.raises(InvalidInputError, match="user_id: must be an owner"):
            await call


async def test_a_prefix_selects_whole_labels(persistence: Store, user_id: str) -> None:
    places: list[Namespace] = [("a", "b"), ("a", "b", "c"), ("a", "b-c"), ("a", "b/"), ("a", "bc"), ("a",), ("b", "a")]
    await persistence.items.put_many([new(".".join(place), place) for place in places], user_id=user_id)

    assert sorted(await found(persistence, user_id, "a", "b")) == ["a.b", "a.b.c"]
    assert len(await found(persistence, user_id, "a")) == 6
    assert len(await found(persistence, user_id)) == 7
    assert await persistence.items.namespaces(user_id=user_id) == sorted(places)
    assert await persistence.items.namespaces(("a", "b"), user_id=user_id) == [("a", "b"), ("a", "b", "c")]
    assert await persistence.items.clear(("a", "b"), user_id=user_id) == 2
    assert len(await found(persistence, user_id)) == 5


async def test_namespaces_are_matched_cut_and_paged(persistence: Store, user_id: str) -> None:
    places: list[Namespace] = [
        (team, person, kind) for team in ("x", "y") for person in ("p", "q") for kind in ("m", "n")
    ]
    await persistence.items.put_many([new("k", place) for place in places], user_id=user_id)
    namespaces = persistence.items.namespaces

    assert await namespaces(max_depth=1, user_id=user_id) == [("x",), ("y",)]
    assert await namespaces(("x",), max_depth=2, user_id=user_id) == [("x", "p"), ("x", "q")]
    assert await namespaces(("*", "q"), suffix=("m",), user_id=user_id) == [("x", "q", "m"), ("y", "q", "m")]
    assert await namespaces(suffix=("p", "*"), max_depth=2, user_id=user_id) == [("x", "p"), ("y", "p")]
    assert await namespaces(limit=3, offset=2, user_id=user_id) == places[2:5]
    assert await namespaces(("x", "p", "m", "*"), user_id=user_id) == []


async def test_namespaces_are_found_by_steps_in_the_index(persistence: Store, user_id: str) -> None:
    await run_sql(
        persistence,
        "INSERT INTO items (user_id, namespace, key, value) "
        "SELECT :owner, 'n' || number % 3, number::text, '{}' FROM generate_series(1, 30000) AS number",
        owner=user_id,
    )
    await run_sql(persistence, "ANALYZE items")
    entries = text("SELECT pg_stat_get_xact_tuples_returned(CAST('pk_items' AS regclass))")

    async with persistence.begin(user_id=user_id) as uow:
        assert await uow.items.namespaces() == [("n0",), ("n1",), ("n2",)]
        assert (await uow.session.execute(entries)).scalar_one() < 1000


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ({"n": {"$gt": 9.5}}, ["ten"]),
        ({"n": {"$gte": 9, "$lt": 10}}, ["nine"]),
        ({"n": {"$lte": "b"}}, ["text"]),
        ({"n": 10}, ["ten"]),
        ({"n": 10.0}, ["ten"]),
        ({"n": {"b": 1}}, ["object"]),
        ({"n": {"b": {"$gt": 0}}}, ["object"]),
        ({"n": {"$eq": {"b": 1}}}, []),
        ({"n": {"$ne": 9}}, ["list", "missing", "null", "object", "ten", "text"]),
        ({"n": None}, ["missing", "null"]),
        ({"n": {"$ne": None}}, ["list", "nine", "object", "ten", "text"]),
        ({"n": [1, {"$gt": 1}]}, ["list"]),
        ({"n": [1]}, []),
        ({"n": {"0": 1}}, []),
        ({"n": {}}, ["object"]),
        ({"n": True}, []),
        ({"n": {"$gt": 9}, "m": None}, ["ten"]),
    ],
)
async def test_a_filter_compares_like_with_like(
    wanted: dict[str, Any], keys: list[str], persistence: Store, user_id: str
) -> None:
    values = {"nine": 9, "ten": 10, "object": {"b": 1, "c": 2}, "list": [1, 2], "text": "a", "null": None}
    await persistence.items.put_many([new(key, n=value) for key, value in values.items()], user_id=user_id)
    await persistence.items.put_many([new("missing", m=None)], user_id=user_id)

    assert sorted(await found(persistence, user_id, "home", filter=wanted)) == keys
    async with persistence.begin(user_id=user_id) as uow:
        assert sorted(item.key for item in await uow.items.search(filter=wanted)) == keys


@pytest.mark.parametrize("wanted", [{"n": {"$regex": "a"}}, {"n": {"$gt": None}}, {"n": {"$lt": [1]}}, {"n": {1}}, [1]])
async def test_a_filter_that_cannot_be_meant_is_refused(wanted: Any, persistence: Store, user_id: str) -> None:
    with pytest.raises(InvalidInputError, match="^filter"):
        await persistence.items.search(filter=wanted, user_id=user_id)


async def test_pages_follow_each_other_those_put_last_first(persistence: Store, user_id: str) -> None:
    await persistence.items.put_many([new(str(number)) for number in range(7)], user_id=user_id)
    await persistence.items.put_many([new("last")], user_id=user_id)
    options = {"limit": 3, "filter": {"n": None}}

    pages = [await found(persistence, user_id, "home", offset=offset, **options) for offset in (0, 3, 6, 9)]

    assert pages == [["last", "0", "1"], ["2", "3", "4"], ["5", "6"], []]


async def test_an_expired_item_is_as_if_deleted(persistence: Store, user_id: str) -> None:
    items, key = persistence.items, ItemKey(HOME, "a")
    await items.put_many([new("a", ttl=60, n=1), new("b", ("other",))], user_id=user_id)
    await let_pass(persistence, user_id, 59)
    assert await found(persistence, user_id, "home") == ["a"]

    await let_pass(persistence, user_id, 1.5)

    assert await items.get_many([key], user_id=user_id) == [None]
    assert await items.get_many([key, ItemKey(("other",), "a")], user_id=user_id) == [None, None]
    assert await found(persistence, user_id) == ["b"]
    assert await items.namespaces(user_id=user_id) == [("other",)]
    assert await items.namespaces(("home",), user_id=user_id) == []
    assert await items.get_many([key], user_id=user_id, refresh=True) == [None]
    assert await items.delete_many([key], user_id=user_id) == 0
    await items.put_many([new("a", n=2)], user_id=user_id)
    [again] = await items.get_many([key], user_id=user_id)
    assert again is not None
    assert again.created_at == again.updated_at


async def test_an_item_expires_within_a_transaction_too(persistence: Store, user_id: str) -> None:
    await persistence.items.put_many([new("a", ttl=0.2)], user_id=user_id)
    async with persistence.begin(user_id=user_id) as uow:
        assert len(await uow.items.search()) == 1
        await asyncio.sleep(0.25)
        assert await uow.items.search() == []


async def test_a_part_of_a_second_counts(persistence: Store, user_id: str) -> None:
    await persistence.items.put_many([new("a", ttl=24.5)], user_id=user_id)
    assert 23.5 < await seconds_left(persistence, user_id) <= 24.5


async def test_a_read_grants_the_time_again_once_a_tenth_has_passed(persistence: Store, user_id: str) -> None:
    async def get(**options: Any) -> None:
        assert await persistence.items.get_many([ItemKey(HOME, "a")], user_id=user_id, **options) != [None]

    await persistence.items.put_many([new("a", ttl=100)], user_id=user_id)
    await let_pass(persistence, user_id, 5)
    await get(refresh=True)
    assert await seconds_left(persistence, user_id) < 96
    await let_pass(persistence, user_id, 6)
    await get()
    assert await seconds_left(persistence, user_id) < 90
    await get(refresh=True)
    assert await seconds_left(persistence, user_id) > 98
    await let_pass(persistence, user_id, 50)
    await found(persistence, user_id, refresh=True)
    assert await seconds_left(persistence, user_id) > 98
    await let_pass(persistence, user_id, 50)
    async with persistence.begin(user_id=user_id) as uow:
        await uow.items.search(filter={"n": None}, refresh=True)
    assert await seconds_left(persistence, user_id) > 98
    await persistence.items.put_many([new("a")], user_id=user_id)
    [item] = await persistence.items.get_many([ItemKey(HOME, "a")], user_id=user_id, refresh=True)
    assert item is not None
    assert item.expires_at is None


async def test_the_purge_deletes_expired_items_of_the_owner_it_is_given(
    persistence: Store, new_ids: Any, user_id: str
) -> None:
    stranger = new_ids.user()
    for owner in (user_id, stranger):
        await persistence.items.put_many([new("a", ttl=1), new("b", ttl=1000), new("c")], user_id=owner)
        await let_pass(persistence, owner, 2)

    async def rows(owner: str) -> int:
        [[number]] = await run_sql(persistence, "SELECT count(*) FROM items WHERE user_id = :owner", owner=owner)
        return int(number)

    await persistence.purge(keep_last=100, user_id=user_id, dry_run=True)
    assert await rows(user_id) == 3
    await persistence.purge(keep_last=100, user_id=user_id)
    assert (await rows(user_id), await rows(stranger)) == (2, 3)


async def test_gets_of_many_callers_share_a_statement(persistence: Store, user_id: str) -> None:
    await persistence.items.put_many([new(str(number), n=number) for number in range(32)], user_id=user_id)
    async with counted_statements(persistence) as statements:
        read = await asyncio.gather(
            *(persistence.items.get_many([ItemKey(HOME, str(number))], user_id=user_id) for number in range(32))
        )
    assert [item and item.value for [item] in read] == [{"n": number} for number in range(32)]
    assert len(statements) <= 6
    keys = [ItemKey(HOME, str(number)) for number in range(32)]
    lists = await asyncio.gather(*(persistence.items.get_many(keys, user_id=user_id) for _ in range(8)))
    assert [item and item.value for item in lists[7]] == [{"n": number} for number in range(32)]
    pages = await asyncio.gather(*(found(persistence, user_id, "home", limit=size) for size in (1, 32, 5)))
    assert [len(page) for page in pages] == [1, 32, 5]


async def test_writers_of_the_same_keys_in_any_order_do_not_block_each_other(persistence: Store, user_id: str) -> None:
    keys = [str(number) for number in range(20)]

    async def write(number: int) -> None:
        mine = keys if number % 2 else keys[::-1]
        await persistence.items.put_many([new(key, ttl=0.5 + number, by=number) for key in mine], user_id=user_id)
        await persistence.items.get_many([ItemKey(HOME, key) for key in mine], refresh=True, user_id=user_id)
        if number == 3:
            await persistence.items.delete_many([ItemKey(HOME, key) for key in mine], user_id=user_id)
        await persistence.items.put_many([new(key, by=number) for key in mine], user_id=user_id)

    await asyncio.gather(*(write(number) for number in range(8)))

    values = [item.value for item in await persistence.items.search(limit=100, user_id=user_id)]
    assert len(values) == 20
    assert all(value == values[0] for value in values)  # each put is whole


async def test_while_an_item_is_locked_no_item_of_its_put_is_seen(persistence: Store, user_id: str) -> None:
    await persistence.items.put_many([new("a", n=0)], user_id=user_id)
    both, beside = [new("a", n=1), new("b", n=1)], [new("c", n=1)]
    async with persistence.begin(user_id=user_id) as uow:
        await uow.items.put_many([new("a", n=2)])
        # The first starts at once, and these two share a batch.
        puts = [persistence.items.put_many(items, user_id=user_id) for items in ([new("d")], both, beside)]
        waiting = [asyncio.create_task(put) for put in puts]
        await asyncio.gather(waiting[0], waiting[2])
        assert {item.key for item in await persistence.items.search(user_id=user_id)} == {"a", "c", "d"}
    await asyncio.gather(*waiting)

    read = await persistence.items.get_many([ItemKey(HOME, key) for key in "abc"], user_id=user_id)
    assert [item and item.value for item in read] == [{"n": 1}] * 3


async def test_a_unit_of_work_that_fails_leaves_no_item(persistence: Store, user_id: str) -> None:
    async def fail() -> None:
        async with persistence.begin(user_id=user_id) as uow:
            await uow.items.put_many([new("a")])
            assert len(await uow.items.search()) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await found(persistence, user_id) == []


async def test_many_items_are_written_and_read_by_several_statements_of_one_transaction(
    persistence: Store, user_id: str
) -> None:
    many = [new(f"k{number}", n=number) for number in range(2500)]
    keys = [ItemKey(HOME, item.key) for item in many]

    async with counted_statements(persistence) as statements:
        await persistence.items.put_many(many, user_id=user_id)
    assert sum("INSERT" in statement for statement in statements) == 3
    read = await persistence.items.get_many(keys, user_id=user_id)
    assert [item and item.value for item in read] == [item.value for item in many]
    assert await persistence.items.delete_many([*keys, *keys], user_id=user_id) == 2500

    await run_sql(persistence, f"ALTER TABLE items ADD CONSTRAINT refused CHECK (user_id <> '{user_id}' OR key < 'k9')")
    try:
        with pytest.raises(DatabaseError, match="refused"):
            await persistence.items.put_many(many, user_id=user_id)
    finally:
        await run_sql(persistence, "ALTER TABLE items DROP CONSTRAINT refused")
    assert await persistence.items.search(user_id=user_id) == []


async def test_large_items_are_written_a_few_at_a_time(persistence: Store, user_id: str) -> None:
    large = [new(str(number), text="x" * 3_000_000) for number in range(4)]
    async with counted_statements(persistence) as statements:
        await persistence.items.put_many([*large, new("small")], user_id=user_id)
    assert sum("INSERT" in statement for statement in statements) == 4
    assert len(await persistence.items.search(user_id=user_id)) == 5


LONGEST = NewItem(namespace=("n" * 399, "m" * 400), key="k" * 800, value={})


async def test_the_longest_place_has_room_in_the_index(open_store: Any, new_ids: Any) -> None:
    store = await open_store(("string", "string"))
    owner = "\N{GRINNING FACE}" * 215 + new_ids.user()[:40]
    place = "".join(chr(0x10000 + number * 7) for number in range(200))  # compresses badly
    await store.items.put_many([LONGEST, NewItem(namespace=(place,), key=place, value={})], user_id=owner)
    assert len(await store.items.search(user_id=owner)) == 2


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (NewItem(namespace=(), key="k", value={}), "items[0].namespace"),
        (NewItem(namespace=("a.b",), key="k", value={}), "items[0].namespace"),
        (NewItem(namespace=("",), key="k", value={}), "items[0].namespace"),
        (NewItem(namespace="ab", key="k", value={}), "items[0].namespace"),  # type: ignore[arg-type]  # on purpose
        (NewItem(namespace=("n\0",), key="k", value={}), "items[0].namespace"),
        (NewItem(namespace=("é" * 401,), key="k", value={}), "items[0].namespace"),
        (NewItem(namespace=HOME, key="k" * 801, value={}), "items[0].key"),
        (NewItem(namespace=HOME, key="\ud800", value={}), "items[0].key"),
        (NewItem(namespace=HOME, key=1, value={}), "items[0].key"),  # type: ignore[arg-type]  # on purpose
        (NewItem(namespace=HOME, key="k", value=[]), "items[0].value"),  # type: ignore[arg-type]  # on purpose
        (NewItem(namespace=HOME, key="k", value={"a": {"b": float("nan")}}), "items[0].value.a.b"),
        (NewItem(namespace=HOME, key="k", value={"a": ("b",)}), "items[0].value.a"),
        (NewItem(namespace=HOME, key="k", value={}, ttl=0), "items[0].ttl"),
        ({"key": "k"}, "items[0]"),
    ],
)
async def test_an_item_that_cannot_be_stored_is_refused_by_name(
    item: Any, field: str, persistence: Store, user_id: str
) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        await persistence.items.put_many([item], user_id=user_id)
    assert refusal.value.field == field


async def test_an_item_that_cannot_be_read_is_named(persistence: Store, user_id: str) -> None:
    await run_sql(
        persistence,
        "INSERT INTO items (user_id, namespace, key, value) VALUES (:owner, 'home', 'a', '{\"n\": 1e5000}')",
        owner=user_id,
    )
    with pytest.raises(CorruptRowError):
        await persistence.items.get_many([ItemKey(HOME, "a")], user_id=user_id)
    with pytest.raises(CorruptRowError):
        await persistence.items.search(user_id=user_id)
    await persistence.items.clear(user_id=user_id)
