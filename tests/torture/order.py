"""The order of messages and of versions, which is checked exactly.

A thread is a list to which elements with unique names are appended, and a page shows a part of it with the place of
each. Places follow the order of commits: whoever sees one message sees every earlier one. So the order needs no search:
each message has one place, wherever it is told of; a page has no gap; what was told before a call began comes first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from torture.history import NEVER, Call, History, Tables, edit_of, token_of

APPENDS = ("append", "append_many", "unit", "say")
WRITES_TO_A_THREAD = (*APPENDS, "put", "repeat", "edit", "tool")


class Told(NamedTuple):
    """That some caller knew of something: when, how far the thread or its versions went, and by which call."""

    returned: int
    reached: int
    call: Call


@dataclass(slots=True)
class Knowledge:
    """What callers had been told, as a function of time: greater and greater numbers."""

    steps: list[Told] = field(default_factory=list)

    @classmethod
    def of(cls, told: list[Told]) -> Knowledge:
        steps: list[Told] = []
        for one in sorted(told, key=lambda one: one.returned):
            if not steps or one.reached > steps[-1].reached:
                steps.append(one)
        return cls(steps)

    def before(self, moment: int) -> Told | None:
        """The greatest that was told before a moment."""
        step = bisect_left(self.steps, moment, key=lambda step: step.returned)
        return self.steps[step - 1] if step else None


@dataclass(slots=True)
class Message:
    """What is known of one message.

    Attributes:
        places: thread and seq, with the call that told of it; ``None`` for the table.
        appended: by which call.
        edits, removals: the calls that changed or deleted it, or may have.
    """

    places: dict[tuple[str, int], Call | None] = field(default_factory=dict)
    appended: Call | None = None
    edits: list[Call] = field(default_factory=list)
    removals: list[Call] = field(default_factory=list)


class Messages:
    """All messages of a run, and the threads that they are in."""

    def __init__(self, history: History, tables: Tables) -> None:
        self.all: dict[str, Message] = defaultdict(Message)
        for call in history.calls:
            self._add(call)
        for thread, seq, content in tables.messages:
            self.all[token_of(content)].places.setdefault((thread, seq), None)
        self.threads: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for token, message in self.all.items():
            for thread, seq in message.places:
                self.threads[thread].append((seq, token))
        for places in self.threads.values():
            places.sort()
        told: dict[str, list[Told]] = defaultdict(list)
        for call in history.calls:
            seqs = dict(call.seqs)
            if call.acknowledged and call.kind in APPENDS:
                seqs |= {token: place for token in call.tokens if (place := self.place(token)) is not None}
            stays = [seq for token, seq in seqs.items() if not self.all[token].removals]
            if stays:
                told[call.thread].append(Told(call.returned, max(stays), call))
        self.known = defaultdict(Knowledge, {thread: Knowledge.of(found) for thread, found in told.items()})
        self._deletions = {call.thread: call.invoked for call in reversed(history.calls) if call.kind == "delete"}

    def _add(self, call: Call) -> None:
        for token, seq in call.seqs.items():
            self.all[token].places.setdefault((call.thread, seq), call)
        if call.kind in APPENDS:
            for token in call.tokens:
                if not token.startswith("state"):
                    self.all[token].appended = call
        elif call.kind == "edit":
            self.all[call.arguments["message"]].edits.append(call)
        elif call.kind == "remove":
            self.all[call.arguments["message"]].removals.append(call)

    def may_be_deleted(self, thread: str, moment: int) -> bool:
        """Whether the deletion of a thread had begun at a moment, so that its page may be empty."""
        return self._deletions.get(thread, NEVER) < moment

    def between(self, thread: str, low: int, high: int) -> list[tuple[int, str]]:
        """The messages after one place and up to another."""
        places = self.threads[thread]
        return places[bisect_right(places, (low, "\uffff")) : bisect_right(places, (high, "\uffff"))]

    def place(self, token: str) -> int | None:
        return next((seq for _, seq in self.all[token].places), None) if token in self.all else None


class Broken(NamedTuple):
    """What is forbidden, and the calls that show it."""

    kind: str
    text: str
    calls: tuple[Call, ...] = ()


def find_disorder(history: History, tables: Tables) -> Iterator[Broken]:
    messages = Messages(history, tables)
    yield from _moved(messages)
    for call in history.calls:
        if call.kind in APPENDS:
            yield from _out_of_order(call, messages)
        if call.kind in ("page", "hear") and call.acknowledged:
            yield from _wrong_page(call, messages)
    yield from _wrong_contents(history, tables, messages)
    yield from _undead(history, tables, messages)
    yield from _versions_go_back(history)


def _moved(messages: Messages) -> Iterator[Broken]:
    """A message that is told of at two places, or in a thread that it was not sent to."""
    for token, message in messages.all.items():
        calls = tuple(call for call in message.places.values() if call is not None)
        if len(message.places) > 1 and calls:
            yield Broken("moved", f"{token} is told of at {sorted(message.places)}", calls[:2])
        for thread, seq in message.places:
            if message.appended is not None and message.appended.thread != thread:
                text = f"{token} was sent to {message.appended.thread} and is at {seq} of {thread}"
                yield Broken("moved", text, (message.appended, *calls[:1]))


def _out_of_order(call: Call, messages: Messages) -> Iterator[Broken]:
    """A message before one that somebody had been told of when it was sent; a batch out of its order."""
    places = [place for token in call.tokens if (place := messages.place(token)) is not None]
    if places != sorted(places):
        yield Broken("reordered", f"what was appended together stands in the order {places}", (call,))
    before = messages.known[call.thread].before(call.invoked)
    if before is not None and places and min(places) < before.reached:
        yield Broken("reordered", f"seq {min(places)} was drawn after {before.reached}", (before.call, call))


def _wrong_page(call: Call, messages: Messages) -> Iterator[Broken]:
    """A page that repeats or skips a message, or ends before what had been told of when it was asked for."""
    wrong, shown = f"wrong {'page' if call.kind == 'page' else 'conversation'}", _shown(call, messages)
    seqs, tokens = [seq for seq, _ in shown], {token for _, token in shown}
    after, is_full = call.arguments.get("after"), len(shown) >= call.arguments.get("limit", 0)
    if any(later <= earlier for earlier, later in pairwise(seqs)) or len(tokens) < len(shown):
        yield Broken(wrong, f"it repeats messages, or is out of order: {seqs}", (call,))
        return
    first = after if after is not None else seqs[0] - 1 if is_full and seqs else 0
    last = seqs[-1] if seqs else first
    if seqs and seqs[0] <= first:
        yield Broken(wrong, f"it shows {seqs[0]}, which is not after {first}", (call,))
    for seq, token in messages.between(call.thread, first, last):
        if token not in tokens and not _may_be_gone(messages.all[token], call.returned):
            yield Broken(wrong, f"it lacks {token} at {seq}, and shows {last}", (call,))
    before = messages.known[call.thread].before(call.invoked)
    if not seqs and messages.may_be_deleted(call.thread, call.returned):
        return
    if before is not None and before.reached > last and not (after is not None and is_full):
        text = f"it ends at {last}, and {before.reached} had been told of"
        yield Broken("stale page", text, (before.call, call))


def _shown(call: Call, messages: Messages) -> list[tuple[int, str]]:
    if call.kind == "page":
        return [(seq, token_of(content)) for seq, content in call.result["shown"]]
    # A framework has no places: those of the table, where a message that nobody stored has none.
    return [(messages.place(token) or 0, token) for token in call.result["heard"]]


def _may_be_gone(message: Message, moment: int) -> bool:
    return any(removal.invoked < moment for removal in message.removals)


def _wrong_contents(history: History, tables: Tables, messages: Messages) -> Iterator[Broken]:
    """A message whose text nobody wrote, or that had been replaced when it was read."""
    for call in history.calls:
        if call.kind == "page" and call.acknowledged:
            for _, content in call.result["shown"]:
                yield from _wrong_content(content, messages.all[token_of(content)], call.invoked, (call,))
    for _, _, content in tables.messages:
        yield from _wrong_content(content, messages.all[token_of(content)], NEVER, ())


def _wrong_content(content: str, message: Message, moment: int, seen: tuple[Call, ...]) -> Iterator[Broken]:
    edit = edit_of(content)
    written = message.appended if not edit else next((e for e in message.edits if e.arguments["edit"] == edit), None)
    if written is None:
        if edit or message.appended is not None:
            yield Broken("wrong message", f"nobody wrote {content}", seen)
        return
    for other in message.edits:
        if other.acknowledged and other.returned < moment and written.returned < other.invoked:
            yield Broken("stale message", f"{content} had been replaced", (other, *seen))


def _undead(history: History, tables: Tables, messages: Messages) -> Iterator[Broken]:
    """What was shown or written after its deletion had been acknowledged."""
    deletions = {call.thread: call for call in history.calls if call.kind == "delete" and call.acknowledged}
    for call in history.calls:
        deletion = deletions.get(call.thread)
        is_late = deletion is not None and call.acknowledged and deletion.returned < call.invoked
        if is_late and (call.kind in WRITES_TO_A_THREAD or (call.kind == "page" and call.seqs)):
            calls = (deletion, call) if deletion is not None else (call,)
            yield Broken("raised from the dead", f"{call.kind} in {call.thread}, which had been deleted", calls)
        if call.kind == "page":
            for token in call.seqs:
                for removal in messages.all[token].removals:
                    if removal.acknowledged and removal.returned < call.invoked:
                        yield Broken("undead", f"{token} is shown, and had been deleted", (removal, call))
    stored = {token_of(content) for _, _, content in tables.messages}
    for token in stored:
        for removal in messages.all[token].removals:
            if removal.acknowledged:
                yield Broken("undead", f"{token} is stored, and had been deleted", (removal,))


def _versions_go_back(history: History) -> Iterator[Broken]:
    """A state that was saved under a version that is not greater than one that had been told of."""
    told: dict[str, list[Told]] = defaultdict(list)
    for call in history.calls:
        if call.versions:
            told[call.thread].append(Told(call.returned, max(call.versions.values()), call))
    known = {thread: Knowledge.of(found) for thread, found in told.items()}
    for call in history.calls:
        if call.kind in ("put", "save", "unit") and call.versions:
            before = known[call.thread].before(call.invoked)
            if before is not None and min(call.versions.values()) <= before.reached:
                text = f"version {min(call.versions.values())} was saved after {before.reached}"
                yield Broken("version went back", text, (before.call, call))
