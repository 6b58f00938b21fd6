from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_persistence import migrate
from command_line import CommandLine


def test_upgrade_creates_the_schema_and_says_where_it_went(unmigrated: CommandLine) -> None:
    first, second = unmigrated("upgrade"), unmigrated("upgrade")

    assert first.stdout == f"base -> {migrate.head()}\n"
    assert second.stdout == f"already at {migrate.head()}\n"


def test_downgrade_takes_a_revision_back(command_line: CommandLine) -> None:
    result = command_line("downgrade", "base")

    assert result.stdout == f"{migrate.head()} -> base\n"
    assert command_line("current").stdout.startswith("none")
    assert command_line.sql("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace") == []
    assert command_line("upgrade").stdout == f"base -> {migrate.head()}\n"


def test_a_relative_revision_is_no_option(command_line: CommandLine) -> None:
    result = command_line("downgrade", "-1")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{migrate.head()} -> ap")


def test_a_downgrade_with_data_asks(command_line: CommandLine) -> None:
    command_line.sql("INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')")

    refused = command_line("downgrade", "base")
    kept = command_line("current").stdout
    done = command_line("downgrade", "base", "--yes")

    assert (refused.exit_code, kept) == (2, f"{migrate.head()}\n")
    assert "--yes: is needed to downgrade to base in a database with 1 threads" in refused.stderr
    assert done.stdout == f"{migrate.head()} -> base\n"


def test_a_downgrade_that_undoes_nothing_does_not_ask(command_line: CommandLine) -> None:
    command_line.sql("INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')")

    result = command_line("downgrade", migrate.head())

    assert (result.exit_code, result.stdout) == (0, f"already at {migrate.head()}\n")


def test_tables_that_are_empty_get_other_id_types_as_the_error_says(command_line: CommandLine) -> None:
    other = command_line.with_variables(PERSISTENCE_USER_ID_TYPE="uuid")

    refused = other("check")
    command_line("downgrade", "base")
    upgraded, checked = other("upgrade"), other("check")

    assert "If the tables are empty: with PERSISTENCE_USER_ID_TYPE=string run" in refused.stderr
    assert (upgraded.exit_code, checked.exit_code) == (0, 0)


def test_a_dry_run_names_the_revisions_and_undoes_none(command_line: CommandLine) -> None:
    command_line.sql("INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')")

    shown = command_line("downgrade", "-2", "--dry-run")
    told = json.loads(command_line("downgrade", "base", "--dry-run", "--json").stdout)

    assert shown.exit_code == 0
    assert shown.stdout.startswith("a downgrade to -2 would undo 2 revisions; the database has 1 threads\nap0")
    assert (told["threads"], told["undone"][0], told["undone"][-1]) == (1, migrate.head(), "ap0001")
    assert command_line("current").stdout == f"{migrate.head()}\n"


def test_programs_get_the_revisions_before_and_after(command_line: CommandLine) -> None:
    downgraded = json.loads(command_line("downgrade", "-1", "--json").stdout)
    found = json.loads(command_line("current", "--json").stdout)
    upgraded = json.loads(command_line("upgrade", "--json").stdout)

    assert downgraded["before"] == upgraded["after"] == migrate.head()
    assert found == {"revision": downgraded["after"], "head": migrate.head()}
    assert upgraded["before"] == downgraded["after"]


NEED_A_DATABASE = [
    ["upgrade"],
    ["downgrade", "base"],
    ["current"],
    ["check"],
    ["health", "--wait", "60"],
    ["optional", "list"],
    ["optional", "add", "outside-writes"],
    ["optional", "remove", "outside-writes"],
    ["import", "-"],
    ["export"],
    ["import-langgraph", "--from", "postgresql://u:secret@127.0.0.1:1/x", "--user", "ann"],
    ["import-agentflow", "postgresql://u:secret@127.0.0.1:1/x"],
    ["threads"],
    ["show", "first-chat"],
    ["prune", "--keep-last", "1"],
]


@pytest.mark.parametrize("command", NEED_A_DATABASE, ids=" ".join)
def test_without_an_address_a_command_starts_no_server_of_its_own(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@db/x")

    result = CommandLine({"PERSISTENCE_EMBEDDED_DIR": str(tmp_path / "servers")})(*command, stdin="")

    assert result.exit_code == 2, result.output
    assert "PERSISTENCE_DATABASE_URL: is not set" in result.stderr
    assert "DATABASE_URL is set, and not read here" in result.stderr
    assert not (tmp_path / "servers").exists()
    assert "hunter2" not in result.output


def test_current_prints_the_revision(command_line: CommandLine) -> None:
    assert command_line("current").stdout == f"{migrate.head()}\n"


def test_config_prints_the_path_of_a_file_for_alembic(command_line: CommandLine) -> None:
    path = command_line("config").stdout.strip()

    assert path == str(migrate.alembic_ini())


def test_check_is_content_with_a_migrated_database(command_line: CommandLine) -> None:
    result = command_line("check")

    assert result.exit_code == 0
    assert result.stdout.startswith("ok: ")


def test_check_names_the_command_that_mends_an_empty_database(unmigrated: CommandLine) -> None:
    result = unmigrated("check")

    assert result.exit_code == 1
    assert result.stderr.endswith("run: agent-persistence upgrade\n")


def test_check_tells_machines_too(unmigrated: CommandLine) -> None:
    result = unmigrated("check", "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (found["ok"], found["error"]) == (False, "NotMigratedError")
    assert found["remedy"] == "agent-persistence upgrade"


def test_check_refuses_other_id_types(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_USER_ID_TYPE="bigint")("check")

    assert result.exit_code == 1
    assert "PERSISTENCE_USER_ID_TYPE=string" in result.stderr


def test_an_unknown_revision_is_one_line_and_no_traceback(command_line: CommandLine) -> None:
    result = command_line("downgrade", "nowhere")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
