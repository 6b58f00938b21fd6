"""States that are saved in degraded mode, and what must hold for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from agent_persistence import Checkpoint, PersistenceSettings, UnsavedStatesError
from agent_persistence.degraded import DegradedMode
from torture.calls import Caller
from torture.history import Call, History, Tables, state_of
from torture.order import Broken
from torture.workload import BESIDE, Store, describe_checkpoint

CALLS = ("save", "recall", "settle")
PATIENCE_SECONDS = 0.3
"""After which a call takes the database for away, so that a restart is an outage."""
CHECK_SECONDS = 0.2


class Outages:
    """Saves and loads states in degraded mode, and asks after each outage what became of those that waited.

    Attributes:
        store: a store of its own.
    """

    def __init__(self, degraded: DegradedMode, caller: Caller, random: Random) -> None:
        self._degraded = degraded
        self.store = degraded.persistence
        self._caller = caller
        self._random = random
        self._known: dict[str, int] = {}
        self._waiting: list[tuple[str, str, int]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, caller: Caller, random: Random) -> AsyncIterator[Outages]:
        """Open a store of its own, with less patience. At the end all states are written, or told of."""
        settings = PersistenceSettings(retry_deadline=PATIENCE_SECONDS, pool_size=3)
        async with Store(settings) as store:
            outages = cls(DegradedMode(store, check_seconds=CHECK_SECONDS), caller, random)
            try:
                yield outages
            finally:
                await outages._close()

    async def step(self) -> None:
        self._tell_of_unsaved(self._degraded.unsaved)
        self._degraded.forget_unsaved()
        while self._waiting and not self._degraded.is_on:  # before a purge deletes them
            if not await self._settle(*self._waiting.pop(0)):
                break
        thread, owner = self._random.choice(list(BESIDE.items()))
        checkpointer = self._degraded.checkpointer(owner)
        if self._random.random() < 0.3:
            found = await self._caller.call("recall", lambda: checkpointer.load_state(thread), _describe, thread=thread)
            if found is not None:
                self._known[thread] = found.version
            return
        token = self._caller.name("state")
        expected = self._known.get(thread) if self._random.random() < 0.6 else None
        saved = await self._caller.call(
            "save",
            lambda: checkpointer.save_state(thread, state_of(token), expected_version=expected),
            _describe,
            thread=thread, tokens=[token], expected=expected,
        )  # fmt: skip
        if saved is not None:
            self._known[thread] = saved.version
            if not saved.durable:
                self._waiting.append((thread, token, saved.version))

    async def _settle(self, thread: str, token: str, provisional: int) -> bool:
        """Learn by its provisional version which one the database has given a state; return whether it answered."""
        checkpointer = self._degraded.checkpointer(BESIDE[thread])

        async def load() -> list[Checkpoint | None]:
            return [await checkpointer.load_state(thread, version=provisional)]

        answer = await self._caller.call("settle", load, lambda found: _describe(found[0]), thread=thread)
        is_known = answer is not None and (answer[0] is None or answer[0].durable)
        if not is_known:
            self._waiting.append((thread, token, provisional))
        return is_known

    async def _close(self) -> None:
        try:
            await self._degraded.aclose()
        except UnsavedStatesError as error:
            self._tell_of_unsaved(error.states)
        for waiting in [*self._waiting]:
            await self._settle(*waiting)

    def _tell_of_unsaved(self, states: Any) -> None:
        for state in states:
            reason = type(state.reason).__name__
            self._caller.recorder.write("unsaved", token=state.checkpoint.state["token"], reason=reason)


def _describe(found: Checkpoint | None) -> dict[str, Any]:
    return {**describe_checkpoint(found), "durable": found is None or found.durable}


def accepted(history: History) -> list[Call]:
    """The saves that were kept in memory while the database was away."""
    return [call for call in history.calls if call.kind == "save" and call.acknowledged and not call.result["durable"]]


def may_be_gone(history: History) -> set[str]:
    """Tokens of accepted states that need not be there: they were given back, or their process was killed."""
    died = [call for call in accepted(history) if call.id.partition("#")[0] in history.killed]
    return history.unsaved | {token for call in died for token in call.tokens}


def accepted_before(history: History, pruned: set[str]) -> set[str]:
    """Tokens that have lower versions than one that may have been pruned: they were accepted before it."""
    found: set[str] = set()
    gone: set[tuple[str, str]] = set()
    for call in sorted(accepted(history), key=lambda call: -int(call.result["version"])):
        place = call.id.partition("#")[0], call.thread
        if pruned.intersection(call.tokens):
            gone.add(place)
        elif place in gone:
            found.update(call.tokens)
    return found


def find_broken_promises(history: History, tables: Tables) -> Iterator[Broken]:
    """Accepted states that were written over newer ones, or in another order."""
    saved: dict[str, int] = {data["token"]: version for _, version, data in tables.states}
    for call in history.calls:
        if call.kind in CALLS or call.kind == "put":
            saved |= call.versions
    versions: dict[str, set[int]] = defaultdict(set)
    for thread, version, _ in tables.states:
        versions[thread].add(version)
    for call in history.calls:
        versions[call.thread].update(call.versions.values())
    token_of = {(call.id.partition("#")[0], call.result["version"]): call.tokens[0] for call in accepted(history)}
    last: dict[tuple[str, str], tuple[int, int, Call]] = {}
    for call in sorted(accepted(history), key=lambda call: int(call.result["version"])):
        process, [token] = call.id.partition("#")[0], call.tokens
        version, provisional, expected = saved.get(token), call.result["version"], call.arguments["expected"]
        if version is None:
            continue
        expected = saved.get(token_of.get((process, expected), ""), expected)
        between = [one for one in versions[call.thread] if expected is not None and expected < one < version]
        if between:
            yield Broken("overwritten", f"{token} was written over {between[0]}, and expected {expected}", (call,))
        before = last.get((process, call.thread))
        if before is not None and version < before[1]:
            yield Broken("reordered", f"{token} was accepted later and has the lower version", (before[2], call))
        last[process, call.thread] = provisional, version, call
