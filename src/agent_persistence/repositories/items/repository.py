"""Items of one owner."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple

from sqlalchemy import delete, select

from agent_persistence.encoding.exact_json import EncodedJSON
from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import ItemKey, ItemRecord, Namespace, NewItem
from agent_persistence.repositories.items import places
from agent_persistence.repositories.items.filters import Filter, matches, taken_apart
from agent_persistence.repositories.items.parts import in_parts
from agent_persistence.repositories.items.statements import (
    clear_items,
    delete_items,
    has_expired,
    put_items,
    read_item,
    read_items,
    refresh_items,
    search_items,
    walk_namespaces,
)
from agent_persistence.repositories.items.vectors import (
    check_vector,
    check_vectors,
    explained,
    nearest_items,
    write_vectors,
)
from agent_persistence.repositories.rows import check_readable, json_object
from agent_persistence.sessions.commit_evidence import RowEvidence, row_evidence
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_limit, check_offset, check_ttl

MAX_FOUND: Final = 10_000
SWEPT_AT_ONCE: Final = 1000
# Of so many conditions there are two hundred shapes; each shared statement stays in memory.
_MOST_SHARED: Final = 2


class PreparedItem(NamedTuple):
    """An item that was checked and encoded."""

    value: EncodedJSON
    ttl_seconds: float | None
    vectors: tuple[str, ...]


class ItemSearch(NamedTuple):
    """The arguments of ``ItemRepository.search``."""

    prefix: Namespace
    conditions: Filter
    near: Sequence[float] | None
    limit: int
    offset: int

    @property
    def is_common(self) -> bool:
        """Whether callers share its statement, of which there are few."""
        return len(self.conditions.shape) <= _MOST_SHARED and self.near is None


class FoundItems(NamedTuple):
    """Items that were read.

    Attributes:
        records: the items, in the order of the statement.
        due: those whose time to live a read may grant again.
    """

    records: list[ItemRecord]
    due: list[ItemKey]


class ItemRepository(Generic[IdT, UserIdT]):
    """The items of one owner: JSON objects by namespace and key, which belong to no thread.

    An expired item is as if deleted, from the moment at which it expires.
    """

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self.scope = scope

    async def put_many(self, items: Iterable[NewItem]) -> None:
        """Put items: add each, or replace the one that is there; of several with one key, the last.

        Raises:
            InvalidInputError: an item cannot be stored, or its vectors have other dimensions than the database's.
            SchemaError: an item has vectors, which need the optional object ``vectors``.
        """
        await put_prepared(self.scope, prepare_items(self.scope, items))

    async def get_many(self, keys: Iterable[ItemKey], *, refresh: bool = False) -> list[ItemRecord | None]:
        """Return items in the order of their keys, with ``None`` for each that does not exist.

        Args:
            keys: pairs of a namespace and a key.
            refresh: let each item with a time to live have it again, once a tenth of it has passed.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: an item cannot be read.
        """
        wanted = checked_keys(keys)
        found = await find_items(self.scope, wanted)
        if refresh:
            await refresh_found(self.scope, found.due)
        records = {(record.namespace, record.key): record for record in found.records}
        return [records.get(key) for key in wanted]

    async def delete_many(self, keys: Iterable[ItemKey]) -> int:
        """Delete items, and return how many of them existed.

        Raises:
            InvalidInputError: a key cannot be valid.
        """
        owner, wanted = item_owner(self.scope), sorted(set(checked_keys(keys)))
        statement, deleted = delete_items(self.scope.models), 0
        for part in in_parts(wanted):
            rows = await self.scope.write(statement, _evidence(self.scope), owner=owner, **_places_of(part))
            deleted += sum(row.was_live for row in rows)
        return deleted

    async def clear(self, prefix: Namespace = ()) -> int:
        """Delete all items below a namespace, or all of the owner, and return their number.

        Raises:
            InvalidInputError: the prefix cannot be valid.
        """
        labels = places.check_prefix(prefix, "prefix")
        statement = clear_items(self.scope.models, below=bool(labels))
        below = places.range_below(labels) if labels else {}
        rows = await self.scope.write(statement, _evidence(self.scope), owner=item_owner(self.scope), **below)
        return sum(row.was_live for row in rows)

    async def search(
        self,
        prefix: Namespace = (),
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of all stores
        near: Sequence[float] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh: bool = False,
    ) -> list[ItemRecord]:
        """Return items below a namespace, those that were put last first, or the nearest to a vector.

        Args:
            prefix: the labels with which the namespaces begin; all of the owner's if left out.
            filter: what values must hold: an item of JSON for each field, or operators such as ``{"$gte": 3}``. There
                are ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt`` and ``$lte``; the last four compare numbers with
                numbers and texts with texts, by code point, and match no other values.
            near: return the items whose vectors are nearest to this one first, with their ``score``; then those without
                vectors, which were put last first. Needs the optional object ``vectors``.
            limit: how many at most, from 1 to 10,000.
            offset: how many to pass by.
            refresh: as for ``get_many``.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: an item cannot be read.
            SchemaError: ``near`` is given, and the database keeps no vectors.
        """
        found = await find_below(self.scope, ItemSearch(prefix, read_filter(filter), near, limit, offset))
        if refresh:
            await refresh_found(self.scope, found.due)
        return found.records

    async def namespaces(
        self,
        prefix: Namespace = (),
        *,
        suffix: Namespace = (),
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Namespace]:
        """Return the namespaces that hold items, sorted by their labels.

        Args:
            prefix: the labels with which they begin; ``*`` stands for any label.
            suffix: the labels with which they end, likewise.
            max_depth: cut longer ones to so many labels, and return each once.
            limit: how many at most, from 1 to 10,000.
            offset: how many to pass by.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        begin, end = places.check_prefix(prefix, "prefix"), places.check_prefix(suffix, "suffix")
        first, number = check_offset(offset, "offset"), check_limit(limit, "limit", MAX_FOUND)
        depth = None if max_depth is None else check_limit(max_depth, "max_depth", MAX_FOUND)
        known = _before_any(begin)
        below = places.range_below(known) if known else {}
        rows = await self.scope.fetch(
            walk_namespaces(self.scope.models, below=bool(known)), owner=item_owner(self.scope), **below
        )
        found = [places.taken_apart(row.namespace) for row in rows]
        chosen = {labels[:depth] for labels in found if places.is_like(labels, begin, end)}
        return sorted(chosen)[first : first + number]


async def put_prepared(scope: Scope[Any, Any], new: Mapping[ItemKey, PreparedItem]) -> None:
    """Put items that were checked and encoded, in the order of their keys."""
    owner = item_owner(scope)
    for part in in_parts(new.items(), size=lambda pair: len(pair[1].value.utf8)):
        await scope.write(
            put_items(scope.models), _evidence(scope, "updated_at"), owner=owner, **columns_of_items(part)
        )
    vectors = {key: item.vectors for key, item in new.items() if item.vectors}
    if vectors:
        await write_vectors(scope, owner, vectors)


def columns_of_items(new: Iterable[tuple[ItemKey, PreparedItem]]) -> dict[str, list[Any]]:
    """Return the parameters of items to put, an array for each."""
    rows = [(places.joined(key.namespace), key.key, item.value, item.ttl_seconds) for key, item in new]
    return dict(zip(("namespace", "key", "value", "ttl_seconds"), map(list, zip(*rows, strict=True)), strict=True))


async def find_items(scope: Scope[Any, Any], keys: Sequence[ItemKey]) -> FoundItems:
    """Read items by keys that were checked; in no order."""
    models, owner = scope.models, item_owner(scope)
    if len(keys) == 1:  # a statement that callers share
        [key] = keys
        at = {"namespace": places.joined(key.namespace), "key": key.key}
        return _found(await scope.fetch(read_item(models), owner=owner, **at))
    found = FoundItems([], [])
    for part in in_parts(dict.fromkeys(keys)):
        records, due = _found(await scope.fetch(read_items(models), owner=owner, **_places_of(part)))
        found.records.extend(records)
        found.due.extend(due)
    return found


def read_filter(wanted: Mapping[str, Any] | None) -> Filter:
    """Check a filter, and take it apart.

    Raises:
        InvalidInputError: it cannot be valid.
    """
    return taken_apart(json_object(wanted, "filter"))


async def find_below(scope: Scope[Any, Any], wanted: ItemSearch) -> FoundItems:
    """Read items as ``ItemRepository.search`` does."""
    models, labels = scope.models, places.check_prefix(wanted.prefix, "prefix")
    values = {
        "owner": item_owner(scope),
        "limit": check_limit(wanted.limit, "limit", MAX_FOUND),
        "offset": check_offset(wanted.offset, "offset"),
        **(places.range_below(labels) if labels else {}),
    }
    shape, operands = wanted.conditions
    values |= operands
    if wanted.near is None:
        return _found(await scope.fetch(search_items(models, below=bool(labels), shape=shape), **values))
    condition = matches(models.side_tables.items.c.value, shape)
    statement = nearest_items(models, condition, check_vector(wanted.near, "near"), below=bool(labels))
    with explained("near"):
        return _found((await scope.execute(statement.params(values))).all())


async def refresh_found(scope: Scope[Any, Any], keys: Collection[ItemKey]) -> None:
    """Grant items their time to live again."""
    statement, evidence = refresh_items(scope.models), _evidence(scope, "expires_at")
    for part in in_parts(dict.fromkeys(keys)):
        await scope.write(statement, evidence, owner=item_owner(scope), **_places_of(part))


def prepare_items(scope: Scope[Any, Any], items: Iterable[NewItem]) -> dict[ItemKey, PreparedItem]:
    """Check and encode items, before any SQL runs; return them in the order of their keys.

    Raises:
        InvalidInputError: an item cannot be stored; ``field`` names it.
    """
    new: dict[ItemKey, PreparedItem] = {}
    for index, item in enumerate(items):
        field = f"items[{index}]"
        if not isinstance(item, NewItem):
            raise InvalidInputError(field, f"must be a NewItem, not {type(item).__name__}")
        if type(item.value) is not dict and not isinstance(item.value, Mapping):
            raise InvalidInputError(f"{field}.value", f"must be a mapping, not {type(item.value).__name__}")
        place = places.check_place((item.namespace, item.key), field)
        ttl = None if item.ttl is None else check_ttl(item.ttl, f"{field}.ttl")
        vectors = check_vectors(item.vectors, f"{field}.vectors")
        new[place] = PreparedItem(scope.json(dict(item.value), f"{field}.value"), ttl, vectors)
    # In one order for all callers, so that no two of them wait for each other.
    return dict(sorted(new.items()))


def checked_keys(keys: Iterable[ItemKey]) -> list[ItemKey]:
    """Return keys of items.

    Raises:
        InvalidInputError: one of them cannot be valid.
    """
    return [places.check_place(key, f"keys[{index}]") for index, key in enumerate(keys)]


async def sweep_expired(scope: Scope[Any, Any]) -> int:
    """Delete a batch of expired items, of one owner or of all; return their number.

    One that somebody is putting again is passed by, so writers do not wait.
    """
    items = scope.models.side_tables.items
    oldest = select(*items.primary_key).where(has_expired(items)).order_by(items.c.expires_at).limit(SWEPT_AT_ONCE)
    if not scope.is_any_user:
        oldest = oldest.where(items.c.user_id == scope.owner)
    batch = oldest.with_for_update(skip_locked=True).cte("batch")
    same = [column == batch.c[column.name] for column in items.primary_key]
    return len((await scope.execute(delete(items).where(*same).returning(items.c.key))).all())


def item_owner(scope: Scope[Any, Any]) -> Any:
    """Return the owner of items.

    Raises:
        InvalidInputError: the scope is that of administration.
    """
    if scope.is_any_user:
        raise InvalidInputError("user_id", "must be an owner: the same key is an item of each owner")
    return scope.owner


def _evidence(scope: Scope[Any, Any], time: str | None = None) -> Callable[[Any], RowEvidence]:
    return row_evidence(scope.models.side_tables.items, "user_id", "namespace", "key", time=time)


def _before_any(prefix: Namespace) -> Namespace:
    """Return the labels before the first ``*``, which one range of the index serves."""
    return prefix[: prefix.index(places.ANY_LABEL)] if places.ANY_LABEL in prefix else prefix


def _places_of(keys: Iterable[ItemKey]) -> dict[str, list[str]]:
    pairs = [(places.joined(key.namespace), key.key) for key in keys]
    return {"namespaces": [namespace for namespace, _ in pairs], "keys": [key for _, key in pairs]}


def _found(rows: Sequence[Any]) -> FoundItems:
    return FoundItems([_record(row) for row in rows], [_key(row) for row in rows if row.is_due])


def _key(row: Any) -> ItemKey:
    return ItemKey(places.taken_apart(row.namespace), row.key)


def _record(row: Any) -> ItemRecord:
    check_readable("items", (row.namespace, row.key), row, row.created_at, row.updated_at, row.expires_at)
    return ItemRecord(
        namespace=places.taken_apart(row.namespace),
        key=row.key,
        value=row.value,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
        score=getattr(row, "score", None),
    )
