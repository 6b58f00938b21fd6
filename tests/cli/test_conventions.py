"""What every command has."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from agent_persistence.cli import output
from agent_persistence.cli.app import app
from command_line import CommandLine

ROOT = typer.main.get_command(app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
DELETING = ["downgrade", "optional remove", "prune"]


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_write_json(name: str) -> None:
    assert "--json" in options(COMMANDS[name])


@pytest.mark.parametrize("name", DELETING)
def test_what_deletes_can_be_confirmed_and_tried(name: str) -> None:
    assert {"--yes", "-y", "--dry-run"} <= options(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_is_a_valid_command(name: str, tmp_path: Path) -> None:
    (tmp_path / "conversations.jsonl").touch()

    [example] = re.findall("Example: `(.+?)`$", COMMANDS[name].help, re.MULTILINE)

    if name == "config":
        assert f"$(agent-persistence {name})" in example
        return
    program, *arguments = shlex.split(example)
    assert (program, " ".join(arguments[: len(name.split())])) == ("agent-persistence", name)
    with COMMANDS[name].make_context(name, arguments[len(name.split()) :]):
        pass


@pytest.mark.parametrize("arguments", [["-h"], ["prune", "-h"], ["optional", "-h"], ["optional", "add", "-h"]])
def test_h_is_help(arguments: list[str]) -> None:
    result = CommandLine({})(*arguments)

    assert result.exit_code == 0
    assert "Usage: " in result.stdout


@pytest.mark.parametrize(
    ("line", "expected"), [("agent-persistence hea", "health"), ("agent-persistence optional add m", "message-search")]
)
def test_a_shell_completes_commands_and_names(line: str, expected: str) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_AGENT_PERSISTENCE_COMPLETE": "complete_bash"}

    completed = CliRunner().invoke(app, env=words, prog_name="agent-persistence")

    assert completed.stdout.split() == [expected]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "as_json", "is_shown"), [(Terminal, [], True), (Terminal, ["--json"], False), (io.StringIO, [], False)]
)
def test_progress_is_for_people_at_a_terminal(
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    stream: type[io.StringIO],
    as_json: list[str],
    is_shown: bool,
) -> None:
    shown = stream()
    # FORCE_COLOR, which many pipelines set, makes each stream a terminal for rich.
    monkeypatch.setattr(output, "err", Console(file=shown, force_terminal=True))

    result = command_line("prune", "--keep-last", "1", "--yes", *as_json)

    assert result.exit_code == 0
    assert ("Deleting old states" in shown.getvalue()) is is_shown


@pytest.mark.slow
def test_an_interrupted_command_ends_with_130(unmigrated: CommandLine) -> None:
    nowhere = unmigrated.with_variables(PERSISTENCE_DATABASE_URL="postgresql://u@127.0.0.1:1/x")
    with nowhere.start("health", "--wait", "60", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert b"waiting" in process.stderr.readline()

        process.terminate()

        assert process.wait() == 130
