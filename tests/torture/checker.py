"""What must not be in a history: pure functions over the calls, the tables after the run, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torture import graphs, outages
from torture.counted import find_miscounts
from torture.history import SECOND, STATE_READS, Call, Event, History, Tables, exact, state_of, token_of
from torture.limits import CLOCK, DISK_FULL, REDIS_SECONDS, is_too_long, silences
from torture.order import find_disorder
from torture.staleness import Troubles, find_stale_reads

READS = (
    *STATE_READS, "settle", "page", "hear", "stream", "foreign_get", "foreign_page", "foreign_thread", "foreign_rows",
)  # fmt: skip
READ_OR_REPEATED = (*READS, *graphs.CALLS, "repeat", "conflict", "edit", "remove", "prune", "purge", "tool")
SAVES = ("put", "save")
ENDED_BY_SILENCE = frozenset(
    {"UnavailableError", "CommitUnknownError", "StatementTimeoutError", "LockTimeoutError", "PoolTimeoutError"}
)
"""What a call may raise if the database does not answer for longer than its time limit."""


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
    """The tables by token, and what may rightly be gone.

    Attributes:
        seqs, versions: where each token is stored.
        states: data by thread and version.
        excused: tokens of messages and states that may have been deleted.
        perhaps_deleted: threads.
    """

    seqs: dict[str, list[int]]
    versions: dict[str, list[int]]
    states: dict[tuple[str, int], Any]
    threads: dict[str, str]
    excused: set[str]
    perhaps_deleted: set[str]

    @classmethod
    def of(cls, history: History, tables: Tables) -> Rows:
        seqs, versions = defaultdict(list), defaultdict(list)
        for _, seq, content in tables.messages:
            seqs[token_of(content)].append(seq)
        for _, version, data in tables.states:
            versions[data["token"]].append(version)
        states = {(thread, version): data for thread, version, data in tables.states}
        deleted = {call.thread for call in history.calls if call.kind == "delete"}
        removed = {call.arguments["message"] for call in history.calls if call.kind == "remove"}
        pruned = _pruned(history, tables)
        excused = removed | pruned | outages.accepted_before(history, pruned) | outages.may_be_gone(history)
        return cls(dict(seqs), dict(versions), states, tables.threads, excused, deleted - tables.threads.keys())

    def holds(self, token: str) -> bool:
        return token in self.seqs or token in self.versions


def _pruned(history: History, tables: Tables) -> set[str]:
    """The tokens of states that a prune or a purge may have deleted: never one of a thread's newest."""
    known: dict[str, dict[int, str]] = defaultdict(dict)
    for call in history.calls:
        for token, version in call.versions.items():
            known[call.thread][version] = token
    for thread, version, data in tables.states:
        known[thread][version] = data["token"]
    kept: dict[str, int] = {}
    for call in history.calls:
        if call.kind in ("prune", "purge"):
            kept[call.thread] = min(call.arguments["keep"], kept.get(call.thread, 1 << 30))
    pruned: set[str] = set()
    for thread, tokens in known.items():
        if keeps := [kept[one] for one in (thread, "") if one in kept]:
            pruned |= {tokens[version] for version in sorted(tokens)[: -min(keeps)]}
    return pruned


def check(history: History, tables: Tables) -> list[Finding]:
    """Return everything forbidden, in the order of the checks."""
    return [finding for one in CHECKS for finding in one(history, tables)]


def lost(history: History, tables: Tables) -> Iterator[Finding]:
    """Acknowledged, or seen by a reader, and not there afterwards."""
    rows = Rows.of(history, tables)
    for call in history.calls:
        told = call.acknowledged or (call.outcome == "error" and call.result["committed"] == "yes")
        if not told or call.thread in rows.perhaps_deleted:
            continue
        tokens = {*call.seqs, *call.versions, *(() if call.kind in READ_OR_REPEATED else call.tokens)}
        missing = [token for token in sorted(tokens - rows.excused) if not rows.holds(token)]
        if missing:
            yield Finding("lost", f"{call.kind} told of {missing[0]}, which is in no table", (call,))
        if call.kind == "create" and call.thread not in rows.threads:
            yield Finding("lost", f"thread {call.thread} was created and is gone", (call,))
        if call.kind == "delete" and call.thread in rows.threads:
            yield Finding("lost", f"thread {call.thread} was deleted and is there", (call,))
        if call.kind in (*SAVES, "unit", "settle"):
            for token, version in call.versions.items():
                found = rows.states.get((call.thread, version))
                if token not in rows.excused and exact(found) != exact(state_of(token)):
                    yield Finding("lost", f"version {version} of {call.thread} does not hold {token}", (call,))


def duplicated(history: History, tables: Tables) -> Iterator[Finding]:
    """One token in two rows."""
    rows = Rows.of(history, tables)
    by_token = {token: call for call in history.calls if call.kind not in READ_OR_REPEATED for token in call.tokens}
    repeats = {token: call for call in history.calls if call.kind == "repeat" for token in call.tokens}
    for places in (rows.seqs, rows.versions):
        for token, found in places.items():
            if len(found) > 1:
                calls = tuple(by[token] for by in (by_token, repeats) if token in by)
                yield Finding("duplicated", f"{token} is in {len(found)} rows: {sorted(found)}", calls)


def disordered(history: History, tables: Tables) -> Iterator[Finding]:
    """What the order of the lists, of the versions and of real time forbids."""
    for broken in (*find_disorder(history, tables), *outages.find_broken_promises(history, tables)):
        yield Finding(broken.kind, broken.text, broken.calls)


def broken_graphs(history: History, tables: Tables) -> Iterator[Finding]:
    """Checkpoints of graphs that are lost, doubled, changed or old."""
    for broken in graphs.find_broken_graphs(history, tables):
        yield Finding(broken.kind, broken.text, broken.calls)


def miscounted(history: History, _tables: Tables) -> Iterator[Finding]:
    """Metrics that do not say what happened."""
    for broken in find_miscounts(history):
        yield Finding(broken.kind, broken.text, broken.calls)


def torn(history: History, tables: Tables) -> Iterator[Finding]:
    """Something that was written together, of which only a part is there."""
    rows = Rows.of(history, tables)
    for call in history.calls:
        if call.kind in ("append_many", "unit", "say"):
            present = sum(rows.holds(token) for token in call.tokens)
            missing = [token for token in call.tokens if not rows.holds(token) and token not in rows.excused]
            # Of an unknown unit that is there, a state may have been pruned without anybody having been told of it.
            if not call.acknowledged:
                missing = [token for token in missing if not token.startswith("state")]
            if present and missing:
                yield Finding("torn", f"{present} of {len(call.tokens)} things written together are there", (call,))


def overwritten(history: History, tables: Tables) -> Iterator[Finding]:
    """A state saved over a version that was not the latest any more."""
    versions: dict[str, set[int]] = defaultdict(set)
    for thread, version, _ in tables.states:
        versions[thread].add(version)
    for call in history.calls:
        versions[call.thread].update(call.versions.values())
    for call in history.calls:
        expected = call.arguments.get("expected")
        is_written = call.kind in SAVES and call.acknowledged and call.result.get("durable", True)
        if is_written and expected is not None:
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
    put = {token: call for call in history.calls if call.kind in (*SAVES, "unit") for token in call.tokens}
    for call in history.calls:
        if call.kind in (*STATE_READS, "settle") and call.acknowledged and (token := call.result["token"]):
            source = put.get(token)
            saved = source.versions.get(token, call.result["version"]) if source is not None else None
            here = source is not None and source.thread == call.thread and saved == call.result["version"]
            if not here or not call.result["intact"]:
                yield Finding("wrong state", f"{token} came back changed, or from elsewhere", (call,))
        if call.kind == "stream" and call.acknowledged and not call.result["intact"]:
            yield Finding("wrong state", "a stream came back changed", (call,))


def wrong_tool_results(history: History, tables: Tables) -> Iterator[Finding]:
    """A second result of one tool call: the first that was recorded stays."""
    first: dict[tuple[str, str], Call] = {}
    for call in history.calls:
        if call.kind == "tool" and call.acknowledged:
            key = (call.thread, call.arguments["tool_call"])
            other = first.setdefault(key, call)
            if other.result["recorded"] != call.result["recorded"]:
                yield Finding("wrong tool result", f"{key} had two results", (other, call))
            if call.thread in tables.threads and tables.tool_results.get(key) != call.result["recorded"]:
                yield Finding("wrong tool result", f"{key} is stored with another result", (call,))


def crossed_owners(history: History, _tables: Tables) -> Iterator[Finding]:
    """Somebody else's data was shown, or changed."""
    for call in history.calls:
        if call.kind.startswith("foreign") and call.acknowledged and call.result["found"]:
            yield Finding("cross-owner", f"{call.kind} of {call.thread} was answered", (call,))


def wrong_answers(history: History, _tables: Tables) -> Iterator[Finding]:
    """An answer that is none: to a bad input, and to other content under an id that is taken."""
    for event in history.wrong_answers:
        yield Finding("wrong answer", event["text"], event=event)
    for call in history.calls:
        if call.kind == "conflict" and call.acknowledged:
            yield Finding("wrong answer", f"other content was taken for {call.arguments['message']}", (call,))


def errors_to_callers(history: History, _tables: Tables) -> Iterator[Finding]:
    """Exceptions that left the API and should not have."""
    expected = Expected(history)
    for call in history.calls:
        if call.outcome == "unknown" and call.id.partition("#")[0] not in history.killed:
            yield Finding("error", "NoAnswer", (call,))
        if call.outcome == "error" and not expected.is_so(call):
            yield Finding("error", call.result["error"], (call,))
    for event in history.errors:
        in_silence = expected.silences.overlap(event.get("start", event["t"]), event["t"])
        if not (in_silence and event["error"] in ENDED_BY_SILENCE):
            yield Finding("error", event["error"], event=event)


def too_long(history: History, _tables: Tables) -> Iterator[Finding]:
    """Calls that took longer than the documented bound."""
    for call, seconds, bound in is_too_long(history):
        kind = "delayed by Redis" if bound == REDIS_SECONDS else "too long"
        yield Finding(kind, f"{call.kind} took {seconds:.1f} s; the bound is {bound:.1f} s", (call,))


def stale_beyond_bound(history: History, _tables: Tables) -> Iterator[Finding]:
    """Reads older than what had been acknowledged, by more than the bound."""
    for read in find_stale_reads(history).beyond_bound:
        text = f"a read was {read.age_seconds:.3f} s behind; the bound is {read.bound_seconds} s"
        yield Finding("stale beyond bound", text, (read.newer, read.read))


CHECKS: tuple[Check, ...] = (
    lost, duplicated, disordered, broken_graphs, torn, overwritten, denied_but_stored, wrong_states, wrong_tool_results,
    crossed_owners, wrong_answers, errors_to_callers, too_long, stale_beyond_bound, miscounted,
)  # fmt: skip


class Expected:
    """Which errors follow from what callers did, or from a fault that nothing can be done about."""

    def __init__(self, history: History) -> None:
        self._deletions = {call.thread: call.invoked for call in history.calls if call.kind == "delete"}
        self._removals = {call.arguments["message"] for call in history.calls if call.kind == "remove"}
        self.silences = silences(history)
        self._full = Troubles(fault for fault in history.faults if fault.kind == DISK_FULL)
        self._database = Troubles(fault for fault in history.faults if fault.kind.startswith("postgresql"))
        # A server whose clock jumps ends a statement that began before, as if it had taken that long.
        self._clock = Troubles(fault for fault in history.faults if fault.kind == CLOCK)

    def is_so(self, call: Call) -> bool:
        error, during = call.result["error"], (call.invoked - SECOND, call.returned)
        if error in ENDED_BY_SILENCE:
            is_begun = call.kind == "unit" and call.arguments["form"] != "run"
            # Degraded mode is impatient here: it takes an outage of a moment for one, and may not know the thread.
            is_begun = is_begun or call.kind in outages.CALLS
            excused = self.silences.overlap(*during) or self._clock.overlap(*during)
            # Of a transaction with the host's statements alone, the package finds no row that tells of its COMMIT.
            is_begun = is_begun or call.kind == "foreign_rows"
            return excused or (is_begun and self._database.overlap(*during))
        expected = {
            "StateConflictError": call.arguments.get("expected") is not None,
            "ThreadNotFoundError": call.kind.startswith("foreign") or self._is_deleted(call),
            "MessageNotFoundError": call.kind == "edit" and self._is_removed(call),
            "StateNotFoundError": call.kind == "stream",
            "IdempotencyConflictError": call.kind == "conflict",
            "RolledBackError": call.arguments.get("form") == "rollback",
            "DatabaseError": self._full.overlap(*during),
        }
        return expected.get(error, False)

    def _is_removed(self, call: Call) -> bool:
        return call.arguments["message"] in self._removals or self._is_deleted(call)

    def _is_deleted(self, call: Call) -> bool:
        return self._deletions.get(call.thread, call.returned) < call.returned
