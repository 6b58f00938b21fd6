from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from agent_persistence.cli import confirmation
from command_line import CommandLine
from sample_conversations import LONG, WEATHER, as_line


def test_the_newest_states_of_every_thread_stay(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(LONG) + as_line(WEATHER))

    result = command_line("prune", "--keep-last", "2", "--yes")

    assert result.stdout == "deleted 249 states\n"
    assert json.loads(command_line("show", "long", "--json").stdout)["state"]["data"]["turn"] == 251


def test_states_that_are_young_stay(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))

    assert command_line("prune", "--older-than", "1", "--yes").stdout == "deleted 0 states\n"


def test_states_that_are_old_go_but_for_the_latest(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(LONG) + as_line(WEATHER))
    command_line.sql("UPDATE states SET created_at = now() - interval '31 days' WHERE thread_id = 'long'")

    assert command_line("prune", "--older-than", "30", "--yes").stdout == "deleted 250 states\n"
    assert json.loads(command_line("show", "long", "--json").stdout)["state"]["data"]["turn"] == 251


def test_only_the_states_of_the_user_who_is_named_go(command_line: CommandLine) -> None:
    command_line("import", "-", "--user", "ann", stdin=as_line(LONG))
    command_line.sql("INSERT INTO state_streams (thread_id, created_at) VALUES ('long', now() - interval '2 days')")

    assert command_line("prune", "--keep-last", "2", "--user", "bob", "--yes").stdout == "deleted 0 states\n"
    assert command_line("prune", "--keep-last", "2", "--user", "ann", "--yes").stdout == "deleted 249 states\n"
    assert command_line.sql("SELECT count(*) FROM state_streams")[0]["count"] == 1


def test_streams_that_became_no_state_are_swept(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))
    [thread] = command_line.sql("SELECT thread_id FROM threads")
    for age in ("25 hours", "23 hours"):
        command_line.sql(
            f"INSERT INTO state_streams (thread_id, created_at) VALUES ('{thread[0]}', now() - interval '{age}')"
        )

    assert command_line("prune", "--keep-last", "1000", "--yes").stdout == "deleted 0 states\n"

    [stream] = command_line.sql("SELECT now() - created_at < interval '1 day' AS is_young FROM state_streams")
    assert stream["is_young"]


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "1000000000"])
def test_an_age_that_no_state_can_have_is_refused(command_line: CommandLine, days: str) -> None:
    result = command_line("prune", "--older-than", days)

    assert result.exit_code == 2
    assert "--older-than" in result.stderr


def test_prune_wants_to_know_what_to_keep(command_line: CommandLine) -> None:
    assert command_line("prune").exit_code == 2


def test_a_dry_run_counts_and_deletes_nothing(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(LONG) + as_line(WEATHER))

    shown = command_line("prune", "--keep-last", "2", "--dry-run")
    of_nobody = command_line("prune", "--keep-last", "2", "--user", "nobody", "--dry-run")
    told = command_line("prune", "--keep-last", "2", "--dry-run", "--json")
    done = command_line("prune", "--keep-last", "2", "--yes", "--json")

    assert (shown.stdout, of_nobody.stdout) == ("would delete 249 states\n", "would delete 0 states\n")
    assert json.loads(told.stdout) == {"states": 249, "deleted": False}
    assert json.loads(done.stdout) == {"states": 249, "deleted": True}


def test_a_pipeline_needs_yes_unless_there_is_nothing_to_delete(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))

    refused = command_line("prune", "--keep-last", "1")
    idle = command_line("prune", "--keep-last", "1000")

    assert refused.exit_code == 2
    assert refused.stderr == "error: --yes: is needed to delete 1 states\n"
    assert (idle.exit_code, idle.stdout) == (0, "deleted 0 states\n")
    assert command_line.sql("SELECT count(*) FROM states")[0]["count"] == 2


@pytest.mark.parametrize(("answer", "exit_code", "left"), [("y\n", 0, 1), ("n\n", 1, 2), ("", 1, 2)])
def test_on_a_terminal_it_asks(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, answer: str, exit_code: int, left: int
) -> None:
    monkeypatch.setattr(confirmation, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    command_line("import", "-", stdin=as_line(WEATHER))

    result = command_line("prune", "--keep-last", "1", stdin=answer)

    assert result.exit_code == exit_code
    assert "Delete 1 states. Go on? [y/N]" in result.stderr
    assert command_line.sql("SELECT count(*) FROM states")[0]["count"] == left
