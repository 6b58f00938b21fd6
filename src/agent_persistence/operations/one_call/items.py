"""``ItemRepository``, one call at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.one_call.base import OneCall
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import ItemKey, ItemRecord, Namespace, NewItem
from agent_persistence.repositories import ItemRepository
from agent_persistence.repositories.items.repository import (
    FoundItems,
    ItemSearch,
    checked_keys,
    find_below,
    find_items,
    read_filter,
    refresh_found,
)


class OneCallItems(OneCall[ItemRepository[IdT, UserIdT], IdT, UserIdT]):
    """``ItemRepository``, one call at a time.

    Each method takes ``user_id``: the owner of the items.
    """

    async def put_many(self, items: Iterable[NewItem], *, user_id: UserIdT) -> None:
        """Put items, all or none: add each, or replace the one that is there; of several with one key, the last.

        Raises:
            InvalidInputError: an item cannot be stored, or its vectors have other dimensions than the database's.
            SchemaError: an item has vectors, which need the optional object ``vectors``.
        """
        await self._batched.items.put_many(items, user_id=user_id)

    async def get_many(
        self, keys: Iterable[ItemKey], *, user_id: UserIdT, refresh: bool = False
    ) -> list[ItemRecord | None]:
        """Return items in the order of their keys, with ``None`` for each that does not exist.

        Args:
            keys: pairs of a namespace and a key. Reads of a single key share a statement with those of other callers.
            user_id: the owner.
            refresh: let each item with a time to live have it again, once a tenth of it has passed.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: an item cannot be read.
        """
        wanted = checked_keys(keys)
        # Those of several keys take arrays, which no shared statement can hold in its own.
        read = self._look_up if len(wanted) == 1 else self._read
        found = await read(_find, user_id, wanted)
        await self._refresh(found, user_id, wanted=refresh)
        records = {(record.namespace, record.key): record for record in found.records}
        return [records.get(key) for key in wanted]

    async def delete_many(self, keys: Iterable[ItemKey], *, user_id: UserIdT) -> int:
        """Delete items, and return how many of them existed.

        Raises:
            InvalidInputError: a key cannot be valid.
        """
        return await self._write(ItemRepository[IdT, UserIdT].delete_many, user_id, list(keys))

    async def clear(self, prefix: Namespace = (), *, user_id: UserIdT) -> int:
        """Delete all items below a namespace, or all of the owner, and return their number.

        Raises:
            InvalidInputError: the prefix cannot be valid.
        """
        return await self._write(ItemRepository[IdT, UserIdT].clear, user_id, prefix)

    async def search(
        self,
        prefix: Namespace = (),
        *,
        user_id: UserIdT,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of all stores
        near: Sequence[float] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh: bool = False,
    ) -> list[ItemRecord]:
        """Return items below a namespace, those that were put last first, or the nearest to a vector.

        See ``ItemRepository.search``.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: an item cannot be read.
            SchemaError: ``near`` is given, and the database keeps no vectors.
        """
        wanted = ItemSearch(prefix, read_filter(filter), near, limit, offset)
        read = self._look_up if wanted.is_common else self._read
        found = await read(_find_below, user_id, wanted)
        await self._refresh(found, user_id, wanted=refresh)
        return found.records

    async def namespaces(
        self,
        prefix: Namespace = (),
        *,
        user_id: UserIdT,
        suffix: Namespace = (),
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Namespace]:
        """Return the namespaces that hold items, sorted by their labels; see ``ItemRepository.namespaces``.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        return await self._read(
            ItemRepository[IdT, UserIdT].namespaces,
            user_id,
            prefix,
            suffix=suffix,
            max_depth=max_depth,
            limit=limit,
            offset=offset,
        )

    async def _refresh(self, found: FoundItems, user_id: UserIdT, *, wanted: bool) -> None:
        if wanted and found.due:
            await self._write(_refresh, user_id, found.due)

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> ItemRepository[IdT, UserIdT]:
        return repositories.items


async def _find(items: ItemRepository[Any, Any], keys: list[ItemKey]) -> FoundItems:
    return await find_items(items.scope, keys)


async def _find_below(items: ItemRepository[Any, Any], wanted: ItemSearch) -> FoundItems:
    return await find_below(items.scope, wanted)


async def _refresh(items: ItemRepository[Any, Any], keys: list[ItemKey]) -> None:
    await refresh_found(items.scope, keys)
