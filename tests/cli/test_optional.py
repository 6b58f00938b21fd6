from __future__ import annotations

import json

from agent_persistence.migrate.optional import OBJECTS
from command_line import CommandLine


def test_an_optional_object_is_added_and_taken_away(command_line: CommandLine) -> None:
    added = command_line("optional", "add", "thread-meta")
    listed = command_line("optional", "list", "--json")
    removed = command_line("optional", "remove", "thread-meta", "--yes")

    assert (added.stdout, removed.stdout) == ("thread-meta is on\n", "thread-meta is off\n")
    assert json.loads(listed.stdout) == {name: name == "thread-meta" for name in OBJECTS}
    assert command_line("optional", "list").stdout.count("off ") == len(OBJECTS)


def test_removing_asks_and_shows_before_it_does_what_it_would_do(command_line: CommandLine) -> None:
    idle = command_line("optional", "remove", "thread-meta")
    command_line("optional", "add", "thread-meta")

    shown = command_line("optional", "remove", "thread-meta", "--dry-run")
    refused = command_line("optional", "remove", "thread-meta")
    removed = command_line("optional", "remove", "thread-meta", "--yes", "--json")

    assert (idle.exit_code, idle.stdout) == (0, "thread-meta is off\n")
    assert (shown.exit_code, shown.stdout) == (0, "thread-meta would be removed\n")
    assert refused.exit_code == 2
    assert "--yes: is needed to remove thread-meta" in refused.stderr
    assert json.loads(removed.stdout) == {"name": "thread-meta", "on": False, "dry_run": False}


def test_a_name_that_is_none_is_wrong_usage(command_line: CommandLine) -> None:
    result = command_line("optional", "add", "nonsense")

    assert result.exit_code == 2
    assert "message-search" in result.stderr


def test_the_doctor_names_the_optional_objects(command_line: CommandLine) -> None:
    command_line("optional", "add", "outside-writes")

    assert _optional(command_line) == [("OK", "outside-writes", None)]


def test_the_doctor_compares_row_level_security_with_its_setting(command_line: CommandLine) -> None:
    with_setting = command_line.with_variables(PERSISTENCE_ROW_LEVEL_SECURITY="true")

    without_policies = _optional(with_setting)[1]
    command_line("optional", "add", "row-level-security")
    as_superuser = _optional(with_setting)[1]

    assert without_policies[::2] == ("WARN", "agent-persistence optional add row-level-security")
    assert as_superuser[0] == "WARN"
    assert "superuser" in as_superuser[1]


def test_the_doctor_fails_where_a_role_sees_nothing_for_want_of_the_setting(command_line: CommandLine) -> None:
    schema, url = (command_line.variables[f"PERSISTENCE_{name}"] for name in ("DB_SCHEMA", "DATABASE_URL"))
    role = f"role_of_{schema}"
    command_line("optional", "add", "row-level-security")
    command_line.sql(f"CREATE ROLE {role} LOGIN")
    try:
        command_line.sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        command_line.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
        application = command_line.with_variables(PERSISTENCE_DATABASE_URL=url.replace("//postgres@", f"//{role}@"))

        refused = _optional(application)
        named = _optional(application.with_variables(PERSISTENCE_ROW_LEVEL_SECURITY="true"))
    finally:
        command_line.sql(f"DROP OWNED BY {role}")
        command_line.sql(f"DROP ROLE {role}")

    assert refused[1][::2] == ("FAIL", "export PERSISTENCE_ROW_LEVEL_SECURITY=true")
    assert named == [("OK", "row-level-security", None)]


def test_the_doctor_names_the_tables_that_came_after_row_level_security(command_line: CommandLine) -> None:
    with_setting = command_line.with_variables(PERSISTENCE_ROW_LEVEL_SECURITY="true")
    command_line("optional", "add", "row-level-security")
    command_line.sql("DROP POLICY opt_owner ON state_streams")
    command_line.sql("ALTER TABLE tool_results NO FORCE ROW LEVEL SECURITY")
    command_line.sql("ALTER TABLE messages DISABLE ROW LEVEL SECURITY")

    found = _optional(with_setting)[1]
    command_line("optional", "add", "row-level-security")

    assert found == (
        "FAIL",
        "row-level security is on, but not for messages, state_streams, tool_results",
        "agent-persistence optional add row-level-security",
    )
    assert all(level != "FAIL" for level, _, _ in _optional(with_setting))


def test_the_doctor_says_how_an_unfinished_index_is_built_again(command_line: CommandLine) -> None:
    command_line("optional", "add", "thread-meta")
    command_line.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'opt_threads_meta'::regclass")

    findings = json.loads(command_line("doctor", "--json").stdout)["findings"]

    [remedy] = [finding["remedy"] for finding in findings if finding["level"] == "FAIL"]
    assert remedy.endswith("then: agent-persistence optional add thread-meta")


def _optional(command_line: CommandLine) -> list[tuple[str, str, str | None]]:
    findings = json.loads(command_line("doctor", "--json").stdout)["findings"]
    return [
        (finding["level"], finding["detail"], finding["remedy"])
        for finding in findings
        if finding["subject"] == "optional"
    ]
