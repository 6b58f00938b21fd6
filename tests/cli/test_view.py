from __future__ import annotations

import json
import uuid

import pytest
from rich.cells import cell_len

from agent_persistence.cli.output import visible
from command_line import CommandLine
from sample_conversations import LONG, PARTS, WEATHER, as_line


def test_threads_are_listed_by_name_the_most_recently_active_first(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER) + as_line(LONG))

    lines = command_line("threads").stdout.splitlines()

    assert [line.split()[0] for line in lines[2:]] == ["long", "weather"]
    assert "Weather in Ürümqi?" in lines[-1]


def test_threads_can_be_searched_and_machines_get_all_fields(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER) + as_line(LONG))

    (found,) = json.loads(command_line("threads", "--search", "ürümqi", "--json").stdout)

    assert (found["thread_id"], found["user_id"]) == ("weather", "import")
    assert found["meta"]["import"] == {"id": "weather", "source": "handmade"}


@pytest.mark.parametrize(
    ("options", "expected"), [(["--user", "nobody"], "no threads\n"), (["--archived"], "no threads\n")]
)
def test_no_threads_are_said_to_be_none(command_line: CommandLine, options: list[str], expected: str) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))

    assert command_line("threads", *options).stdout == expected


def test_owners_are_told_apart_where_there_are_several(command_line: CommandLine) -> None:
    command_line("import", "-", "--user", "ada", stdin=as_line(WEATHER))
    command_line("import", "-", "--user", "bob", stdin=as_line(LONG))

    listed = command_line("threads", "--limit", "1"), command_line("threads")

    assert "bob" not in listed[0].stdout
    assert "--limit 10" in listed[0].stderr
    assert {"ada", "bob"} <= set(listed[1].stdout.split())


@pytest.mark.parametrize("id_types", [("uuid", "uuid")])
def test_an_id_is_never_cut(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))
    (thread,) = json.loads(command_line("threads", "--json").stdout)

    table = command_line.with_variables(COLUMNS="60")("threads").stdout

    assert thread["thread_id"] in table


@pytest.mark.parametrize("id_types", [("uuid", "uuid")])
def test_uuids_of_threads_and_users_fit_80_columns(command_line: CommandLine) -> None:
    for conversation in (LONG, WEATHER):
        command_line("import", "-", "--user", uuid.uuid4(), stdin=as_line(conversation))
    found = json.loads(command_line("threads", "--json").stdout)

    lines = command_line.with_variables(COLUMNS="80")("threads").stdout.splitlines()

    assert max(map(cell_len, lines)) <= 80
    assert [line.split()[0] for line in lines[2:]] == [
        thread[name] for thread in found for name in ("thread_id", "user_id")
    ]
    assert "Weather in" in lines[2]


def test_a_conversation_shows_roles_texts_tool_calls_and_the_latest_state(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))

    shown = command_line("show", "weather").stdout

    assert [line.split()[0] for line in shown.splitlines()[4:11]] == [
        "system", "user", "assistant", "tool", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert 'calls weather {"city": "Ürümqi"}' in shown
    assert '{"turn": 2, "messages": 7, "last_role": "assistant"}' in shown


def test_long_messages_are_cut_unless_wanted_in_full(command_line: CommandLine) -> None:
    text = "word " * 1000
    command_line("import", "-", stdin=as_line({"id": "x", "messages": [{"role": "user", "content": text}]}))

    cut, full = command_line("show", "x").stdout, command_line("show", "x", "--full").stdout

    assert "4,400 more characters" in " ".join(cut.split())
    assert full.count("word") > 1000


def test_only_the_newest_messages_are_shown(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(LONG))

    result = command_line("show", "long", "--limit", "2", "--json")
    for_people = command_line("show", "long", "--limit", "2")

    assert [one["message"]["content"] for one in json.loads(result.stdout)["messages"]] == ["498\n", "499\n"]
    assert "--limit 20" in for_people.stderr


def test_contents_cannot_take_over_the_terminal(command_line: CommandLine) -> None:
    attack = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\u202eesrever [bold]markup[/bold] [/]"
    thread = {"id": "attack", "messages": [{"role": "user", "content": attack}, _call(attack)]}
    command_line("import", "-", stdin=as_line(thread) + as_line({**PARTS, "id": "parts"}))

    outputs = [command_line(*command).stdout for command in (["show", "attack"], ["show", "parts"], ["threads"])]

    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set("".join(outputs))
    assert "[bold]markup[/bold]" in outputs[0]


def test_json_for_machines_is_plain_ascii(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(PARTS))
    (thread,) = json.loads(command_line("threads", "--json").stdout)

    shown = command_line("show", thread["thread_id"], "--json")

    assert shown.stdout.isascii()
    assert json.loads(shown.stdout)["messages"][0]["message"] == PARTS["messages"][0]


def test_line_ends_and_tabs_are_no_danger() -> None:
    assert visible("a\r\nb\tc\n") == "a\nb\tc\n"


def _call(text: str) -> dict[str, object]:
    call = {"id": "1", "type": "function", "function": {"name": text, "arguments": text}}
    return {"role": "assistant", "content": None, "tool_calls": [call, text]}
