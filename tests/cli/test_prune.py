from __future__ import annotations

import json

from command_line import CommandLine
from sample_conversations import LONG, WEATHER, as_line


def test_the_newest_states_of_every_thread_stay(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(LONG) + as_line(WEATHER))

    result = command_line("prune", "--keep-last", "2")

    assert result.stdout == "deleted 249 states\n"
    assert json.loads(command_line("show", "long", "--json").stdout)["state"]["data"]["turn"] == 251


def test_states_that_are_young_stay(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))

    assert command_line("prune", "--older-than", "1").stdout == "deleted 0 states\n"


def test_prune_wants_to_know_what_to_keep(command_line: CommandLine) -> None:
    assert command_line("prune").exit_code == 2
