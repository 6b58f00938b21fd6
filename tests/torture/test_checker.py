"""The checker finds what it is there to find in small histories, and nothing in those that are as they should be."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from torture.checker import check, miscounted
from torture.history import NEVER, SECOND, Call, History, Span, Tables, state_of
from torture.staleness import find_stale_reads

numbers = itertools.count()


def call(kind: str, start: float, end: float | None, **fields: Any) -> Call:
    """A call that lasted from one second to another, or never ended; what is no argument is its result."""
    arguments = {
        "thread": "t",
        **{name: fields.pop(name) for name in ("thread", "tokens", "expected") if name in fields},
    }
    outcome = fields.pop("outcome", "ok" if end is not None else "unknown")
    returned = NEVER if end is None else round(end * SECOND)
    return Call(f"client#{next(numbers)}", kind, round(start * SECOND), arguments, returned, outcome, fields)


def append(start: float, end: float | None, *tokens: str, **fields: Any) -> Call:
    return call("append" if len(tokens) == 1 else "append_many", start, end, tokens=list(tokens), **fields)


def put(start: float, end: float | None, version: int, **fields: Any) -> Call:
    token = fields.pop("token", f"state{version}")
    return call("put", start, end, tokens=[token], version=version, token=token, intact=True, **fields)


def get(start: float, end: float, version: int, **fields: Any) -> Call:
    token = f"state{version}" if version else None
    return call("get", start, end, **{"version": version, "token": token, "intact": True, **fields})


def tables(*tokens: str, versions: tuple[int, ...] = (), threads: tuple[str, ...] = ("t",)) -> Tables:
    """Messages in this order, and states."""
    return Tables(
        dict.fromkeys(threads, "owner"),
        [("t", seq, token) for seq, token in enumerate(tokens, 1)],
        [("t", version, state_of(f"state{version}")) for version in versions],
    )


def span(start: float, end: float, kind: str) -> Span:
    return Span(round(start * SECOND), round(end * SECOND), kind)


def kinds(calls: list[Call], found: Tables, **fields: Any) -> list[str]:
    """The kinds of what the checker finds."""
    history = History(calls=sorted(calls, key=lambda one: one.invoked), killed={"client"}, **fields)
    return [finding.kind for finding in check(history, found)]


def test_a_history_as_it_should_be_gives_no_finding() -> None:
    calls = [
        call("create", 0, 1),
        append(1, 2, "a"),
        append(1, 2, "b"),
        append(3, 4, "c", "d"),
        append(3, None, "unknown and there"),
        append(3, None, "unknown and not there"),
        append(3, 4, "cancelled", outcome="cancelled"),
        put(4, 5, 1, expected=0),
        get(6, 7, 1),
        put(6, 8, 2),
        get(7, 8, 2),
        get(7, 8.5, 1),
        call("put", 9, 10, tokens=["x"], expected=1, outcome="error", error="StateConflictError", committed="no"),
        call("page", 9, 10, shown=[[3, "c"], [4, "d"]]),
        call("foreign_get", 9, 10, found=False),
    ]

    assert kinds(calls, tables("b", "a", "c", "d", "unknown and there", "cancelled", versions=(1, 2))) == []


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (append(0, 1, "a"), tables()),
        (call("create", 0, 1), tables(threads=())),
        (call("delete", 0, 1), tables()),
        (put(0, 1, 7), tables()),
        (get(0, 1, 7), tables()),
        (call("page", 0, 1, shown=[[1, "a"]]), tables()),
    ],
    ids=["an append", "a thread", "a deletion", "a state", "a state that was read", "a message that was read"],
)
def test_what_was_told_of_and_is_not_there_is_lost(one: Call, found: Tables) -> None:
    assert "lost" in kinds([one], found)


def test_a_state_under_another_version_is_lost() -> None:
    found = tables(versions=(8,))

    assert kinds([put(0, 1, 8), put(1, 2, 9, token="state8")], found) == ["lost"]


def test_what_was_in_a_thread_that_is_deleted_is_not_lost() -> None:
    calls = [append(0, 1, "a"), put(0, 1, 1), call("delete", 2, None)]

    assert kinds(calls, tables(threads=())) == []
    assert "lost" in kinds(calls, tables())


def test_a_token_in_two_rows_is_duplicated() -> None:
    assert kinds([append(0, 1, "a")], tables("a", "a")) == ["duplicated"]
    assert kinds([append(0, None, "a")], tables("a", "a")) == ["duplicated"]


def test_a_message_before_one_that_was_acknowledged_earlier_is_reordered() -> None:
    one_after_the_other = [append(0, 1, "a"), append(2, 3, "b")]
    at_once = [append(0, 2, "a"), append(1, 3, "b")]

    assert kinds(one_after_the_other, tables("b", "a")) == ["reordered"]
    assert kinds(at_once, tables("b", "a")) == []


def test_a_batch_out_of_order_is_reordered_and_half_a_batch_is_torn() -> None:
    assert kinds([append(0, 1, "a", "b")], tables("b", "a")) == ["reordered"]
    assert kinds([append(0, None, "a", "b")], tables("a")) == ["torn"]


def test_a_state_saved_over_another_than_expected_is_an_overwrite() -> None:
    calls = [put(0, 1, 1), put(1, 4, 2), put(1, 4, 3, expected=1)]

    assert kinds(calls, tables(versions=(1, 2, 3))) == ["overwritten"]


def test_an_error_that_says_not_committed_must_mean_it() -> None:
    denied = append(0, 1, "a", outcome="error", error="UnavailableError", committed="no")
    unknown = append(0, 1, "a", outcome="error", error="CommitUnknownError", committed="unknown")

    assert kinds([denied], tables("a")) == ["denied but stored", "error"]
    assert kinds([unknown], tables("a")) == ["error"]


def test_only_errors_that_follow_from_what_callers_did_are_expected() -> None:
    missing = {"outcome": "error", "error": "ThreadNotFoundError", "committed": "no"}
    conflict = {"outcome": "error", "error": "StateConflictError", "committed": "no"}

    assert kinds([append(0, 3, "a", **missing)], tables()) == ["error"]
    assert kinds([append(0, 3, "a", **missing), call("delete", 1, 2)], tables(threads=())) == []
    assert kinds([call("put", 0, 1, tokens=["x"], expected=None, **conflict)], tables()) == ["error"]


def test_a_call_without_an_end_is_an_error_unless_its_process_was_killed() -> None:
    history = History(calls=[append(0, None, "a")])

    assert [finding.text for finding in check(history, tables())] == ["NoAnswer"]


def test_a_state_that_was_changed_or_is_of_another_thread_is_wrong() -> None:
    elsewhere = tables(versions=(1,))

    assert kinds([put(0, 1, 1), get(2, 3, 1, intact=False)], elsewhere) == ["wrong state"]
    assert "wrong state" in kinds([put(0, 1, 1), get(2, 3, 1, thread="other")], elsewhere)


def test_an_answer_to_a_stranger_crosses_owners() -> None:
    assert kinds([call("foreign_page", 0, 1, found=True)], tables()) == ["cross-owner"]


@pytest.mark.parametrize("newer", [put(2, 3, 2), get(2, 3, 2), call("delete", 2, 3)], ids=["put", "get", "delete"])
def test_a_read_older_than_what_was_told_before_it_began_is_stale(newer: Call) -> None:
    calls = [put(0, 1, 1), put(1, None, 2) if newer.kind == "get" else newer, newer, get(3.5, 4, 1)]

    [stale] = find_stale_reads(History(calls=calls)).beyond_bound

    assert (stale.newer, stale.age_seconds, stale.bound_seconds) == (newer, 0.5, 0)


def test_the_bound_counts_from_when_redis_can_be_reached_again() -> None:
    outage = [span(1.5, 5, "redis hung")]
    calls = [put(0, 1, 1), put(2, 3, 2), get(5.5, 5.6, 1)]

    found = find_stale_reads(History(calls=calls, faults=outage))
    later = find_stale_reads(History(calls=[*calls, get(7, 8, 1)], faults=outage))

    assert [read.since_recovery_seconds for read in found.stale] == [0.5]
    assert found.beyond_bound == []
    assert [read.since_recovery_seconds for read in later.beyond_bound] == [2]


def test_a_read_that_began_before_the_news_was_told_is_not_stale() -> None:
    assert find_stale_reads(History(calls=[put(0, 1, 1), put(2, 3, 2), get(2.9, 9, 1)])).stale == []


def test_nothing_is_the_newest_of_a_deleted_thread_and_stale_otherwise() -> None:
    deletion = call("delete", 2, None)

    assert find_stale_reads(History(calls=[put(0, 1, 1), deletion, get(3, 4, 0)])).stale == []
    assert len(find_stale_reads(History(calls=[put(0, 1, 1), get(3, 4, 0)])).beyond_bound) == 1
    assert len(find_stale_reads(History(calls=[put(0, 1, 1), deletion, get(3, 4, 0), get(5, 6, 1)])).stale) == 1


@pytest.mark.parametrize(
    ("trouble", "bound"),
    [
        ({"faults": [span(2, 2.5, "redis hung")]}, 1.2),
        ({"faults": [span(3.4, 3.6, "redis FLUSHALL")]}, 1.2),
        ({"unreachable": [span(1.9, 2.1, "")]}, 1.2),
        ({"faults": [span(2, 2.5, "postgresql stalled")]}, 0),
        ({"faults": [span(0, 1.9, "redis hung"), span(4.1, 5, "redis hung")]}, 0),
    ],
)
def test_the_bound_is_the_sweep_where_redis_was_in_trouble_since_the_write_began(
    trouble: dict[str, Any], bound: float
) -> None:
    history = History(calls=[put(0, 1, 1), put(2, 3, 2), get(3.5, 4, 1)], **trouble)

    [stale] = find_stale_reads(history).stale

    assert stale.bound_seconds == bound
    assert stale.is_beyond_bound == (bound == 0)


# --- graphs ---


def step(start: float, end: float | None, token: str, **fields: Any) -> Call:
    return call("step", start, end, tokens=[token], **fields)


def resume(start: float, end: float, *log: str, **fields: Any) -> Call:
    return call("resume", start, end, **{"log": [*log], "writes": [], "intact": True, **fields})


def checkpoint(*log: str, writes: tuple[str, ...] = (), intact: bool = True) -> dict[str, Any]:
    return {"log": [*log], "writes": [*writes], "intact": intact, "parent": log[-2] if len(log) > 1 else None}


def writes(start: float, end: float, token: str, of: str) -> Call:
    made = call("writes", start, end, tokens=[token])
    made.arguments["checkpoint"] = of
    return made


A, AB = checkpoint("a"), checkpoint("a", "b")


@pytest.mark.parametrize(
    ("calls", "stored", "expected"),
    [
        ([step(0, 1, "a"), step(2, 3, "b"), resume(4, 5, "a", "b")], [A, AB], []),
        ([step(0, 1, "a"), step(2, None, "b"), resume(4, 5, "a")], [A, AB], []),
        ([step(0, 1, "a"), writes(2, 3, "w", "a")], [checkpoint("a", writes=("w",))], []),
        ([step(0, 1, "a"), writes(2, 3, "w", "a")], [A], ["lost"]),
        ([step(0, 1, "a"), step(2, 3, "b")], [A], ["lost"]),
        ([resume(0, 1, "a")], [], ["lost"]),
        ([step(0, 1, "a"), step(2, 3, "b"), resume(4, 5, "a")], [A, AB], ["stale checkpoint"]),
        ([step(0, 1, "a"), resume(2, 3)], [A], ["stale checkpoint"]),
        ([resume(0, 1, "a", intact=False)], [A], ["wrong checkpoint"]),
        ([resume(0, 1, "b", "a")], [A], ["wrong checkpoint"]),
        ([], [A, checkpoint("a", "b", "b") | {"parent": "a"}], ["wrong checkpoint"]),
        ([], [checkpoint("a", intact=False)], ["wrong checkpoint"]),
        ([], [A, A], ["duplicated"]),
        ([], [checkpoint("a", writes=("w", "w"))], ["duplicated"]),
        ([step(0, 1, "a", outcome="error", error="X", committed="no")], [A], ["denied but stored"]),
    ],
)
def test_a_checkpoint_is_there_once_with_its_values_and_read_from_then_on(
    calls: list[Call], stored: list[dict[str, Any]], expected: list[str]
) -> None:
    found = check(History(calls=calls), Tables(checkpoints={"t": stored}))

    assert [finding.kind for finding in found if finding.kind != "error"] == expected


# --- degraded mode ---

FIRST = 1 << 52


def save(start: float, end: float, number: int, **fields: Any) -> Call:
    """A save that was accepted while the database was away; its provisional versions follow the numbers."""
    accepted = {"durable": False, "intact": True, "token": f"state{number}", "version": FIRST + number}
    return call("save", start, end, tokens=[f"state{number}"], **{"expected": None, **accepted, **fields})


def settle(start: float, end: float, number: int) -> Call:
    return call("settle", start, end, token=f"state{number}", version=number, durable=True, intact=True)


@pytest.mark.parametrize(
    ("calls", "versions", "trouble", "expected"),
    [
        ([save(0, 1, 1), save(2, 3, 2, expected=FIRST + 1), settle(4, 5, 2)], (1, 2), {}, []),
        ([save(0, 1, 1)], (), {}, ["lost"]),
        ([save(0, 1, 1)], (), {"unsaved": {"state1"}}, []),
        ([save(0, 1, 1)], (), {"killed": {"client"}}, []),
        ([save(0, 1, 1), settle(2, 3, 1)], (), {}, ["lost", "lost", "lost"]),
        ([put(0, 1, 1), put(0, 1, 2), save(2, 3, 3, expected=1)], (1, 2, 3), {}, ["overwritten"]),
        ([save(0, 1, 1), save(2, 3, 3, expected=FIRST + 1), put(4, 5, 2)], (1, 2, 3), {}, ["overwritten"]),
        ([save(0, 1, 2, version=FIRST), save(2, 3, 1, version=FIRST + 1)], (1, 2), {}, ["reordered"]),
        ([save(0, 1, 1, outcome="error", error="X", committed="no")], (1,), {}, ["denied but stored"]),
    ],
)
def test_a_state_that_was_accepted_in_an_outage_is_written_or_given_back_and_never_over_a_newer_one(
    calls: list[Call], versions: tuple[int, ...], trouble: dict[str, Any], expected: list[str]
) -> None:
    found = check(History(calls=calls, **trouble), tables(versions=versions))

    assert [finding.kind for finding in found if finding.kind != "error"] == expected


def test_the_time_in_which_a_process_had_no_turn_is_not_that_of_its_calls() -> None:
    slow = call("append", 0, 20, tokens=["a"], seqs={"a": 1})

    assert kinds([slow], tables("a")) == ["too long"]
    assert kinds([slow], tables("a"), stalls={"client": [span(1, 18, "")]}) == []
    assert kinds([slow], tables("a"), stalls={"another": [span(1, 18, "")]}) == ["too long"]


def test_calls_that_were_not_measured_are_miscounted() -> None:
    calls = [
        append(1, 2, "a"),
        append(1, 2, "b"),
        append(1, 2, "cancelled", outcome="cancelled"),
        call("append", 1, 2, tokens=["c"], outcome="error", error="IdempotencyConflictError", committed="no"),
    ]
    refused = {"IdempotencyConflictError": 1, "InvalidInputError": 7, "CancelledError": 1}

    def found(ok: int) -> list[str]:
        counted = {("messages.append", ""): ok, **{("messages.append", name): n for name, n in refused.items()}}
        history = History(calls=calls, killed={"client"}, measured={"client": Counter(counted)})
        return [finding.kind for finding in miscounted(history, Tables())]

    assert found(2) == []
    assert found(1) == found(3) == ["miscounted messages.append"]


def test_a_lost_commit_and_a_fault_that_nobody_counted_are_miscounted() -> None:
    before, after = ({"retries": n, "settled": n, "openings": n} for n in (0, 2))
    faults = [span(1, 2, "postgresql restart -m immediate"), span(1, 2, "redis kill -9")]

    def found(last: dict[str, int], lost: int) -> list[str]:
        counts = {"client": [(round(0.5 * SECOND), before), (round(2.5 * SECOND), last)]}
        history = History(faults=faults, counts=counts, commits_lost=lost)
        return [finding.kind for finding in miscounted(history, Tables())]

    assert found(after, 2) == []
    assert found(after, 3) == ["miscounted commits"]
    assert found(before, 0) == ["miscounted retries", "miscounted openings"]
