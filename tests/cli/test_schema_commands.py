from __future__ import annotations

import json

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
