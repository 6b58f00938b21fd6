"""Graphs whose checkpoints are saved by ``PersistenceSaver``, and what must hold for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint

from agent_persistence.integrations.langgraph import PersistenceSaver
from torture.calls import Caller
from torture.history import Call, History, Tables, exact, state_of
from torture.order import Broken
from torture.workload import Store

GRAPHS = 4
PREFIX = "graph-"
LONGEST_LOG = 40
CALLS = ("resume", "step", "writes")


class Graphs:
    """Graphs of one process, each of which runs in one task at a time."""

    def __init__(self, store: Store, caller: Caller, random: Random) -> None:
        process = caller.recorder.process
        self._saver = PersistenceSaver(store, user_id=f"owner-of-{process}")
        self._caller = caller
        self._random = random
        self._idle = [f"{PREFIX}{process}-{number}" for number in range(GRAPHS)]

    async def step(self) -> None:
        """Take up a graph at its latest checkpoint, make one step, and save what it wrote."""
        if self._idle:
            thread = self._idle.pop(self._random.randrange(len(self._idle)))
            try:
                await self._step(thread)
            finally:
                self._idle.append(thread)

    async def _step(self, thread: str) -> None:
        config: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}

        async def resume() -> list[CheckpointTuple | None]:
            return [await self._saver.aget_tuple(config)]

        answer = await self._caller.call("resume", resume, lambda found: describe(found[0]), thread=thread)
        if answer is None:
            return
        [found] = answer
        token = self._caller.name("checkpoint")
        versions = found.checkpoint["channel_versions"] if found else {}
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"log": next_log(found, token), "state": state_of(token)}
        for channel in checkpoint["channel_values"]:
            checkpoint["channel_versions"][channel] = self._saver.get_next_version(versions.get(channel), None)
        saved = await self._caller.call(
            "step",
            lambda: self._saver.aput(
                found.config if found else config, checkpoint, {"source": "loop"}, checkpoint["channel_versions"]
            ),
            lambda _: {},
            thread=thread, tokens=[token],
        )  # fmt: skip
        if saved is not None and self._random.random() < 0.5:
            written = self._caller.name("write")
            await self._caller.call(
                "writes",
                lambda: self._saver.aput_writes(saved, [("log", written)], written),
                lambda _: {},
                thread=thread, tokens=[written], checkpoint=token,
            )  # fmt: skip


def next_log(found: CheckpointTuple | None, token: str) -> list[str]:
    """The log of a checkpoint: that of its parent, and its own token."""
    before = found.checkpoint["channel_values"]["log"] if found else []
    return [*before, token][-LONGEST_LOG:]


def describe(found: CheckpointTuple | None) -> dict[str, Any]:
    """What a checkpoint holds, and whether it is what was saved under its token."""
    if found is None:
        return {"log": [], "writes": [], "intact": True}
    values = found.checkpoint["channel_values"]
    log = values["log"]
    intact = set(values) == {"log", "state"} and exact(values["state"]) == exact(state_of(log[-1]))
    return {"log": log, "writes": [value for _, _, value in found.pending_writes or ()], "intact": intact}


async def read_checkpoints(store: Store, threads: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """All checkpoints of the graphs among these threads, the oldest first."""
    owned = {thread: owner for thread, owner in threads.items() if thread.startswith(PREFIX)}
    return {thread: [one async for one in _oldest_first(store, thread, owner)] for thread, owner in owned.items()}


async def _oldest_first(store: Store, thread: str, owner: str) -> AsyncIterator[dict[str, Any]]:
    config: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    found = [one async for one in PersistenceSaver(store, user_id=owner).alist(config)]
    tokens = {_id(one.config): one.checkpoint["channel_values"]["log"][-1] for one in found}
    for one in reversed(found):
        yield {**describe(one), "parent": tokens.get(_id(one.parent_config)) if one.parent_config else None}


def _id(config: RunnableConfig) -> str:
    return str(config["configurable"]["checkpoint_id"])


def find_broken_graphs(history: History, tables: Tables) -> Iterator[Broken]:
    """Checkpoints that are lost, doubled, changed or old, by thread."""
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.kind in CALLS:
            calls[call.thread].append(call)
    # A purge deletes old checkpoints of every thread, as it does with states.
    keep = min((call.arguments["keep"] for call in history.calls if call.kind == "purge"), default=0)
    for thread in {*calls, *tables.checkpoints}:
        stored = tables.checkpoints.get(thread, [])
        by_token = {tokens_of(one)[-1]: one for one in stored}
        saved = {token: call for call in calls[thread] for token in call.tokens}
        yield from _wrong_rows(thread, stored, by_token, saved, is_purged=bool(keep))
        places = {token: place for place, token in enumerate(by_token)}
        yield from _wrong_calls(calls[thread], places, by_token, _purged(calls[thread], by_token, keep))


def _purged(calls: list[Call], by_token: dict[str, dict[str, Any]], keep: int) -> set[str]:
    """The tokens of checkpoints that a purge may have deleted: those before the newest ones that it keeps."""
    steps = [call.tokens[0] for call in calls if call.kind == "step"]
    there = [place for place, token in enumerate(steps) if token in by_token]
    return {*steps[: there[-keep]]} if keep and len(there) >= keep else set()


def tokens_of(checkpoint: dict[str, Any]) -> list[str]:
    return list(checkpoint["log"])


def _wrong_rows(
    thread: str,
    stored: list[dict[str, Any]],
    by_token: dict[str, dict[str, Any]],
    saved: dict[str, Call],
    *,
    is_purged: bool,
) -> Iterator[Broken]:
    def calls(token: str) -> tuple[Call, ...]:
        return (saved[token],) if token in saved else ()

    told = [tokens_of(one)[-1] for one in stored] + [written for one in stored for written in one["writes"]]
    for token, times in Counter(told).items():
        if times > 1:
            yield Broken("duplicated", f"{token} is in {times} checkpoints of {thread}", calls(token))
    for token, one in by_token.items():
        before = tokens_of(by_token[one["parent"]]) if one["parent"] else []
        if one is stored[0] and one["parent"] is None and is_purged:
            before = tokens_of(one)[:-1]  # its parent was purged
        if not one["intact"] or tokens_of(one) != [*before, token][-LONGEST_LOG:]:
            text = f"{token} of {thread} does not follow from its parent {one['parent']}"
            yield Broken("wrong checkpoint", text, calls(token))


def _wrong_calls(
    calls: list[Call], places: dict[str, int], by_token: dict[str, dict[str, Any]], purged: set[str]
) -> Iterator[Broken]:
    """What callers were told, against what is stored. The calls of one thread follow one another."""
    known: tuple[int, Call] | None = None
    for call in calls:
        if call.kind == "resume":
            if not call.acknowledged:
                continue
            token = call.result["log"][-1] if call.result["log"] else None
            if token in purged:
                continue
            stored = tokens_of(by_token[token]) if token in by_token else []
            if token is not None and token not in by_token:
                yield Broken("lost", f"{token} was read and is not there", (call,))
            elif not call.result["intact"] or call.result["log"] != stored:
                yield Broken("wrong checkpoint", f"{token} was read with other values", (call,))
            if known is not None and places.get(token or "", -1) < known[0]:
                yield Broken("stale checkpoint", f"{token} was read after a later one was saved", (known[1], call))
            continue
        [token] = call.tokens
        if call.arguments.get("checkpoint", token) in purged:
            continue
        holder = by_token.get(call.arguments.get("checkpoint", token), {})
        is_there = bool(holder) and (call.kind == "step" or token in holder["writes"])
        if call.acknowledged and not is_there:
            yield Broken("lost", f"{call.kind} {token} was acknowledged and is not there", (call,))
        if call.outcome == "error" and call.result["committed"] == "no" and is_there:
            yield Broken("denied but stored", f"{token} raised {call.result['error']}, and is there", (call,))
        if call.kind == "step" and call.acknowledged and is_there:
            known = max(known or (places[token], call), (places[token], call), key=lambda one: one[0])
