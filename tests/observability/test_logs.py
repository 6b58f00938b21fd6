"""Each log line carries its values; slow operations say what they waited for; nobody's words are in any of them."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
from typing import Any

import pytest
from asyncpg.exceptions import ReadOnlySQLTransactionError
from docs.documents import ROOT
from leaks import CANARY

from agent_persistence import Persistence
from agent_persistence.concurrency.retries import Retries
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.errors import UnavailableError
from agent_persistence.telemetry.identities import Identities, hashed
from agent_persistence.telemetry.log_fields import fields_of as fields_of_operation
from agent_persistence.telemetry.operation import Operation
from agent_persistence.telemetry.slow_operations import SlowOperations
from agent_persistence.telemetry.telemetry import Telemetry

Store = Persistence[str, str]
SOURCE = ROOT / "src" / "agent_persistence"
LEVELS = {"debug", "info", "warning", "error", "critical"}
USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in USUAL}


def logging_calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(SOURCE)}:{node.lineno}", node)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "logger"
    ]


def test_every_log_line_carries_its_values() -> None:
    bare = [place for place, call in logging_calls() if "extra" not in {keyword.arg for keyword in call.keywords}]

    assert bare == []


def test_the_guide_describes_every_event() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    guide = (ROOT / "docs" / "howto" / "observability.md").read_text(encoding="utf-8")
    section = guide.partition("\n## Logs\n")[2].partition("\n## ")[0]

    described = set(re.findall(r"^\| `([a-z_.]+)` \| [A-Z]+", section, re.MULTILINE))

    assert described == set(re.findall(r'"event_name": "([a-z_.]+)"', code))


async def test_a_retry_is_one_line_and_one_count(caplog: pytest.LogCaptureFixture) -> None:
    telemetry, failures = Telemetry(), [UnavailableError(CANARY.swapcase()), UnavailableError("again")]

    async def attempt() -> str:
        if failures:
            raise failures.pop()
        return "done"

    with caplog.at_level(logging.INFO, "agent_persistence"):
        assert await Retries(5.0, telemetry=telemetry).run(attempt) == "done"

    assert telemetry.counts.retries == {"UnavailableError": 2}
    assert [fields_of(record) for record in caplog.records] == [
        {"event_name": "operation.retried", "error_type": "UnavailableError", "attempt": number} for number in (2, 3)
    ]
    assert CANARY.swapcase() not in caplog.text


async def test_a_line_of_a_retry_has_the_code_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    refusal = UnavailableError()
    refusal.__cause__ = ReadOnlySQLTransactionError(CANARY)
    failures = [refusal]

    async def attempt() -> None:
        if failures:
            raise failures.pop()

    with caplog.at_level(logging.INFO, "agent_persistence"):
        await Retries(5.0, telemetry=Telemetry()).run(attempt)

    [record] = caplog.records
    assert record.getMessage() == "an attempt failed and is repeated: UnavailableError (sqlstate 25006)"
    assert fields_of(record)["sqlstate"] == "25006"


async def test_a_line_of_a_retry_says_which_operation_it_is_about(
    measured: Store, user_id: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = await measured.threads.create(user_id=user_id)
    fetch, failures = PinnedConnection._fetch, [UnavailableError(), UnavailableError()]  # noqa: SLF001 - the way of every statement

    async def fail_first(connection: PinnedConnection, *arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await fetch(connection, *arguments)

    monkeypatch.setattr(PinnedConnection, "_fetch", fail_first)
    with caplog.at_level(logging.INFO, "agent_persistence"):
        await measured.states.get(thread.thread_id, user_id=user_id)

    fields = [fields_of(record) for record in caplog.records if record.name == "agent_persistence"]
    about = {"operation": "states.get", "thread_id": hashed(thread.thread_id), "owner": hashed(user_id), "batch": 1}
    assert [{name: value for name, value in one.items() if name != "duration_ms"} for one in fields] == [
        {"event_name": "operation.retried", "error_type": "UnavailableError", "attempt": attempt, **about}
        for attempt in (2, 3)
    ]
    assert 0 < fields[0]["duration_ms"] < fields[1]["duration_ms"] < 5_000


def test_a_line_about_a_shared_statement_has_what_its_callers_have_in_common() -> None:
    callers, load, batch = [Operation(), Operation()], Operation(), Operation()
    for number, caller in enumerate(callers, 1):
        caller.call = "states.put", float(number), number, "ada"
    load.serve(callers[1])
    batch.callers = [callers[0], None, load]

    shared = fields_of_operation(batch, Identities("plain"), lambda: 5.0)

    assert shared == {"operation": "states.put", "owner": hashed("ada"), "duration_ms": 4_000, "batch": 2}
    assert fields_of_operation(callers[0], Identities("plain"), lambda: 5.0)["thread_id"] == "1"
    batch.callers = [None]
    assert fields_of_operation(batch, Identities()) == {}
    assert fields_of_operation(None, Identities()) == {}


async def test_a_slow_operation_says_what_it_waited_for(
    measured: Store, user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    thread = await measured.threads.create(user_id=user_id)
    caplog.clear()

    async with measured.begin(user_id=user_id) as holder:
        await holder.threads.update(thread.thread_id, name=CANARY)  # locks the row
        waiting = asyncio.create_task(measured.states.put(thread.thread_id, {CANARY: CANARY}, user_id=user_id))
        await asyncio.sleep(0.15)
    await waiting

    [record] = [record for record in caplog.records if record.name == "agent_persistence.slow"]
    fields = fields_of(record)
    assert fields["operation"] == "states.put"
    assert fields["database_ms"] > 100 > fields["queue_ms"]
    assert (fields["thread_id"], fields["owner"]) == (hashed(thread.thread_id), hashed(user_id))
    told = record.getMessage() + str(fields)
    assert CANARY not in told
    assert user_id not in told
    assert thread.thread_id not in told


async def test_a_slow_read_that_missed_the_cache_says_what_it_waited_for_there_and_in_the_table(
    measured: Store, user_id: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = await measured.threads.create(user_id=user_id)
    fetch = PinnedConnection._fetch  # noqa: SLF001

    async def fetch_slowly(connection: PinnedConnection, *arguments: Any) -> Any:
        await asyncio.sleep(0.12)
        return await fetch(connection, *arguments)

    monkeypatch.setattr(PinnedConnection, "_fetch", fetch_slowly)
    caplog.clear()

    await asyncio.gather(*(measured.states.get(thread.thread_id, user_id=user_id) for _ in range(3)))

    [record] = [record for record in caplog.records if record.name == "agent_persistence.slow"]
    fields = fields_of(record)
    assert (fields["operation"], fields["thread_id"]) == ("states.get", hashed(thread.thread_id))
    assert fields["database_ms"] > 100 > fields["cache_ms"] > 0
    assert fields["batch"] > 1


def test_a_crowd_of_slow_operations_is_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    times = iter((0.0, 0.1, 0.9, 1.0, 1.5, 1.5))
    slow = SlowOperations(100, Identities("none"), clock=lambda: next(times))

    for _ in range(5):
        slow.look("states.put", 0.2, Operation(), "", thread_id="thread", owner="owner")
    slow.look("states.get", 0.2, Operation(), "", thread_id="thread", owner="owner")
    slow.look("states.page", 0.05, Operation(), "", thread_id="thread", owner="owner")

    told = [(fields_of(record)["operation"], fields_of(record)["kept_back"]) for record in caplog.records]
    assert told == [("states.put", 0), ("states.put", 2), ("states.get", 0)]
    assert "thread_id" not in fields_of(caplog.records[0])


def block(seconds: float) -> Operation:
    operation = Operation()
    operation.is_block, operation.database = True, seconds
    return operation


def test_a_unit_of_work_is_slow_only_by_its_own_statements(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowOperations(100, Identities(), clock=lambda: 0.0)

    slow.look("begin", 60.0, block(0.05), "", thread_id=None, owner="owner")
    slow.look("run", 60.0, block(0.5), "", thread_id=None, owner="owner")

    assert [fields_of(record)["operation"] for record in caplog.records] == ["run"]
