"""Puts of items by a statement that callers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_persistence.concurrency.batching import ALONE, Alone, Batcher
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.operations.group_commit import GroupCommit, Written, doubtful
from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import ItemKey, NewItem
from agent_persistence.repositories.items import places
from agent_persistence.repositories.items.parts import fits_a_part
from agent_persistence.repositories.items.repository import (
    PreparedItem,
    columns_of_items,
    item_owner,
    prepare_items,
    put_prepared,
)
from agent_persistence.repositories.items.statements import put_unlocked_items
from agent_persistence.sessions.commit_evidence import CommitEvidence, row_evidence


@dataclass(frozen=True, slots=True)
class _Put:
    """The items of one call on their way, in the order of their keys."""

    owner: Any
    new: Mapping[ItemKey, PreparedItem]


class ItemCalls:
    """Puts items, those of several callers in one transaction.

    Not in autocommit: a repeated put could overwrite a newer one, and after a lost reply no row tells whether it was
    put, for another caller may have put the same item since, or deleted it.
    """

    def __init__(self, transactions: Transactions[Any, Any], group: GroupCommit) -> None:
        self._transactions = transactions
        self._sessions = transactions.sessions
        models = self._sessions.models
        self._statements = {one: put_unlocked_items(models, one=one) for one in (False, True)}
        self._evidence = row_evidence(models.side_tables.items, "user_id", "namespace", "key", time="updated_at")
        self._puts: Batcher[_Put, None] = transactions.batcher(
            partial(group.run, write=self._write), self._put_alone, kind="item"
        )

    async def put_many(self, items: Iterable[NewItem], *, user_id: Any) -> None:
        """Put items, all or none; see ``ItemRepository.put_many``."""
        await self._sessions.ready()
        scope = self._sessions.reading(user_id)
        put = _Put(item_owner(scope), prepare_items(scope, items))
        size = sum(len(item.value.utf8) for item in put.new.values())
        has_vectors = any(item.vectors for item in put.new.values())
        if not put.new:
            return
        if has_vectors or not self._sessions.groups or not fits_a_part(len(put.new), size):
            await self._put_alone(put)
        else:
            # Puts of one item in the order of their calls.
            key = (put.owner, next(iter(put.new))) if len(put.new) == 1 else None
            await self._puts.submit(put, key=key, size=size)

    async def _write(self, connection: PinnedConnection, puts: list[_Put]) -> Written[None]:
        """Put the items of all, of several with one key the last; calls with a locked item are to run alone."""
        last = {(put.owner, key): item for put in puts for key, item in put.new.items()}
        chosen = sorted(last)  # in one order for all callers, as in ``prepare_items``
        columns = {
            "owners": [owner for owner, _ in chosen],
            **columns_of_items((place[1], last[place]) for place in chosen),
        }
        if is_one := len(chosen) == 1:
            columns = {name: values[0] for name, values in columns.items()}
        rows = await connection.fetch(self._statements[is_one], **columns)
        if len(rows) == len(chosen):
            return Written([None] * len(puts), lambda: self._evidence_of(rows))
        found = {(row.user_id, ItemKey(places.taken_apart(row.namespace), row.key)) for row in rows}
        are_put = [[(put.owner, key) in found for key in put.new] for put in puts]
        if any(any(each) and not all(each) for each in are_put):
            return Written([ALONE] * len(puts), None)  # all items of a call or none
        results = [None if all(each) else ALONE for each in are_put]
        return Written(results, (lambda: self._evidence_of(rows)) if rows else None)

    def _evidence_of(self, rows: list[Any]) -> CommitEvidence:
        # One row proves the transaction for all: they commit together.
        return CommitEvidence(None, rows[-1], made=[self._evidence(rows[-1])])

    async def _put_alone(self, put: _Put, reason: Alone = ALONE) -> None:
        with doubtful(reason):
            await self._transactions.write_in_scope(partial(put_prepared, new=put.new), user_id=put.owner)
