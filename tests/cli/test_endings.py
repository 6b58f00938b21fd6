from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from command_line import CommandLine


def test_the_version_is_that_of_the_package(unmigrated: CommandLine) -> None:
    assert unmigrated("--version").stdout == f"agent-persistence {version('agent-persistence')}\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["show"], ["threads", "--limit", "0"], ["import", "missing.jsonl"]]
)
def test_wrong_usage_ends_with_2(unmigrated: CommandLine, arguments: list[str]) -> None:
    assert unmigrated(*arguments).exit_code == 2


@pytest.mark.parametrize("id_types", [("uuid", "bigint")])
@pytest.mark.parametrize("arguments", [["show", "x"], ["threads", "--user", "x"], ["import", "-", "--user", "x"]])
def test_an_id_of_another_kind_is_wrong_usage(command_line: CommandLine, arguments: list[str]) -> None:
    result = command_line(*arguments)

    assert result.exit_code == 2
    assert "must be" in result.stderr


def test_wrong_settings_end_with_2_and_name_the_variable(unmigrated: CommandLine) -> None:
    result = unmigrated.with_variables(PERSISTENCE_POOL_SIZE="many")("check")

    assert result.exit_code == 2
    assert "PERSISTENCE_POOL_SIZE" in result.stderr


def test_a_database_that_cannot_be_reached_ends_with_3_and_says_why(unmigrated: CommandLine) -> None:
    result = unmigrated.with_variables(PERSISTENCE_DATABASE_URL="postgresql://u:secret@127.0.0.1:1/x")("check")

    assert result.exit_code == 3
    assert "Connect call failed" in result.stderr
    assert "secret" not in result.output


@pytest.mark.parametrize("address", ["postgresql://u:secret@127.0.0.1:1/x", "mysql://u:secret@127.0.0.1:1/x"])
def test_the_address_of_another_store_may_be_a_variable_and_its_password_is_not_shown(
    command_line: CommandLine, address: str
) -> None:
    result = command_line.with_variables(AGENTFLOW_POSTGRES_URI=address)("import-agentflow")

    assert result.exit_code in (2, 3)
    assert result.stderr
    assert "secret" not in result.output


def test_a_database_that_does_not_exist_ends_with_3_and_is_named(unmigrated: CommandLine) -> None:
    url = unmigrated.variables["PERSISTENCE_DATABASE_URL"].replace("/test_", "/missing_")

    result = unmigrated.with_variables(PERSISTENCE_DATABASE_URL=url)("threads")

    assert result.exit_code == 3
    assert "missing_" in result.stderr


def test_data_commands_want_a_schema(unmigrated: CommandLine) -> None:
    result = unmigrated("threads")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: the schema is not created yet")
    assert result.stderr.endswith("run: agent-persistence upgrade\n")


def test_what_does_not_exist_is_one_line_and_the_traceback_is_there_for_the_asking(command_line: CommandLine) -> None:
    plain, debug = command_line("show", "nobody"), command_line("--debug", "show", "nobody")

    assert (plain.exit_code, debug.exit_code) == (1, 1)
    assert plain.stderr == "error: thread 'nobody' does not exist\n"
    assert "Traceback" in debug.stderr


def test_migrations_use_their_own_address_where_only_that_one_is_set(unmigrated: CommandLine) -> None:
    url = unmigrated.variables["PERSISTENCE_DATABASE_URL"]
    for_migrations = unmigrated.with_variables(PERSISTENCE_DATABASE_URL="", PERSISTENCE_MIGRATION_DATABASE_URL=url)

    upgraded, listed = for_migrations("upgrade"), for_migrations("threads")

    assert upgraded.exit_code == 0
    assert listed.exit_code == 2
    assert "PERSISTENCE_DATABASE_URL" in listed.stderr


def test_the_module_runs_like_the_script(unmigrated: CommandLine) -> None:
    process = unmigrated.start("check", stdout=subprocess.PIPE)
    _, stderr = process.communicate()

    assert process.returncode == 1
    assert b"agent-persistence upgrade" in stderr


@pytest.mark.parametrize("package", ["rich", "typer"])
def test_without_its_extra_the_script_says_which_one_is_missing(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from agent_persistence.cli import main; main()"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert result.stderr.strip().endswith("run: pip install 'agent-persistence[cli]'")
    assert "Traceback" not in result.stderr
