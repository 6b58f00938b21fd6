"""``PersistenceStore``, LangGraph's long-term memory in the items of a ``Persistence``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Self

from langgraph.store.base import BaseStore, IndexConfig, Op, Result, TTLConfig
from typing_extensions import override

from agent_persistence.errors import InvalidInputError
from agent_persistence.integrations.bridge import Bridge
from agent_persistence.integrations.langgraph.store_calls import EmbeddedCall, Items, StoreCall, calls_of
from agent_persistence.integrations.langgraph.store_index import Index
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, Namespace

# LangGraph's own stores gather the calls of an event loop, however many. Here each has its time limit, which must not
# run while a call only waits for tens of thousands before it.
_AT_ONCE: Final = 64
_NO_OWNER: Final = "give either user_id, the owner of all items, or owner_of, which finds the owner in a namespace"


class PersistenceStore(BaseStore):
    """A LangGraph store that keeps items in a ``Persistence``: ``builder.compile(checkpointer=..., store=store)``.

    Every method exists for async and for sync code, and can be called from any thread and event loop; it runs in the
    event loop of the ``Persistence``. If the ``Persistence`` is not open yet, the first sync call or a ``with`` block
    opens it in a background thread, which ``close`` or the end of the block ends.

    An expired item is never returned. Expired items are deleted by the background purge of the ``Persistence``;
    ``sweep_interval_minutes`` and ``omit_expired`` of ``ttl`` change nothing.

    With ``index``, texts of an item are embedded before its transaction begins, and a search with a ``query`` returns
    the nearest items first, then those without vectors. Without it, ``query`` and the ``index`` of a put change
    nothing: a search returns the items that were put last first.

    Args:
        persistence: keeps the items. ``close`` closes it only if a sync call opened it.
        user_id: the owner of all items.
        owner_of: returns the owner of a namespace, such as ``lambda namespace: namespace[1]`` for
            ``("users", "u-42", "memories")``. It is also given the prefix of a search or of a list, which lies within
            the items of one owner.
        ttl: LangGraph's: ``default_ttl`` in minutes, and ``refresh_on_read``.
        index: LangGraph's: ``dims``, ``embed`` and ``fields``. It needs the optional object ``vectors`` of the same
            dimensions. ``embed`` is awaited in the event loop of the ``Persistence``; a sync one runs in a thread.

    Raises:
        InvalidInputError: not exactly one of ``user_id`` and ``owner_of`` is given; ``persistence`` is none, such as
            a URL; or ``index`` lacks something, or has unknown keys.
    """

    supports_ttl = True

    def __init__(
        self,
        persistence: Persistence[Any, Any],
        *,
        user_id: Any = None,
        owner_of: Callable[[Namespace], Any] | None = None,
        ttl: TTLConfig | None = None,
        index: IndexConfig | None = None,
    ) -> None:
        if not isinstance(persistence, Persistence):
            raise InvalidInputError("persistence", f"must be a Persistence, not {type(persistence).__name__}")
        if (user_id is None) == (owner_of is None) or user_id is ANY_USER:
            raise InvalidInputError("user_id", _NO_OWNER)
        self.ttl_config = ttl
        self.index_config = index
        self._index = None if index is None else Index(index)
        self._persistence = persistence
        self._owner_of = owner_of or (lambda _namespace: user_id)
        self._bridge = Bridge(persistence)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def __enter__(self) -> Self:
        self._bridge.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ``Persistence`` if a sync call opened it, and end its thread."""
        self._bridge.close()

    @override
    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations in one transaction; see ``abatch``.

        Raises:
            SyncInLoopError: the calling thread runs the event loop of the ``Persistence``; use ``abatch``.
        """
        return self._bridge.wait(self._run(list(ops)))

    @override
    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations in one transaction, and return their results in the same order.

        Reads come first, so they see what was there before. Of several puts to one key the last counts.

        Raises:
            InvalidNamespaceError: a label is empty, no string, or holds a period.
            InvalidInputError: an operation cannot be valid, or ``owner_of`` finds no owner.
            CorruptRowError: an item cannot be read.
            SchemaError: there is an ``index``, and the database keeps no vectors.
        """
        return await self._bridge.call(self._run(list(ops)))

    async def _run(self, ops: list[Op]) -> list[Result]:
        results: list[Result] = [None] * len(ops)
        calls = calls_of(ops, self._owner_of)
        if self._index is not None:
            # Before the transaction, which would hold a connection while the model works.
            await asyncio.gather(*(call.embed(self._index) for call in calls if isinstance(call, EmbeddedCall)))

        async def run(items_of: Callable[[Any], Items]) -> None:
            for call in calls:
                for index, result in await call.run(items_of(call.owner)):
                    results[index] = result

        async with self._turns:
            if len(calls) == 1:  # callers share statements
                await run(lambda owner: Items(self._persistence.items, {"user_id": owner}))
            elif calls:
                await self._in_one_transaction(calls, run)
        return results

    async def _in_one_transaction(
        self, calls: list[StoreCall], run: Callable[[Callable[[Any], Items]], Awaitable[None]]
    ) -> None:
        first = calls[0].owner

        async def work(uow: UnitOfWork[Any, Any]) -> None:
            def items_of(owner: Any) -> Items:
                # A unit of work has one owner; those of the others join its transaction.
                joined = uow if owner == first else self._persistence.bind(uow.session, user_id=owner)
                return Items(joined.items, {})

            await run(items_of)

        await self._persistence.run(work, user_id=first)
