"""What must not be in a history: pure functions over the calls, the tables after the run, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torture.history import Call, Event, History, Tables, state_of
from torture.staleness import find_stale_reads

READ_OR_REPEATED = ("get", "page", "repeat")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something forbidden, and the calls that show it."""

    kind: str
    text: str
    calls: tuple[Call, ...] = ()
    event: Event | None = None


Check = Callable[[History, Tables], Iterator[Finding]]


@dataclass(slots=True)
class Rows:
    """The tables by token, and which threads may rightly be gone."""

    seqs: dict[str, list[int]]
    versions: dict[str, list[int]]
    states: dict[tuple[str, int], Any]
    threads: dict[str, str]
    perhaps_deleted: set[str]

    @classmethod
    def of(cls, history: History, tables: Tables) -> Rows:
        seqs, versions = defaultdict(list), defaultdict(list)
        for _, seq, token in tables.messages:
            seqs[token].append(seq)
        for _, version, data in tables.states:
            versions[data["token"]].append(version)
        states = {(thread, version): data for thread, version, data in tables.states}
        deleted = {call.thread for call in history.calls if call.kind == "delete"}
        return cls(dict(seqs), dict(versions), states, tables.threads, deleted - tables.threads.keys())

    def holds(self, token: str) -> bool:
        return token in self.seqs or token in self.versions


def check(history: History, tables: Tables) -> list[Finding]:
    """Return everything forbidden, in the order of the checks."""
    return [finding for one in CHECKS for finding in one(history, tables)]


def lost(history: History, tables: Tables) -> Iterator[Finding]:
    """Acknowledged, or seen by a reader, and not there afterwards."""
    rows = Rows.of(history, tables)
    for call in history.calls:
        if not call.acknowledged or call.thread in rows.perhaps_deleted:
            continue
        missing = [token for token in _told(call) if not rows.holds(token)]
        if missing:
            yield Finding("lost", f"{call.kind} told of {missing[0]}, which is in no table", (call,))
        if call.kind == "create" and call.thread not in rows.threads:
            yield Finding("lost", f"thread {call.thread} was created and is gone", (call,))
        if call.kind == "delete" and call.thread in rows.threads:
            yield Finding("lost", f"thread {call.thread} was deleted and is there", (call,))
        if call.kind == "put":
            yield from _put_is_not_stored(call, rows)


def duplicated(history: History, tables: Tables) -> Iterator[Finding]:
    """One token in two rows."""
    rows = Rows.of(history, tables)
    by_token = {token: call for call in history.calls if call.kind not in READ_OR_REPEATED for token in call.tokens}
    for places in (rows.seqs, rows.versions):
        for token, found in places.items():
            if len(found) > 1:
                calls = (by_token[token],) if token in by_token else ()
                yield Finding("duplicated", f"{token} is in {len(found)} rows: {sorted(found)}", calls)


def reordered(history: History, tables: Tables) -> Iterator[Finding]:
    """A message that stands before one that had been acknowledged when it was sent; a batch out of its order."""
    seqs = Rows.of(history, tables).seqs
    for calls in _appends_by_thread(history.calls).values():
        for call, last in _with_last_acknowledged(calls, seqs):
            places = _places(call, seqs)
            if places != sorted(places):
                yield Finding("reordered", f"the batch stands in the order {places}", (call,))
            before = _places(last, seqs) if last else []
            if last and before and places and min(places) < max(before):
                yield Finding("reordered", f"seq {min(places)} was drawn after {max(before)}", (last, call))


def torn(history: History, tables: Tables) -> Iterator[Finding]:
    """A batch of which only a part is there."""
    rows = Rows.of(history, tables)
    for call in history.calls:
        present = sum(token in rows.seqs for token in call.tokens)
        if call.kind == "append_many" and 0 < present < len(call.tokens):
            yield Finding("torn", f"{present} of {len(call.tokens)} messages of a batch are there", (call,))


def overwritten(history: History, tables: Tables) -> Iterator[Finding]:
    """A state saved over a version that was not the latest any more."""
    versions: dict[str, list[int]] = defaultdict(list)
    for thread, version, _ in tables.states:
        versions[thread].append(version)
    for call in history.calls:
        expected = call.arguments.get("expected")
        if call.kind == "put" and call.acknowledged and expected is not None:
            between = [one for one in versions[call.thread] if expected < one < call.result["version"]]
            if between:
                yield Finding("overwritten", f"saved over {expected}, though {between[0]} was there", (call,))


def denied_but_stored(history: History, tables: Tables) -> Iterator[Finding]:
    """The caller was told for certain that nothing was saved, and it was."""
    rows = Rows.of(history, tables)
    for call in history.calls:
        denied = call.outcome == "error" and call.result["committed"] == "no"
        if denied and call.kind not in READ_OR_REPEATED and any(rows.holds(token) for token in call.tokens):
            yield Finding("denied but stored", f"{call.kind} raised {call.result['error']}, and is there", (call,))


def wrong_states(history: History, _tables: Tables) -> Iterator[Finding]:
    """A state that nobody put into this thread, or not in this form."""
    put = {token: call for call in history.calls if call.kind == "put" for token in call.tokens}
    for call in history.calls:
        if call.kind == "get" and call.acknowledged and (token := call.result["token"]):
            source = put.get(token)
            if source is None or source.thread != call.thread or not call.result["intact"]:
                yield Finding("wrong state", f"{token} came back changed, or from elsewhere", (call,))


def crossed_owners(history: History, _tables: Tables) -> Iterator[Finding]:
    """Somebody else's data was shown, or changed."""
    for call in history.calls:
        if call.kind.startswith("foreign") and call.acknowledged and call.result["found"]:
            yield Finding("cross-owner", f"{call.kind} of {call.thread} was answered", (call,))


def wrong_answers(history: History, _tables: Tables) -> Iterator[Finding]:
    """A repeated append at another place, a missing message, an answer to a bad input that is none."""
    for event in history.wrong_answers:
        yield Finding("wrong answer", event["text"], event=event)


def errors_to_callers(history: History, _tables: Tables) -> Iterator[Finding]:
    """Exceptions that left the API and should not have."""
    deletions = {call.thread: call.invoked for call in history.calls if call.kind == "delete"}
    for call in history.calls:
        if call.outcome == "unknown" and call.id.partition("#")[0] not in history.killed:
            yield Finding("error", "NoAnswer", (call,))
        if call.outcome == "error" and not _is_expected(call, deletions):
            yield Finding("error", call.result["error"], (call,))
    for event in history.errors:
        yield Finding("error", event["error"], event=event)


def stale_beyond_bound(history: History, _tables: Tables) -> Iterator[Finding]:
    """Reads older than what had been acknowledged, by more than the bound."""
    for read in find_stale_reads(history).beyond_bound:
        text = f"a read was {read.age_seconds:.3f} s behind; the bound is {read.bound_seconds} s"
        yield Finding("stale beyond bound", text, (read.newer, read.read))


CHECKS: tuple[Check, ...] = (
    lost, duplicated, reordered, torn, overwritten, denied_but_stored,
    wrong_states, crossed_owners, wrong_answers, errors_to_callers, stale_beyond_bound,
)  # fmt: skip


def _told(call: Call) -> list[str]:
    """The tokens that the caller was told are in the database."""
    if call.kind == "get":
        return [call.result["token"]] if call.result["token"] else []
    return list(call.result["shown"]) if call.kind == "page" else call.tokens


def _put_is_not_stored(call: Call, rows: Rows) -> Iterator[Finding]:
    version, token = call.result["version"], call.tokens[0]
    if rows.states.get((call.thread, version)) != state_of(token):
        yield Finding("lost", f"version {version} of {call.thread} does not hold {token}", (call,))


def _appends_by_thread(calls: Iterable[Call]) -> dict[str, list[Call]]:
    threads: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.kind in ("append", "append_many"):
            threads[call.thread].append(call)
    return threads


def _with_last_acknowledged(calls: Iterable[Call], seqs: dict[str, list[int]]) -> Iterator[tuple[Call, Call | None]]:
    """Each call in the order of their beginnings, with the last in the thread that was acknowledged before it began."""
    acknowledged = sorted((call for call in calls if _places(call, seqs) and call.acknowledged), key=_end, reverse=True)
    last: Call | None = None
    for call in calls:
        while acknowledged and acknowledged[-1].returned < call.invoked:
            candidates = [one for one in (last, acknowledged.pop()) if one is not None]
            last = max(candidates, key=lambda one: max(_places(one, seqs)))
        yield call, last


def _places(call: Call, seqs: dict[str, list[int]]) -> list[int]:
    return [seqs[token][0] for token in call.tokens if token in seqs]


def _end(call: Call) -> int:
    return call.returned


def _is_expected(call: Call, deletions: dict[str, int]) -> bool:
    error = call.result["error"]
    if error == "StateConflictError":
        return call.arguments.get("expected") is not None
    if error == "ThreadNotFoundError":
        return call.kind.startswith("foreign") or deletions.get(call.thread, call.returned) < call.returned
    return False
