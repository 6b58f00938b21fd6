from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from contract.valkey_cluster import valkey_cluster
from redis.asyncio import Redis
from sqlalchemy import text

from agent_persistence.cache.register import StateRegister
from agent_persistence.cli import checkup_sweeper
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.operations.purging import Purging
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from command_line import CommandLine


def test_all_is_well_after_an_upgrade(command_line: CommandLine) -> None:
    result = command_line("doctor", "--json")

    assert result.exit_code == 0
    assert set(_levels(result.stdout).values()) == {"OK"}
    assert {"versions", "database", "schema", "id_type", "user_id_type", "indexes", "cache"} <= set(
        _levels(result.stdout)
    )


def test_people_get_a_line_for_each_finding(command_line: CommandLine) -> None:
    result = command_line("doctor")

    assert result.exit_code == 0
    assert "PostgreSQL" in result.stdout
    assert "Valkey" in result.stdout


def test_an_empty_database_is_to_be_upgraded(unmigrated: CommandLine) -> None:
    result = unmigrated("doctor", "--json")

    assert result.exit_code == 1
    assert _remedies(result.stdout) == ["agent-persistence upgrade"]


def test_a_database_of_a_later_version_is_a_warning(command_line: CommandLine) -> None:
    command_line.sql("UPDATE schema_migrations SET version_num = 'ap9999'")

    result = command_line("doctor", "--json")

    assert result.exit_code == 0
    assert _levels(result.stdout)["schema"] == "WARN"


def test_other_id_types_fail_and_the_remedy_names_the_recorded_one(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_ID_TYPE="uuid")("doctor", "--json")

    assert result.exit_code == 1
    assert _remedies(result.stdout) == ["export PERSISTENCE_ID_TYPE=string"]


async def put_states(settings: PersistenceSettings, count: int) -> None:
    async with Persistence[str, str](settings) as store:
        thread = await store.threads.create(user_id="ann")
        for number in range(count):
            await store.states.put(thread.thread_id, number, user_id="ann")


async def purge_once(settings: PersistenceSettings) -> None:
    async with Persistence[str, str](settings) as store:
        await Purging(store._transactions, keep_last=2, interval=60).purge_in_turn()  # noqa: SLF001 - as a store makes it


def test_the_purge_is_seen_with_what_it_removed_and_what_is_due(command_line: CommandLine) -> None:
    limited = command_line.with_variables(
        PERSISTENCE_MAX_CHECKPOINT_HISTORY="2", PERSISTENCE_CHECKPOINT_CLEANUP_INTERVAL="60"
    )
    settings = PersistenceSettings(
        _env_file=None,
        database_url=command_line.variables["PERSISTENCE_DATABASE_URL"],
        db_schema=command_line.variables["PERSISTENCE_DB_SCHEMA"],
    )
    asyncio.run(put_states(settings, 5))

    off = _finding(command_line("doctor", "--json").stdout, "purge")
    before = _finding(limited("doctor", "--json").stdout, "purge")
    asyncio.run(purge_once(settings))
    after = _finding(limited("doctor", "--json").stdout, "purge")
    command_line.sql("UPDATE persistence_jobs SET finished_at = now() - interval '1 hour'")
    late = _finding(limited("doctor", "--json").stdout, "purge")

    assert (off["level"], off["detail"]) == ("OK", "off: PERSISTENCE_CHECKPOINT_CLEANUP_INTERVAL is 0")
    assert (before["level"], before["detail"]) == ("OK", "has not run yet; 3 old states are due")
    assert after["level"] == "OK"
    assert re.fullmatch(r"last ended \d+ s ago, and removed 3 states; 0 old states are due", after["detail"])
    assert late["level"] == "WARN"


@pytest.mark.parametrize(
    ("name", "value", "due"),
    [
        ("_COUNTED", 2, "more than 2 old states are due"),
        # As the server ends a count that takes too long.
        ("_TIME_TO_COUNT", text("DO 'BEGIN RAISE query_canceled; END'"), "an unknown number of old states are due"),
    ],
)
def test_a_count_of_old_states_that_would_take_long_is_given_up(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, due: str
) -> None:
    command_line.sql("INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')")
    command_line.sql("INSERT INTO states (thread_id, state_data) SELECT 't', '1' FROM generate_series(1, 5)")
    command_line.sql("INSERT INTO state_streams (thread_id, created_at) VALUES ('t', now() - interval '2 days')")
    monkeypatch.setattr(checkup_sweeper, name, value)

    result = command_line.with_variables(PERSISTENCE_MAX_CHECKPOINT_HISTORY="2")("doctor", "--json")

    assert _finding(result.stdout, "purge")["detail"].split("; ")[1:] == [due, "1 abandoned streams are due"]


def test_an_abandoned_stream_is_seen_where_nobody_purges(command_line: CommandLine) -> None:
    command_line.sql("INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')")
    command_line.sql("INSERT INTO state_streams (thread_id, created_at) VALUES ('t', now() - interval '2 days')")

    found = _finding(command_line("doctor", "--json").stdout, "purge")

    assert (found["level"], found["detail"].split("; ")[-1]) == ("WARN", "1 abandoned streams are due")


def _finding(stdout: str, subject: str) -> dict[str, Any]:
    [found] = [finding for finding in json.loads(stdout)["findings"] if finding["subject"] == subject]
    return dict(found)


@pytest.mark.parametrize(
    "loss", ["DROP INDEX ix_threads_user_id_updated_at", "ALTER TABLE messages DROP CONSTRAINT pk_messages"]
)
def test_a_lost_index_fails_until_the_remedy_was_run(command_line: CommandLine, loss: str) -> None:
    command_line.sql(loss)

    before = command_line("doctor", "--json")
    [remedy] = [remedy for remedy in _remedies(before.stdout) if remedy.startswith("psql: ")]
    command_line.sql(remedy.removeprefix("psql: "))
    after = command_line("doctor", "--json")

    assert before.exit_code == 1
    assert not [remedy for remedy in _remedies(after.stdout) if remedy.startswith("psql: ")]


def test_an_unfinished_index_fails(command_line: CommandLine) -> None:
    command_line.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_messages_thread_id_seq'::regclass")

    result = command_line("doctor", "--json")

    assert result.exit_code == 1
    schema = command_line.variables["PERSISTENCE_DB_SCHEMA"]
    assert f'DROP INDEX CONCURRENTLY "{schema}"."ix_messages_thread_id_seq"' in _remedies(result.stdout)[0]


@pytest.mark.parametrize(
    ("subject", "loss", "named"),
    [
        ("constraints", "ALTER TABLE messages DROP CONSTRAINT fk_messages_thread_id_threads", "fk_messages_thread_id"),
        ("constraints", "ALTER TABLE states DROP CONSTRAINT ck_states_whole_or_patch", "ck_states_whole_or_patch"),
        ("triggers", "ALTER TABLE states DISABLE TRIGGER USER", "refuse_change_of_base"),
        ("triggers", "ALTER TABLE messages DISABLE TRIGGER ALL", "those of its foreign keys"),
        ("triggers", "DROP TRIGGER refuse_change_of_base ON states", "refuse_change_of_base"),
        ("collations", 'ALTER TABLE threads ALTER user_id TYPE varchar(255) COLLATE "default"', "threads.user_id"),
    ],
)
def test_what_keeps_rows_right_is_missed_until_the_remedy_was_run(
    command_line: CommandLine, subject: str, loss: str, named: str
) -> None:
    command_line.sql(loss)

    before = _finding(command_line("doctor", "--json").stdout, subject)
    command_line.sql(before["remedy"].partition(": ")[2])
    after = _finding(command_line("doctor", "--json").stdout, subject)

    assert before["level"] == ("WARN" if subject == "collations" else "FAIL")
    assert named in before["detail"]
    assert after["level"] == "OK"


def test_a_constraint_that_rows_may_violate_fails(command_line: CommandLine) -> None:
    command_line.sql("UPDATE pg_constraint SET convalidated = false WHERE conname = 'fk_messages_thread_id_threads'")

    found = _finding(command_line("doctor", "--json").stdout, "constraints")

    assert (found["level"], "not valid" in found["detail"]) == ("FAIL", True)


def test_owners_that_differ_by_case_only_must_not_be_one(command_line: CommandLine) -> None:
    command_line.sql("CREATE COLLATION any_case (locale = 'C')")
    command_line.sql("ALTER TABLE threads ALTER user_id TYPE varchar(255) COLLATE any_case")
    # As one of ICU is, which PostgreSQL from a wheel does not have.
    command_line.sql("UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'any_case'")

    found = _finding(command_line("doctor", "--json").stdout, "collations")

    assert (found["level"], "different ids are equal" in found["detail"]) == ("FAIL", True)


def test_a_sequence_that_is_behind_fails_until_the_remedy_was_run(command_line: CommandLine) -> None:
    command_line.sql("INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')")
    command_line.sql("INSERT INTO states (thread_id, state_data) VALUES ('t', '1'), ('t', '2')")
    command_line.sql("ALTER TABLE states ALTER COLUMN state_id RESTART")

    before = command_line("doctor", "--json")
    # Of this finding: a machine under load has others, of its slow cache.
    remedy = _finding(before.stdout, "sequences")["remedy"]
    command_line.sql(remedy.partition("psql: ")[2])
    after = command_line("doctor", "--json")

    assert (before.exit_code, _finding(before.stdout, "sequences")["level"]) == (1, "FAIL")
    assert _finding(after.stdout, "sequences")["level"] == "OK"


def test_a_sequence_that_hands_out_numbers_ahead_fails_as_it_does_when_a_store_opens(command_line: CommandLine) -> None:
    command_line.sql("ALTER SEQUENCE messages_seq_seq CACHE 5")

    result = command_line("doctor", "--json")

    assert result.exit_code == 1
    assert "messages_seq_seq CACHE 1;" in result.stdout
    assert command_line("check").exit_code == 1


def test_a_cache_that_is_not_configured_is_no_fault(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_REDIS_URL="")("doctor", "--json")

    assert result.exit_code == 0
    assert "PERSISTENCE_REDIS_URL is not set" in _details(result.stdout)["cache"]


def test_a_cache_that_does_not_answer_fails(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_REDIS_URL="redis://127.0.0.1:1")("doctor", "--json")

    assert result.exit_code == 1
    assert _levels(result.stdout)["cache"] == "FAIL"


def test_a_cache_that_refuses_writes_when_it_is_full_is_a_warning(
    command_line: CommandLine, servers: EmbeddedServers
) -> None:
    _redis(servers, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    try:
        result = command_line("doctor", "--json")
    finally:
        _redis(servers, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    assert result.exit_code == 0
    assert _levels(result.stdout)["cache memory"] == "WARN"
    assert _remedies(result.stdout) == ["redis-cli CONFIG SET maxmemory-policy allkeys-lru"]


def test_a_cache_user_without_the_right_to_look_is_a_warning(
    command_line: CommandLine, servers: EmbeddedServers
) -> None:
    _redis(servers, "ACL", "SETUSER", "plain", "on", ">secret", "~*", "+@all", "-info")
    url = servers.redis_url.replace("unix://", "unix://plain:secret@")

    result = command_line.with_variables(PERSISTENCE_REDIS_URL=url)("doctor", "--json")

    assert _levels(result.stdout)["cache memory"] == "WARN"
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("rights", "lacking"),
    [
        (["~other:*", "+@all"], "key"),
        (["~*", "+@all", "-eval"], "eval"),
        (["~*", "+@all", "-evalsha"], "evalsha"),
        (["~*", "+@all", "-getrange"], "getrange"),
        (["~*", "+@all", "-mget"], "mget"),
        (["~*", "+@all", "-set"], "set"),
        (["~*", "+@all", "-scan"], "scan"),
    ],
)
def test_a_cache_user_who_lacks_a_right_of_the_cache_fails(
    command_line: CommandLine, servers: EmbeddedServers, rights: list[str], lacking: str
) -> None:
    _redis(servers, "ACL", "SETUSER", "lacking", "reset", "on", ">secret", *rights)
    url = servers.redis_url.replace("unix://", "unix://lacking:secret@")

    result = command_line.with_variables(PERSISTENCE_REDIS_URL=url)("doctor", "--json")

    assert result.exit_code == 1
    assert lacking in _details(result.stdout)["cache"]
    assert "ACL SETUSER" in _remedies(result.stdout)[0]
    assert "secret" not in result.output


def test_a_replica_fails(command_line: CommandLine, servers: EmbeddedServers) -> None:
    _redis(servers, "REPLICAOF", "127.0.0.1", "1")
    try:
        result = command_line("doctor", "--json")
    finally:
        _redis(servers, "REPLICAOF", "NO", "ONE")

    assert result.exit_code == 1
    assert "is a replica" in _details(result.stdout)["cache"]
    assert "address of the primary" in _remedies(result.stdout)[0]


def test_a_node_of_a_cluster_fails(command_line: CommandLine, tmp_path: Path) -> None:
    with valkey_cluster(tmp_path) as port:
        result = command_line.with_variables(PERSISTENCE_REDIS_URL=f"redis://127.0.0.1:{port}")("doctor", "--json")

    assert result.exit_code == 1
    assert "Redis Cluster" in _details(result.stdout)["cache"]


def test_a_variable_that_nobody_reads_is_a_warning(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_POOLSIZE="5")("doctor", "--json")

    assert result.exit_code == 0
    assert _details(result.stdout)["settings"] == "PERSISTENCE_POOLSIZE is not read"
    assert _remedies(result.stdout) == ["rename it to PERSISTENCE_POOL_SIZE"]


def test_a_variable_of_the_env_file_that_nobody_reads_is_a_warning(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PERSISTENCE_REDIS=redis://cache\nOTHERS=1\n", encoding="utf-8")

    result = command_line("doctor", "--json")

    assert _details(result.stdout)["settings"] == "PERSISTENCE_REDIS is not read"


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_database_url_beside_none_of_ours_is_named(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == ".env":
        (tmp_path / ".env").write_text("DATABASE_URL=postgresql://u:hunter2@db/x\n", encoding="utf-8")
    else:
        monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@db/x")

    result = CommandLine({"PERSISTENCE_EMBEDDED_DIR": str(tmp_path / "servers")})("doctor", "--json")

    assert result.exit_code == 2
    assert "DATABASE_URL is set, and not read here" in _details(result.stdout)["database"]
    assert "address of the database" in _remedies(result.stdout)[0]
    assert "hunter2" not in result.output
    assert not (tmp_path / "servers").exists()


def test_a_redis_url_beside_none_of_ours_is_named(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_REDIS_URL="", REDIS_URL="redis://cache")("doctor", "--json")

    assert "REDIS_URL is set, and not read here" in _details(result.stdout)["cache"]


def test_no_key_of_the_doctor_stays_for_long(command_line: CommandLine, servers: EmbeddedServers) -> None:
    command_line("doctor")

    left = _redis(servers, "KEYS", f"{command_line.variables['PERSISTENCE_CACHE_NAMESPACE']}:*")
    assert all(0 < _redis(servers, "PTTL", key) <= 10_000 for key in left)


def test_cached_states_that_somebody_changed_behind_the_cache_fail(command_line: CommandLine) -> None:
    asyncio.run(_save_a_state(command_line))
    before = command_line("doctor", "--json")
    command_line.sql("UPDATE threads SET user_id = 'somebody else'")

    after = command_line.with_variables(PERSISTENCE_CACHE_SWEEP_INTERVAL="0.05")("doctor", "--json")

    assert (before.exit_code, after.exit_code) == (0, 1)
    assert _details(before.stdout)["cache values"] == "1 are what the database holds"
    assert _levels(after.stdout)["cache values"] == "FAIL"
    assert "PERSISTENCE_CACHE_NAMESPACE" in _remedies(after.stdout)[0]


def test_damaged_values_are_a_warning(command_line: CommandLine, servers: EmbeddedServers) -> None:
    asyncio.run(_save_a_state(command_line))
    [key] = _redis(servers, "KEYS", f"{command_line.variables['PERSISTENCE_CACHE_NAMESPACE']}:*")
    _redis(servers, "SET", key, "V")

    result = command_line("doctor", "--json")

    assert result.exit_code == 0
    assert _levels(result.stdout)["cache values"] == "WARN"


def test_a_slow_cache_is_a_warning(command_line: CommandLine) -> None:
    result = command_line.with_variables(PERSISTENCE_CACHE_TIMEOUT_MS="1")("doctor", "--json")

    (speed,) = [finding for finding in _findings(result.stdout) if finding["subject"] == "cache"]
    took_ms = float(speed["detail"].removeprefix("answers in ").partition(" ms")[0])
    assert took_ms == 1.0 or speed["level"] == ("WARN" if took_ms > 1 else "OK")  # 1.0 is a rounded number


def test_cached_states_are_compared_however_slow_the_cache_is(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_save_a_state(command_line))
    heads = StateRegister.heads

    async def late(register: StateRegister, keys: Sequence[bytes]) -> list[bytes]:
        await asyncio.sleep(0.02)
        return await heads(register, keys)

    monkeypatch.setattr(StateRegister, "heads", late)
    limited = {"PERSISTENCE_CACHE_TIMEOUT_MS": "5", "PERSISTENCE_CACHE_BUDGET_MS": "5"}
    result = command_line.with_variables(**limited)("doctor", "--json")

    assert _levels(result.stdout)["cache"] == "WARN"
    assert _details(result.stdout)["cache values"] == "1 are what the database holds"


def test_an_unreachable_database_fails_with_its_reason_and_without_its_password(command_line: CommandLine) -> None:
    unreachable = command_line.with_variables(PERSISTENCE_DATABASE_URL="postgresql://u:secret@127.0.0.1:1/x")

    result = unreachable("doctor", "--json")

    assert result.exit_code == 3
    assert "postgresql://u:***@127.0.0.1:1/x" in _details(result.stdout)["database"]
    assert "secret" not in result.output


async def _save_a_state(command_line: CommandLine) -> None:
    values: dict[str, Any] = {
        name.removeprefix("PERSISTENCE_").lower(): value for name, value in command_line.variables.items()
    }
    async with Persistence[str, str](PersistenceSettings(_env_file=None, **values)) as store:
        thread = await store.threads.create(user_id="ada")
        await store.states.put(thread.thread_id, 1, user_id="ada")


def _findings(stdout: str) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = json.loads(stdout)["findings"]
    return findings


def _levels(stdout: str) -> dict[str, str]:
    return {finding["subject"]: finding["level"] for finding in _findings(stdout)}


def _details(stdout: str) -> dict[str, str]:
    return {finding["subject"]: finding["detail"] for finding in _findings(stdout)}


def _remedies(stdout: str) -> list[str]:
    return [finding["remedy"] for finding in _findings(stdout) if finding["remedy"]]


def _redis(servers: EmbeddedServers, *command: str) -> Any:
    async def execute() -> Any:
        async with Redis.from_url(servers.redis_url) as redis:
            return await redis.execute_command(*command)

    return asyncio.run(execute())
