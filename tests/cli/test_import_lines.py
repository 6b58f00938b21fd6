from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from integration.repository_testing import counted_statements

from agent_persistence.persistence import Persistence
from agent_persistence.transfer.conversations import ConversationImporter, Outcome, import_lines
from command_line import CommandLine, until
from sample_conversations import LONG, SAMPLE, WEATHER, Conversation, as_line, exact, write_lines

_NOT_IMPORTED = [
    (b"{", "JSON"),
    (b"\xff{}", "JSON"),
    (b"[" * 100_000, "JSON"),
    (b"[1]", "must be an object"),
    (b'{"id": "a"}', "messages"),
    (b'{"messages": {}}', "messages"),
    (b'{"id": 7, "messages": []}', "id"),
    (b'{"id": "", "messages": []}', "id"),
    (b'{"messages": [{"role": "user"}, {"role": "wizard"}]}', r"messages[1].role"),
    (b'{"messages": [{"role": "user", "content": "\\u0000"}]}', r"messages[0].content"),
    (b'{"messages": [{"role": "user", "content": "a", "n": 1e999}]}', r"messages[0]"),
    (b'{"messages": [{"role": "user", "content": "a", "n": 18446744073709551616}]}', r"messages[0]"),
]


@pytest.mark.parametrize(("line", "named"), _NOT_IMPORTED)
def test_a_bad_line_is_named_and_stops_the_import(command_line: CommandLine, line: bytes, named: str) -> None:
    other = as_line({**WEATHER, "id": "after"})

    result = command_line("import", "-", "--json", stdin=as_line(WEATHER) + line + b"\n" + other)

    summary = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (summary["added"], [refused["line"] for refused in summary["refused"]]) == (1, [2])
    assert "error: line 2: " in result.stderr
    assert named in summary["refused"][0]["reason"]
    assert command_line("export").stdout.count("\n") == 1


_OTHER_FORMATS: list[tuple[str, Any]] = [
    ("ChatGPT", [{"title": "t", "mapping": {"a": {"message": {"author": {"role": "user"}}}}}]),
    ("Claude", [{"uuid": "u", "name": "n", "chat_messages": [{"sender": "human", "text": "hi"}]}]),
    ("ShareGPT", [{"id": "1", "conversations": [{"from": "human", "value": "hi"}]}]),
    ("LibreChat", {"conversationId": "c", "messages": [{"sender": "User", "text": "hi"}]}),
    ("Open WebUI", [{"id": "1", "user_id": "u", "chat": {"history": {"messages": {}}}}]),
    ("Letta", {"agents": [{"message_ids": []}]}),
    ("LangSmith", [{"inputs": {"messages": []}, "outputs": {}}]),
    ("tau-bench", [{"task_id": 0, "traj": [{"role": "user", "content": "hi"}]}]),
    ("", [WEATHER, WEATHER]),
    ("", WEATHER),
]


@pytest.mark.parametrize(("name", "document"), _OTHER_FORMATS)
@pytest.mark.parametrize("indent", [None, 2], ids=["one line", "pretty"])
def test_a_file_of_another_format_is_named_and_refused_at_once(
    command_line: CommandLine, name: str, document: Any, indent: int | None
) -> None:
    if isinstance(document, list):
        document = document * 1_000  # a new list: the parameter serves other tests too
    file = json.dumps(document, indent=indent).encode()

    result = command_line("import", "-", "--skip-invalid", stdin=(b"\xef\xbb\xbf" if indent else b"\n \n") + file)

    if indent is None and document is WEATHER:
        assert result.exit_code == 0
        return
    assert result.exit_code != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert name in errors[0]
    assert "hi" not in errors[0].split()
    assert command_line("export").stdout == ""


@pytest.mark.parametrize(("name", "document"), [pair for pair in _OTHER_FORMATS if pair[0]])
def test_lines_of_another_format_are_named(command_line: CommandLine, name: str, document: Any) -> None:
    line = json.dumps(document[0] if isinstance(document, list) else document).encode() + b"\n"

    result = command_line("import", "-", "--skip-invalid", "--json", stdin=as_line(WEATHER) + line)

    [refused] = json.loads(result.stdout)["refused"]
    assert name in refused["reason"]


@pytest.mark.parametrize("packed", [gzip.compress(b"{}", mtime=0), b"PK\x03\x04", b"PAR1", '{"a": 1}'.encode("utf-16")])
def test_a_file_that_is_no_text_is_named(command_line: CommandLine, packed: bytes) -> None:
    result = command_line("import", "-", "--skip-invalid", stdin=packed + b"\n" * 100)

    assert result.exit_code != 0
    assert "unpack or convert it first" in result.stderr


def test_a_file_may_begin_with_a_byte_order_mark(command_line: CommandLine) -> None:
    result = command_line("import", "-", "--json", stdin=b"\xef\xbb\xbf" + as_line(WEATHER))

    assert json.loads(result.stdout)["added"] == 1


async def test_refused_lines_cost_no_query(settings_for: Any, user_id: str) -> None:
    lines = [b"{\n", *[as_line({"messages": [{"role": "user", "content": str(number)}]}) for number in range(50)]]
    lines[10:10] = [b"{}\n"] * 3_000
    lines[5:5] = [b"[" * 5_000 + b"\n"] * 3_000
    async with Persistence[str, str](await settings_for()) as store:
        importer = ConversationImporter(store, user_id)
        async with counted_statements(store) as statements:
            results = [line async for line in import_lines(importer, lines[1:])]

    assert [line.number for line in results] == list(range(1, len(lines)))
    assert sum(line.outcome is Outcome.ADDED for line in results) == 50
    assert len(statements) < 60


def test_nothing_behind_a_conversation_that_conflicts_is_written(command_line: CommandLine) -> None:
    first, second = {**WEATHER, "id": "first"}, {**WEATHER, "id": "second"}
    command_line("import", "-", stdin=as_line(first) + as_line(second))
    other = {**first, "messages": [{"role": "user", "content": "another beginning"}]}
    longer = {**second, "messages": [*second["messages"], {"role": "user", "content": "and on"}]}

    result = command_line("import", "-", stdin=as_line(other) + as_line(longer) + as_line({**WEATHER, "id": "third"}))

    assert result.exit_code == 1
    assert "and on" not in command_line("export").stdout
    assert command_line("export").stdout.count("\n") == 2


def test_bad_lines_can_be_skipped_and_are_counted(command_line: CommandLine) -> None:
    lines = [as_line(WEATHER), *(line + b"\n" for line, _ in _NOT_IMPORTED), as_line({**WEATHER, "id": "after"})]

    result = command_line("import", "-", "--json", "--skip-invalid", stdin=b"".join(lines))

    summary = json.loads(result.stdout)
    assert result.exit_code == 1
    assert summary["added"] == 2
    assert [refused["line"] for refused in summary["refused"]] == list(range(2, len(_NOT_IMPORTED) + 2))


def test_text_that_postgresql_cannot_store_is_replaced_where_the_settings_say_so(command_line: CommandLine) -> None:
    replacing = command_line.with_variables(PERSISTENCE_SANITIZE="replace")
    line = b'{"id": "n\\u0000", "messages": [{"role": "user", "content": "\\u0000\\ud800"}]}\n'

    results = [json.loads(replacing("import", "-", "--json", stdin=line).stdout) for _ in range(2)]

    assert [(result["added"], result["unchanged"]) for result in results] == [(1, 0), (0, 1)]
    assert json.loads(replacing("export").stdout)["messages"][0]["content"] == "\ufffd\ufffd"


@pytest.mark.parametrize("id_types", [("string", "string"), ("bigint", "string"), ("uuid", "string")], ids="-".join)
def test_a_conversation_that_grew_gains_what_is_missing(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(_first_messages(WEATHER, 4)))

    grown = command_line("import", "-", "--json", stdin=as_line(WEATHER))

    assert json.loads(grown.stdout)["updated"] == 1
    assert exact([json.loads(command_line("export").stdout)]) == exact([WEATHER])


_LABELLED = {"messages": [{"role": "user", "content": "Is it good?"}]}


@pytest.mark.parametrize("id_types", [("string", "string"), ("bigint", "string"), ("uuid", "uuid")], ids="-".join)
def test_lines_without_ids_that_differ_in_any_field_are_different_conversations(command_line: CommandLine) -> None:
    lines = [
        _LABELLED,
        *({**_LABELLED, "label": label} for label in (True, False, 1, 0, 1.0, None, "True", ["a"], {"a": 1})),
        {**_LABELLED, "source": "x", "label": True},
        {**_LABELLED, "messages": [*_LABELLED["messages"], {"role": "assistant", "content": "Yes"}]},
    ]
    file = b"".join(map(as_line, lines))

    first, second = [json.loads(command_line("import", "-", "--json", stdin=file).stdout) for _ in range(2)]

    exported = [json.loads(line) for line in command_line("export").stdout.splitlines()]
    assert (first["added"], second["unchanged"]) == (len(lines), len(lines))
    assert len({line.pop("id") for line in exported}) == len(lines)
    assert exact(exported) == exact(lines)


@pytest.mark.parametrize("id_types", [("string", "string"), ("bigint", "string"), ("int", "int")], ids="-".join)
@pytest.mark.parametrize("meta", ["{}", '{"pinned": true}', '{"import": 7}', '{"import": {"id": "long"}}', "[]"])
def test_an_import_finds_its_threads_whatever_the_application_did_to_their_meta(
    command_line: CommandLine, meta: str
) -> None:
    file = as_line({**WEATHER, "title": "kept"}) + as_line({**WEATHER, "id": "other"}) + as_line({"messages": []})
    command_line("import", "-", stdin=file)
    exported = command_line("export").stdout
    command_line.sql(f"UPDATE threads SET meta = '{meta}'")

    again = json.loads(command_line("import", "-", "--json", stdin=file).stdout)

    assert (again["unchanged"], again["added"], again["refused"]) == (3, 0, [])
    assert command_line("export").stdout == exported
    assert {row["meta"] for row in command_line.sql("SELECT meta::text FROM threads")} == {json.dumps(json.loads(meta))}


@pytest.mark.parametrize("id_types", [("bigint", "string")], ids="-".join)
def test_two_owners_import_the_same_conversation_once_each(command_line: CommandLine) -> None:
    runs = [("import", "-", "--json", "--user", owner) for owner in ("ann", "bob", "bob")]

    done = [json.loads(command_line(*run, stdin=as_line(WEATHER)).stdout) for run in runs]

    assert [one["added"] for one in done] == [1, 1, 0]
    assert [one["unchanged"] for one in done] == [0, 0, 1]


@pytest.mark.parametrize("id_types", [("bigint", "string")], ids="-".join)
def test_an_import_goes_on_in_its_thread_and_not_in_a_copy_of_its_meta(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))
    command_line.sql("INSERT INTO threads (user_id, meta) SELECT user_id, meta FROM threads")
    [copied] = command_line.sql("UPDATE threads SET thread_id = -1 WHERE thread_id = 2 RETURNING thread_id")

    again = json.loads(command_line("import", "-", "--json", stdin=as_line(WEATHER)).stdout)

    assert (again["unchanged"], again["updated"], again["added"]) == (1, 0, 0)
    assert command_line.sql(f"SELECT FROM messages WHERE thread_id = {copied[0]}") == []


@pytest.mark.parametrize("id_types", [("string", "string"), ("bigint", "string")], ids="-".join)
def test_threads_that_version_0_1_0_imported_are_found(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))
    command_line.sql("DELETE FROM conversation_imports")

    again = json.loads(command_line("import", "-", "--json", stdin=as_line(WEATHER)).stdout)

    assert (again["unchanged"], again["added"]) == (1, 0)
    assert exact([json.loads(command_line("export").stdout)]) == exact([WEATHER])


def test_an_export_of_other_threads_can_be_imported_over_them_and_changes_nothing(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))
    command_line.sql("DELETE FROM conversation_imports")
    command_line.sql("UPDATE threads SET meta = '{}'")

    again = json.loads(command_line("import", "-", "--json", stdin=command_line("export").stdout).stdout)

    assert (again["unchanged"], again["updated"]) == (1, 0)


def test_a_line_that_says_more_about_its_conversation_changes_what_is_exported(command_line: CommandLine) -> None:
    more = {**WEATHER, "source": "corrected", "rating": 5}
    command_line("import", "-", stdin=as_line(WEATHER))

    result = command_line("import", "-", "--json", stdin=as_line(more))

    assert json.loads(result.stdout)["updated"] == 1
    assert exact([json.loads(command_line("export").stdout)]) == exact([more])


@pytest.mark.parametrize("count", [3, 6])
def test_a_thread_that_is_not_the_beginning_of_the_line_is_a_conflict(command_line: CommandLine, count: int) -> None:
    other = _first_messages(WEATHER, count)
    other["messages"][-1] = {"role": "user", "content": "something else"}
    command_line("import", "-", stdin=as_line(WEATHER))

    result = command_line("import", "-", stdin=as_line(other))

    assert result.exit_code == 1
    assert "line 1: thread 'weather' is there already" in result.stderr
    assert exact([json.loads(command_line("export").stdout)]) == exact([WEATHER])


def test_a_thread_of_somebody_else_is_a_conflict(command_line: CommandLine) -> None:
    command_line("import", "-", "--user", "ada", stdin=as_line(WEATHER))

    result = command_line("import", "-", "--user", "bob", stdin=as_line(WEATHER))

    assert result.exit_code == 1
    assert "the id is taken" in result.stderr


def test_every_turn_leaves_a_state(command_line: CommandLine) -> None:
    for count in (4, 5, 7):
        command_line("import", "-", stdin=as_line(_first_messages(WEATHER, count)))

    states = command_line.sql("SELECT state_data::text FROM states ORDER BY state_id")

    assert [json.loads(row["state_data"]) for row in states] == [
        {"turn": 1, "messages": 4, "last_role": "tool"},
        {"turn": 1, "messages": 5, "last_role": "assistant"},
        {"turn": 2, "messages": 7, "last_role": "assistant"},
    ]


def test_conversations_are_imported_without_states_where_states_are_turned_off(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_ENABLE_CHECKPOINTING="false")(
        "import", "-", stdin=as_line(WEATHER)
    )

    assert result.exit_code == 0
    assert command_line.sql("SELECT FROM states") == []
    assert len(command_line.sql("SELECT FROM messages")) == len(WEATHER["messages"])


@pytest.mark.parametrize("id_types", [("string", "string"), ("bigint", "string")], ids="-".join)
def test_an_import_that_is_killed_leaves_no_half_conversation_and_goes_on_when_it_is_run_again(
    command_line: CommandLine, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "in.jsonl", SAMPLE)

    async def kill_it_in_the_middle(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("LOCK TABLE states IN SHARE MODE")  # messages are written before states
            process = _patient(command_line).start("import", file)
            try:
                await until(connection, "count(*) FILTER (WHERE wait_event_type = 'Lock') = 1")
            finally:
                process.kill()
                process.communicate()
        await until(connection, "count(*) = 0")

    command_line.on_connection(kill_it_in_the_middle)
    left = command_line.sql("SELECT FROM threads"), command_line.sql("SELECT FROM messages")
    again = command_line("import", file, "--json")

    assert left == ([], [])
    assert json.loads(again.stdout)["added"] == len(SAMPLE)


def test_two_imports_of_a_file_that_grew_add_what_is_missing_once(command_line: CommandLine, tmp_path: Path) -> None:
    command_line("import", "-", stdin=as_line(_first_messages(LONG, 300)))
    file = write_lines(tmp_path / "in.jsonl", [LONG])

    async def both_at_once(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT FROM threads FOR UPDATE")
            processes = [_patient(command_line).start("import", file) for _ in range(2)]
            await until(connection, "count(*) FILTER (WHERE wait_event_type = 'Lock') = 2")
        for process in processes:
            process.communicate()
        assert [process.returncode for process in processes] == [0, 0]

    command_line.on_connection(both_at_once)

    assert exact([json.loads(command_line("export").stdout)]) == exact([LONG])


def _first_messages(conversation: Conversation, count: int) -> Conversation:
    return {**conversation, "messages": conversation["messages"][:count]}


def _patient(command_line: CommandLine) -> CommandLine:
    limits = {f"PERSISTENCE_{name}_TIMEOUT": "60" for name in ("LOCK", "STATEMENT")}
    return command_line.with_variables(**limits)
