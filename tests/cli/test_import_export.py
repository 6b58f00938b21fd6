from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import asyncpg
import pytest

from command_line import CommandLine, until
from sample_conversations import SAMPLE, WEATHER, as_line, exact, read_lines, write_lines

_ID_TYPES = [("string", "string"), ("bigint", "string"), ("uuid", "string"), ("int", "int"), ("uuid", "uuid")]
_DATA = Path(os.environ.get("PERSISTENCE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL_FILE = _DATA / "conversations.jsonl"


@pytest.mark.parametrize("id_types", _ID_TYPES, ids="-".join)
def test_what_was_imported_is_exported_field_for_field_in_the_order_of_import(
    command_line: CommandLine, tmp_path: Path
) -> None:
    file, output = write_lines(tmp_path / "in.jsonl", SAMPLE), tmp_path / "out.jsonl"

    imported = command_line("import", file)
    exported = command_line("export", "--output", output)

    assert (imported.exit_code, exported.exit_code) == (0, 0), imported.output + exported.output
    assert exact(read_lines(output)) == exact(SAMPLE)


@pytest.mark.parametrize("id_types", _ID_TYPES, ids="-".join)
def test_a_file_imported_twice_is_there_once(command_line: CommandLine, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", SAMPLE)

    first, second = command_line("import", file, "--json"), command_line("import", file, "--json")
    exported = command_line("export")

    assert json.loads(first.stdout)["added"] == len(SAMPLE)
    assert (json.loads(second.stdout)["added"], json.loads(second.stdout)["unchanged"]) == (0, len(SAMPLE))
    assert len(exported.stdout.splitlines()) == len(SAMPLE)


@pytest.mark.parametrize("before", [None, 0o644, 0o600])
def test_an_export_is_for_its_owner_only(command_line: CommandLine, tmp_path: Path, before: int | None) -> None:
    output = tmp_path / "out.jsonl"
    if before is not None:
        output.touch(before)
    command_line("import", "-", stdin=as_line(WEATHER))

    result = command_line("export", "--output", output)

    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_export_that_fails_leaves_the_last_one(command_line: CommandLine, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    command_line("import", "-", stdin=as_line(WEATHER))
    command_line("export", "--output", output)
    command_line.sql("ALTER TABLE messages RENAME TO away")

    result = command_line("export", "--output", output)

    assert result.exit_code != 0
    assert exact(read_lines(output)) == exact([WEATHER])
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_export_that_is_killed_leaves_the_last_one(command_line: CommandLine, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("the last one")
    command_line("import", "-", stdin=as_line(WEATHER))

    async def kill_it_before_its_end(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            process = command_line.start("export", "--output", output)
            await until(connection, "count(*) FILTER (WHERE wait_event_type = 'Lock') = 1")
            process.kill()
            process.communicate()

    command_line.on_connection(kill_it_before_its_end)

    assert output.read_text() == "the last one"


def test_an_export_goes_through_links_and_to_devices(command_line: CommandLine, tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    command_line("import", "-", stdin=as_line(WEATHER))

    results = [command_line("export", "--output", output) for output in (link, "/dev/null", "-")]
    failed = command_line("export", "--output", tmp_path / "none" / "out.jsonl")

    assert [result.exit_code for result in results] == [0, 0, 0]
    assert link.is_symlink()
    assert exact(read_lines(target)) == exact([WEATHER]) == exact([json.loads(results[2].stdout)])
    assert failed.exit_code != 0
    assert "No such file or directory" in failed.output


@pytest.mark.slow
@pytest.mark.skipif(not REAL_FILE.is_file(), reason=f"{REAL_FILE} is not there; PERSISTENCE_TEST_DATA names its folder")
@pytest.mark.parametrize("id_types", _ID_TYPES[:3], ids="-".join)
def test_real_conversations_come_back_equal(command_line: CommandLine, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    imported = command_line("import", REAL_FILE, "--json")
    exported = command_line("export", "--output", output, "--json")

    conversations = read_lines(REAL_FILE)
    assert imported.exit_code == 0, imported.output
    assert json.loads(imported.stdout)["added"] == len(conversations)
    assert json.loads(exported.stdout)["messages"] == sum(len(one["messages"]) for one in conversations)
    assert exact(read_lines(output)) == exact(conversations)


def test_an_export_can_be_imported_elsewhere_and_is_equal_again(
    command_line: CommandLine, unmigrated: CommandLine, tmp_path: Path
) -> None:
    file, output = write_lines(tmp_path / "in.jsonl", SAMPLE), tmp_path / "out.jsonl"
    elsewhere = unmigrated.with_variables(PERSISTENCE_DB_SCHEMA="elsewhere", PERSISTENCE_ID_TYPE="uuid")
    elsewhere("upgrade")

    command_line("import", file)
    command_line("export", "--output", output)
    elsewhere("import", output)
    again = elsewhere("export")

    assert exact([json.loads(line) for line in again.stdout_bytes.splitlines()]) == exact(SAMPLE)


def test_lines_come_from_standard_input_too(command_line: CommandLine) -> None:
    result = command_line("import", "-", "--json", stdin=b"\n" + as_line(WEATHER) + b"\n")

    assert json.loads(result.stdout)["added"] == 1


def test_a_line_of_nothing_but_messages_gets_an_id_and_keeps_it(command_line: CommandLine) -> None:
    line = as_line({"messages": WEATHER["messages"]})

    command_line("import", "-", stdin=line)
    exported = command_line("export").stdout
    again = command_line("import", "-", "--json", stdin=line)

    conversation = json.loads(exported)
    assert conversation["id"].startswith("sha256-")
    assert conversation["messages"] == WEATHER["messages"]
    assert json.loads(again.stdout)["unchanged"] == 1


def test_each_owner_exports_what_is_theirs(command_line: CommandLine) -> None:
    command_line("import", "-", "--user", "ada", stdin=as_line(WEATHER))
    command_line("import", "-", stdin=as_line({**WEATHER, "id": "other"}))

    of_ada = command_line("export", "--user", "ada").stdout.splitlines()
    of_all = command_line("export").stdout.splitlines()

    assert [json.loads(line)["id"] for line in of_ada] == ["weather"]
    assert [json.loads(line)["id"] for line in of_all] == ["weather", "other"]


def test_threads_that_were_not_imported_are_exported_under_their_own_ids_page_by_page(
    command_line: CommandLine,
) -> None:
    # In one statement, so created at the same moment: only the ids tell their order.
    command_line.sql(
        "INSERT INTO threads (thread_id, user_id) SELECT n::text, 'ada' FROM generate_series(1, 1001) AS n"
    )

    exported = command_line("export").stdout.splitlines()

    assert list(map(json.loads, exported)) == [
        {"id": thread_id, "messages": []} for thread_id in sorted(map(str, range(1, 1002)))
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_a_full_disk_is_one_line_and_no_traceback(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))

    result = command_line("export", "--output", "/dev/full")

    assert result.exit_code == 1
    assert result.stderr == "error: [Errno 28] No space left on device\n"


def test_a_reader_that_has_seen_enough_is_no_failure(command_line: CommandLine) -> None:
    command_line.sql(
        "INSERT INTO threads (thread_id, user_id) SELECT n::text, 'ada' FROM generate_series(1, 5000) AS n"
    )

    with command_line.start("export", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()

        assert b"Traceback" not in process.stderr.read()


def test_messages_that_cannot_be_read_are_left_out_and_counted(command_line: CommandLine) -> None:
    command_line("import", "-", stdin=as_line(WEATHER))
    command_line.sql("""UPDATE messages SET extra = '{"set": {"n": 1e5000}}' WHERE content = 'Thanks'""")

    exported, imported = command_line("export"), command_line("import", "-", stdin=as_line(WEATHER))

    assert (exported.exit_code, imported.exit_code) == (1, 1)
    assert "1 messages cannot be read" in exported.stderr
    assert len(json.loads(exported.stdout)["messages"]) == len(WEATHER["messages"]) - 1
    assert "line 1: messages row" in imported.stderr


def test_an_export_to_standard_output_leaves_no_place_for_a_summary(command_line: CommandLine) -> None:
    result = command_line("export", "--json")

    assert result.exit_code == 2
    assert "needs --output" in result.stderr
