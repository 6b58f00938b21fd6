"""w11: runs of LangGraph's graphs, under one checkpointer or another."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from langchain_core.messages import HumanMessage

from benchmarks.contender import Contender, Operation, Samples, Thread
from benchmarks.graphs.graph import answering, calling_tools, text_at

HISTORY = 50
_RUNS = 20  # leave three checkpoints each
_GROWTH = 20

Durability = Literal["async", "exit"]


class Graphs(Contender):
    """Runs graphs on threads of so many messages, and replaces a thread when it has grown by some twentieth."""

    def compile(self, savers: list[Any]) -> None:
        """Compile the graphs for a saver, or for as many as there are tasks, each of which takes one that is idle."""
        self.saver = savers[0]
        self.idle = [(answering(saver), calling_tools(saver)) for saver in savers]
        self.is_shared = len(savers) == 1
        self.kinds: dict[str, str] = {}
        self.runs: Counter[str] = Counter()

    def needs(self, kind: str, tasks: int) -> int:
        """Return two for each task that writes; a history is only read, and takes long to make."""
        return 4 if kind == "history" else super().needs(kind, tasks)

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:  # noqa: ARG002  # the graph has its own
        """Make a thread by a run to which all messages but the last are given; or one with a long history."""
        if kind == "history":
            for _ in range(_RUNS):
                await self.run(thread, "async")
        else:
            await self._invoke(thread, range(int(kind) - 1), "exit")
        self.kinds[thread.id] = kind
        self.runs[thread.id] = 0

    async def before_slice(self, method: str, threads: list[Thread]) -> None:  # noqa: ARG002
        """Replace the threads that have grown, for reads too: who is faster has added more messages to them."""
        for place, thread in enumerate(threads):
            kind = self.kinds[thread.id]
            if kind != "history" and self.runs[thread.id] > max(2, int(kind) // _GROWTH):
                await self.saver.adelete_thread(thread.id)
                threads[place] = Thread(str(uuid.uuid4()), thread.user)
                await self.furnish(threads[place], kind, Samples({}, []))

    async def run(self, thread: Thread, durability: Durability) -> Any:
        """Say something, and have it answered."""
        self.runs[thread.id] += 1
        return await self._invoke(thread, range(1), durability)

    async def run_with_tools(self, thread: Thread) -> Any:
        """Say something, and have it answered after two tools were called."""
        self.runs[thread.id] += 1
        with self._graph() as (_, graph):
            return await graph.ainvoke({"messages": [HumanMessage(text_at(0))]}, _config(thread), durability="async")

    async def get_state(self, thread: Thread) -> Any:
        """Read the latest state."""
        with self._graph() as (graph, _):
            return await graph.aget_state(_config(thread))

    async def get_history(self, thread: Thread) -> list[Any]:
        """Read the last 50 states."""
        with self._graph() as (graph, _):
            return [one async for one in graph.aget_state_history(_config(thread), limit=HISTORY)]

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:  # noqa: ARG002
        """Compare what it returned, and the state that there is after it, with what was said."""
        before = _said((await self.get_state(thread)).values)
        found = await operation(thread)
        after = _said((await self.get_state(thread)).values)
        count = len(before)
        match key.split("-")[1:]:
            case ["get", _]:
                return _said(found.values) == after == before == _conversation(count)
            case ["history"]:
                parts = [_said(one.values) for one in found]
                counts = [len(part) for part in parts]
                is_whole = len(parts) == HISTORY and counts == sorted(counts, reverse=True) and counts[0] == count
                return is_whole and all(part == before[: len(part)] for part in parts)
            case ["tools", _]:
                wanted = [*before, text_at(0), *map(text_at, range(count + 1, count + 5))]
            case _:
                wanted = [*before, text_at(0), text_at(count + 1)]
        return after == _said(found) == wanted

    async def _invoke(self, thread: Thread, places: range, durability: Durability) -> Any:
        said = [HumanMessage(text_at(place)) for place in places]
        with self._graph() as (graph, _):
            return await graph.ainvoke({"messages": said}, _config(thread), durability=durability)

    @contextmanager
    def _graph(self) -> Iterator[tuple[Any, Any]]:
        graphs = self.idle[0] if self.is_shared else self.idle.pop()
        try:
            yield graphs
        finally:
            if not self.is_shared:
                self.idle.append(graphs)


def _said(values: Any) -> list[str]:
    return [message.content for message in values.get("messages", ())]


def _conversation(count: int) -> list[str]:
    return [text_at(place) for place in range(count)]


def _config(thread: Thread) -> Any:
    return {"configurable": {"thread_id": thread.id}}
