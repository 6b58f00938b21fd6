from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import CommandLine
from sample_conversations import WEATHER, as_line

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="embedded servers are for POSIX")]


def test_the_word_embedded_runs_servers_during_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "servers"
    named = CommandLine({"PERSISTENCE_EMBEDDED_DIR": str(folder), "PERSISTENCE_DATABASE_URL": "embedded"})

    imported = named("import", "-", stdin=as_line(WEATHER))
    exported = named("export")
    healthy = named("health", "--json")

    assert (imported.exit_code, exported.exit_code) == (0, 0), imported.output + exported.output
    assert json.loads(exported.stdout) == WEATHER
    assert json.loads(healthy.stdout)["cache"] == "up"
    assert not _processes_of(folder)


def test_the_demo_shows_a_miss_and_a_hit_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = CommandLine({"COLUMNS": "80", "TMPDIR": str(tmp_path)}).start("demo", stdout=subprocess.PIPE)
    stdout, stderr = process.communicate()

    shown = stdout.decode()
    assert process.returncode == 0, stderr.decode()
    assert shown.index(" ms  miss: ") < shown.index(" ms  hit: ")
    assert "demo-repair" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []
    assert not _processes_of(tmp_path)


def test_the_demo_runs_on_named_servers_and_without_a_cache(unmigrated: CommandLine) -> None:
    named = unmigrated.with_variables(PERSISTENCE_REDIS_URL="", PERSISTENCE_DB_SCHEMA="shop")

    first, second = named("demo"), named("demo")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert "no cache: PERSISTENCE_REDIS_URL is not set" in first.stdout
    assert named.sql("SELECT FROM threads WHERE user_id = 'demo'") == [()] * 6


@pytest.mark.parametrize(
    "moment", [b"both accept connections", b"at revision"], ids=["its servers run", "its event loop runs"]
)
def test_a_terminated_demo_leaves_nothing_behind(tmp_path: Path, moment: bytes) -> None:
    process = CommandLine({"TMPDIR": str(tmp_path)}).start("demo", stdout=subprocess.PIPE)
    assert process.stdout is not None
    while moment not in process.stdout.readline():
        pass

    process.send_signal(signal.SIGTERM)
    process.communicate()

    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []
    assert not _processes_of(tmp_path)


def _processes_of(folder: Path) -> list[str]:
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "args"],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [line for line in listed.splitlines() if str(folder) in line]
