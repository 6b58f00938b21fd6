"""w14-store: long-term memory of LangGraph, in its own store and in this package's."""

from __future__ import annotations

import itertools
from importlib.metadata import version
from typing import Any, ClassVar

from langgraph.store.postgres import AsyncPostgresStore

from agent_persistence import Persistence
from agent_persistence.integrations.langgraph import PersistenceStore
from benchmarks.contender import Addresses, Contender, Operation, Samples, Thread
from benchmarks.contenders.langgraph import open_pool
from benchmarks.ours import settings_for

_ITEMS = 50
_PAGE = 10
_KEY = "fact-7"


class Stores(Contender):
    """Calls a store, in a namespace of each thread."""

    store: Any

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:  # noqa: ARG002  # all threads alike
        """Put the items of a thread."""
        for number in range(_ITEMS):
            await self.store.aput(_namespace(thread), f"fact-{number}", _value(number))

    async def put_item(self, thread: Thread) -> Any:
        """``aput`` of an item that is there."""
        number = next(self.numbers)
        await self.store.aput(_namespace(thread), f"fact-{number % _ITEMS}", _value(number % _ITEMS))

    async def get_item(self, thread: Thread) -> Any:
        """``aget``."""
        return (await self.store.aget(_namespace(thread), _KEY)).value

    async def search_items(self, thread: Thread) -> Any:
        """``asearch`` of ten items by a filter."""
        found = await self.store.asearch(_namespace(thread), filter={"topic": "t-1"}, limit=_PAGE)
        return [item.value for item in found]

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:  # noqa: ARG002
        """Compare what it returned, and what can be read after it, with what was put."""
        found = await operation(thread)
        values = [_value(number) for number in range(_ITEMS)]
        items = await self.store.asearch(_namespace(thread), limit=2 * _ITEMS)
        returned = {"w14-store-put": None, "w14-store-get": values[7]}
        if key == "w14-store-search":
            is_right = [value["topic"] for value in found] == ["t-1"] * _PAGE
        else:
            is_right = found == returned[key]
        return is_right and sorted(item.value["text"] for item in items) == sorted(one["text"] for one in values)


class Ours(Stores):
    """``PersistenceStore`` over a ``Persistence`` without a cache."""

    name: ClassVar[str] = "ours"

    async def open(self, addresses: Addresses) -> None:
        """Open it."""
        self.title = "agent-persistence"
        self.persistence: Persistence[str, str] = Persistence(settings_for(addresses))
        await self.persistence.__aenter__()
        self.store = PersistenceStore(self.persistence, owner_of=lambda namespace: namespace[1])

    async def close(self) -> None:
        """Close it."""
        await self.persistence.aclose()


class LangGraph(Stores):
    """``AsyncPostgresStore``, which runs the calls of one turn of the event loop together."""

    name: ClassVar[str] = "langgraph"
    own_database = True
    counted = False

    async def open(self, addresses: Addresses) -> None:
        """Open a pool, and make the tables."""
        self.title = f"langgraph-checkpoint-postgres {version('langgraph-checkpoint-postgres')}"
        self.pool: Any = await open_pool(addresses)
        self.store = AsyncPostgresStore(self.pool)
        await self.store.setup()

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.close()


def _namespace(thread: Thread) -> tuple[str, ...]:
    return ("users", thread.id, "facts")


def _value(number: int) -> dict[str, Any]:
    return {"text": f"The user said something worth keeping, number {number}.", "topic": f"t-{number % 5}"}
