from __future__ import annotations

import json
from threading import Thread

import pytest

from agent_persistence.cli import health
from command_line import CommandLine

NOWHERE = "postgresql://u:secret@127.0.0.1:1/x"


def test_a_database_that_is_ready_is_healthy(command_line: CommandLine) -> None:
    shown, told = command_line("health"), command_line("health", "--json")

    assert (shown.exit_code, told.exit_code) == (0, 0)
    assert shown.stdout == "ok: the database is up, the schema is ready, the cache is up\n"
    assert json.loads(told.stdout) == {
        "ok": True, "database": "up", "schema": "ready", "cache": "up", "error": None, "message": None, "remedy": None,
    }  # fmt: skip


@pytest.mark.parametrize(("address", "expected"), [("", "off"), ("redis://127.0.0.1:1", "down")])
def test_an_application_is_healthy_without_its_cache(command_line: CommandLine, address: str, expected: str) -> None:
    result = command_line.with_variables(PERSISTENCE_REDIS_URL=address)("health", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["cache"] == expected


def test_a_schema_that_is_not_ready_ends_with_1_and_the_command_that_creates_it(unmigrated: CommandLine) -> None:
    shown, told = unmigrated("health"), unmigrated("health", "--json")

    found = json.loads(told.stdout)
    assert (shown.exit_code, told.exit_code) == (1, 1)
    assert shown.stderr.endswith("run: agent-persistence upgrade\n")
    assert (found["ok"], found["database"], found["schema"]) == (False, "up", "not ready")
    assert (found["error"], found["remedy"]) == ("NotMigratedError", "agent-persistence upgrade")


def test_a_database_that_cannot_be_reached_ends_with_3(unmigrated: CommandLine) -> None:
    result = unmigrated.with_variables(PERSISTENCE_DATABASE_URL=NOWHERE)("health", "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 3
    assert (found["ok"], found["database"], found["schema"]) == (False, "down", "unknown")
    assert "Connect call failed" in found["message"]
    assert "secret" not in result.output


def test_the_wait_ends_without_a_database(unmigrated: CommandLine) -> None:
    result = unmigrated.with_variables(PERSISTENCE_DATABASE_URL=NOWHERE)("health", "--wait", "0.1")

    assert result.exit_code == 3
    assert "waiting for 0.1 s at most" in result.stderr


def test_it_waits_until_another_process_has_migrated(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_POLL_SECONDS", 0.01)
    command_line.sql("ALTER SCHEMA cli RENAME TO later")

    def another_process_migrates(_text: str) -> None:
        thread = Thread(target=command_line.sql, args=["ALTER SCHEMA later RENAME TO cli"])
        thread.start()
        thread.join()

    monkeypatch.setattr(health, "note", another_process_migrates)  # it is called before the first pause

    assert command_line("health", "--wait", "60").exit_code == 0


def test_it_does_not_wait_for_what_does_not_pass(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_USER_ID_TYPE="uuid")("health", "--wait", "60")

    assert result.exit_code == 1
    assert "waiting" not in result.stderr
