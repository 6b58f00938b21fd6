"""The PERSISTENCE_* variables: what is read, what is refused."""

import os
import re
import traceback
import uuid
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import parse_url

from agent_persistence.errors import SettingsError
from agent_persistence.ids import BIGINT, STRING, IdTypes
from agent_persistence.settings import PersistenceSettings

ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"
DATABASE = "postgresql://user:hunter2@db.example:5433/agents"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable, no .env: an empty working directory, which is returned."""
    for name in [name for name in os.environ if name.upper().startswith("PERSISTENCE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(**values: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        PersistenceSettings(**values)
    return caught.value


def new_id() -> str:
    return "made here"


not_callable = "made nowhere"


# --- reading ---


def test_nothing_set_means_the_defaults() -> None:
    settings = PersistenceSettings()

    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.database is None
    assert settings.migration_database is None
    assert settings.id_types == IdTypes(STRING, STRING)
    assert settings.pool_size == 10
    assert settings.max_json_bytes == 16 * 2**20
    assert settings.auto_migrate is False


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_DATABASE_URL", DATABASE)
    monkeypatch.setenv("PERSISTENCE_ID_TYPE", "bigint")
    monkeypatch.setenv("PERSISTENCE_PGBOUNCER", "true")
    monkeypatch.setenv("PERSISTENCE_EMBEDDED_DIR", "servers")

    settings = PersistenceSettings()

    assert settings.database is not None
    assert settings.database.password == "hunter2"
    assert settings.id_types == IdTypes(BIGINT, STRING)
    assert settings.pgbouncer is True
    assert settings.embedded_dir == Path("servers")


def test_a_dotenv_file_of_the_working_directory_is_read(nothing_set: Path) -> None:
    (nothing_set / ".env").write_text("PERSISTENCE_POOL_SIZE=3\nPERSISTENCE_NO_FIELD=1\nOTHER=2\n", encoding="utf-8")

    assert PersistenceSettings().pool_size == 3
    assert PersistenceSettings(_env_file=None).pool_size == 10


def test_a_keyword_wins_over_the_environment_and_that_over_dotenv(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nothing_set / ".env").write_text("PERSISTENCE_POOL_SIZE=3\nPERSISTENCE_MAX_OVERFLOW=3\n", encoding="utf-8")
    monkeypatch.setenv("PERSISTENCE_MAX_OVERFLOW", "4")
    monkeypatch.setenv("PERSISTENCE_CACHE_TTL_SECONDS", "4")

    settings = PersistenceSettings(cache_ttl_seconds=5)

    assert (settings.pool_size, settings.max_overflow, settings.cache_ttl_seconds) == (3, 4, 5)


@pytest.mark.parametrize(
    "field",
    [
        "database_url",
        "redis_url",
        "migration_database_url",
        "db_schema",
        "id_generator",
        "embedded_dir",
        "dynamodb_endpoint_url",
        "dynamodb_region",
    ],
)
def test_an_empty_variable_of_an_optional_field_is_unset(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"PERSISTENCE_{field.upper()}", "")

    assert PersistenceSettings() == PersistenceSettings(_env_file=None)
    assert getattr(PersistenceSettings(), field) is None


@pytest.mark.parametrize("field", ["id_type", "pool_size", "version_table", "cache_namespace", "pgbouncer", "sanitize"])
def test_an_empty_variable_of_any_other_field_is_refused(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"PERSISTENCE_{field.upper()}", "")

    assert refusal().variable == f"PERSISTENCE_{field.upper()}"


@pytest.mark.parametrize("field", ["database_url", "redis_url", "db_schema", "embedded_dir", "version_table"])
def test_an_empty_argument_is_refused(field: str) -> None:
    assert refusal(**{field: ""}).variable == f"PERSISTENCE_{field.upper()}"


def test_a_misspelt_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="databse_url"):
        PersistenceSettings(databse_url=DATABASE)


def test_a_misspelt_argument_of_pydantic_is_refused_as_well() -> None:
    with pytest.raises(TypeError, match="'_env_fil'; did you mean '_env_file'"):
        PersistenceSettings(_env_fil=None)
    with pytest.raises(TypeError, match="did you mean 'pool_size'"):
        PersistenceSettings(POOL_SIZ=3)


def test_a_copy_with_a_misspelt_field_is_refused() -> None:
    with pytest.raises(TypeError, match="did you mean 'pool_size'"):
        PersistenceSettings(_env_file=None).model_copy(update={"pool_sze": 3})


# --- addresses ---


def test_migrations_use_the_address_of_the_database_unless_they_have_their_own() -> None:
    shared = PersistenceSettings(database_url=DATABASE)
    direct = PersistenceSettings(database_url=DATABASE, migration_database_url="postgresql://owner@direct/agents")

    assert shared.migration_database == shared.database
    assert direct.migration_database is not None
    assert direct.migration_database.hosts[0].name == "direct"


def test_an_embedded_database_has_no_address_yet() -> None:
    settings = PersistenceSettings(database_url="embedded", redis_url="embedded")

    assert settings.database is None
    assert settings.migration_database is None


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://localhost", None),
        ("redis://:6379/", None),
        ("rediss://user:p%40ss@cache.example:6380/3", 3),
        ("redis://[::1]:6379/0", 0),
        ("redis://h?db=4", 4),
        ("unix:///run/redis.sock?db=2", 2),
        ("unix://user:pass@/run/redis.sock", None),
    ],
)
def test_a_redis_address_means_to_us_what_it_means_to_the_client(url: str, database: int | None) -> None:
    settings = PersistenceSettings(redis_url=url)

    assert settings.redis_url is not None
    assert parse_url(settings.redis_url.get_secret_value()).get("db") == database


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h/abc", "database after the address must be a whole number"),
        ("redis://h/1/2", "database after the address must be a whole number"),
        ("redis://h?db=x", "database after the address must be a whole number"),
        ("redis://h:x/0", "port must be a whole number"),
        ("redis://h1:1,h2:2/0", "one server"),
        ("redis://:a@b@h/0", "percent-encode"),
        ("redis://:a/b@h/0", "percent-encode"),
        ("redis://:a#b@h/0", "percent-encode"),
        ("memcached://h", "redis://, rediss://, unix://"),
        ("localhost:6379", "redis://, rediss://, unix://"),
        ("unix://", "file of the socket"),
        ("unix://run/redis.sock", "file of the socket"),
    ],
)
def test_a_wrong_redis_address_is_refused_by_name(url: str, said: str) -> None:
    error = refusal(redis_url=url)

    assert error.variable == "PERSISTENCE_REDIS_URL"
    assert said in error.reason


# --- secrets ---


@pytest.mark.parametrize("field", ["database_url", "migration_database_url"])
@pytest.mark.parametrize("url", [DATABASE + "?no=1", "mysql://u:hunter2@db/d", "postgresql://u:hunter2@db:x/d"])
def test_a_refused_database_address_is_nowhere_in_the_error(field: str, url: str) -> None:
    error = refusal(**{field: url})

    assert error.variable == f"PERSISTENCE_{field.upper()}"
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception_only(error)) + repr(error)


def test_a_refused_redis_address_is_nowhere_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_REDIS_URL", "redis://:hunter2@h/abc")

    error = refusal()

    assert error.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("field", ["database_url", "redis_url", "migration_database_url"])
def test_a_secret_of_the_wrong_type_is_not_shown_either(field: str) -> None:
    assert "hunter2" not in str(refusal(**{field: [DATABASE]}))


def test_printed_settings_hide_every_secret() -> None:
    settings = PersistenceSettings(
        database_url=DATABASE, redis_url="redis://:hunter2@h/0", migration_database_url=DATABASE
    )

    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_do_not_change_and_do_not_say_what_they_were_to_become() -> None:
    settings = PersistenceSettings()

    with pytest.raises(AttributeError, match="database_url") as caught:
        settings.database_url = DATABASE  # type: ignore[assignment]  # the mistake under test

    assert "hunter2" not in str(caught.value)
    assert settings.database_url is None


# --- refusals ---


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("id_type", "guid", "'string', 'int', 'bigint' or 'uuid'"),
        ("user_id_type", "guid", "'string', 'int', 'bigint' or 'uuid'"),
        ("pool_size", 0, "greater than 0"),
        ("pool_size", "many", "integer"),
        ("max_overflow", -1, "greater than or equal to 0"),
        ("pool_timeout", 0, "greater than or equal to 0.001"),
        ("pool_recycle", 0, "greater than 0"),
        ("connect_timeout", 0, "greater than or equal to 0.001"),
        ("statement_timeout", 0.0001, "greater than or equal to 0.001"),
        ("lock_timeout", float("inf"), "finite"),
        ("idle_in_transaction_timeout", -1, "greater than or equal to 0.001"),
        ("transaction_timeout", 9, "below 9 seconds"),
        ("pgbouncer", "perhaps", "boolean"),
        ("cache_ttl_seconds", 0, "greater than 0"),
        ("cache_timeout_ms", 0, "greater than 0"),
        ("cache_budget_ms", 24, "at least PERSISTENCE_CACHE_TIMEOUT_MS, which is 25"),
        ("cache_namespace", "two words", "without spaces"),
        ("cache_namespace", "a\x00b", "control characters"),
        ("namespace", "two words", "1 to 64 letters"),
        ("checkpoint_ttl_seconds", -1, "greater than or equal to 0"),
        ("checkpoint_ttl_seconds", 0.0001, "0, or between 0.001 and 3153600000"),
        ("checkpoint_ttl_seconds", 1e12, "0, or between 0.001 and 3153600000"),
        ("dynamodb_table", "a table", "3 to 255 letters"),
        ("dynamodb_endpoint_url", "localhost:5000", "must start with http://, https://"),
        ("max_checkpoint_history", -1, "greater than or equal to 0"),
        ("checkpoint_cleanup_interval", -1, "greater than or equal to 0"),
        ("checkpointer_cleanup_timeout", 0, "greater than or equal to 0.001"),
        ("thread_touch_interval", -1, "greater than or equal to 0"),
        ("max_json_bytes", 0, "greater than 0"),
        ("sanitize", "ignore", "'refuse' or 'replace'"),
        ("migration_database_url", "embedded", "must start with postgresql://"),
        ("migration_lock_timeout", -1, "greater than or equal to 0"),
        ("migration_ddl_lock_timeout_ms", 0, "greater than 0"),
        ("sql_log_level", "debug", "'INFO', 'WARNING' or 'ERROR'"),
        ("db_schema", "pg_agents", "must not start with a digit or pg_"),
        ("db_schema", "PG_agents", "must not start with a digit or pg_"),
        ("db_schema", "1st", "must not start with a digit or pg_"),
        ("db_schema", 'a";drop', "letters, digits and '_'"),
        ("db_schema", "agents\n", "letters, digits and '_'"),
        ("db_schema", "a" * 64, "1 to 63"),
        ("version_table", "alembic version", "letters, digits and '_'"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(field: str, value: object, said: str) -> None:
    error = refusal(**{field: value})

    assert error.variable == f"PERSISTENCE_{field.upper()}"
    assert said in error.reason
    assert str(error).startswith(f"PERSISTENCE_{field.upper()}: ")


def test_a_refused_value_that_is_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSISTENCE_POOL_SIZE", "ten")

    assert "'ten'" in refusal().reason


def test_the_longest_schema_name_and_the_longest_transaction_are_taken() -> None:
    settings = PersistenceSettings(db_schema="a" * 63, transaction_timeout=8.999)

    assert settings.db_schema == "a" * 63
    assert settings.transaction_timeout == 8.999


# --- ids ---


@pytest.mark.parametrize(("id_type", "made"), [("string", str), ("uuid", uuid.UUID)])
@pytest.mark.parametrize(("generator", "version"), [(None, 7), ("uuid7", 7), ("uuid4", 4)])
def test_strings_and_uuids_are_made_here(id_type: str, made: type, generator: str | None, version: int) -> None:
    make = PersistenceSettings(id_type=id_type, id_generator=generator).id_maker()

    assert make is not None
    value = make()
    assert type(value) is made
    assert uuid.UUID(str(value)).version == version


@pytest.mark.parametrize("id_type", ["int", "bigint"])
@pytest.mark.parametrize("generator", [None, "database"])
def test_numbers_are_made_by_the_database(id_type: str, generator: str | None) -> None:
    assert PersistenceSettings(id_type=id_type, id_generator=generator).id_maker() is None


@pytest.mark.parametrize("separator", [":", "."])
@pytest.mark.parametrize("id_type", ["string", "bigint"])
def test_a_callable_of_the_host_makes_ids_of_any_type(separator: str, id_type: str) -> None:
    make = PersistenceSettings(id_type=id_type, id_generator=f"{__name__}{separator}new_id").id_maker()

    assert make is new_id


@pytest.mark.parametrize(
    ("id_type", "generator", "said"),
    [
        ("string", "database", "the database makes no ids of type string"),
        ("uuid", "database", "the database makes no ids of type uuid"),
        ("int", "uuid7", "uuid7 makes no ids of type int"),
        ("bigint", "uuid4", "uuid4 makes no ids of type bigint"),
        ("string", "snowflake", "must be database, uuid7, uuid4, or a callable such as myapp.ids:new_id"),
        ("string", "no_such_package.ids:new_id", "No module named 'no_such_package'"),
        ("string", f"{__name__}:no_such_name", "no_such_name"),
        ("string", f"{__name__}:not_callable", "is not callable"),
        ("string", "not a path:x", "cannot be imported"),
    ],
)
def test_a_generator_that_cannot_make_such_ids_is_refused(id_type: str, generator: str, said: str) -> None:
    error = refusal(id_type=id_type, id_generator=generator)

    assert error.variable == "PERSISTENCE_ID_GENERATOR"
    assert said in error.reason


def test_a_generator_whose_module_fails_is_refused_without_the_text_of_its_error(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nothing_set / "host_ids.py").write_text("raise RuntimeError('hunter2')", encoding="utf-8")
    monkeypatch.syspath_prepend(nothing_set)

    error = refusal(id_generator="host_ids:new_id")

    assert error.variable == "PERSISTENCE_ID_GENERATOR"
    assert "RuntimeError" in error.reason
    assert "hunter2" not in error.reason


# --- .env.example ---


def test_the_example_names_exactly_the_variables_each_with_a_reason() -> None:
    found = re.findall(r"^# (?!-).+\n#?PERSISTENCE_(\w+)=", ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(found) == sorted(name.upper() for name in PersistenceSettings.model_fields)


def test_the_example_loads_as_the_defaults() -> None:
    assert PersistenceSettings(_env_file=ENV_EXAMPLE) == PersistenceSettings(_env_file=None)


def test_the_example_leaves_out_what_is_unset_only() -> None:
    unset = re.findall(r"^#PERSISTENCE_(\w+)=", ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)

    assert set(unset) == {
        name.upper() for name, field in PersistenceSettings.model_fields.items() if field.default is None
    }


def test_the_examples_of_unset_variables_are_taken() -> None:
    text = ENV_EXAMPLE.read_text(encoding="utf-8").replace("#PERSISTENCE_ID_GENERATOR", "# ")
    Path(".env").write_text(text.replace("#PERSISTENCE", "PERSISTENCE"), encoding="utf-8")

    settings = PersistenceSettings()

    assert settings.database is not None
    assert settings.redis_url is not None
    assert settings.db_schema == "agents"
