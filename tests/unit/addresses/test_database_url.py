"""PostgreSQL addresses, as people write them."""

import inspect
import itertools
import traceback
from typing import Any

import pytest
from asyncpg import connect_utils  # type: ignore[import-untyped]  # asyncpg ships no types
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.errors import SettingsError

VARIABLE = "PERSISTENCE_DATABASE_URL"


def parse(text: str) -> DatabaseUrl:
    return DatabaseUrl.parse(text, VARIABLE)


def refusal(text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    return caught.value


def driver_keywords(text: str) -> dict[str, Any]:
    """What an engine of this address would call ``asyncpg.connect`` with."""
    url = parse(text)
    _, keywords = PGDialect_asyncpg().create_connect_args(url.sqlalchemy_url)  # type: ignore[no-untyped-call]  # theirs
    return {**keywords, **url.connect_args}


def connection(text: str) -> tuple[list[Any], Any]:
    """The addresses and parameters that asyncpg makes of these keywords."""
    parse_arguments = connect_utils._parse_connect_dsn_and_args  # noqa: SLF001  # what connect() calls before any I/O
    keywords = {**dict.fromkeys(inspect.signature(parse_arguments).parameters), **driver_keywords(text)}
    addresses, parameters = parse_arguments(**keywords)
    return addresses, parameters


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_postgresql_scheme_means_asyncpg(scheme: str) -> None:
    url = parse(f"{scheme}://user:secret@db.example:5433/agents")

    assert url.sqlalchemy_url == make_url("postgresql+asyncpg://user:secret@db.example:5433/agents")
    assert url.connect_args == {}


def test_percent_encoded_parts_are_decoded() -> None:
    keywords = driver_keywords("postgresql://us%40er:p%40%2F%3F%23%25%3A+%C3%A4@db/a%2Fb")

    assert keywords["user"] == "us@er"
    assert keywords["password"] == "p@/?#%:+ä"
    assert keywords["database"] == "a/b"


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("postgresql://u@db/d", [("db", 5432)]),
        ("postgresql://u@db:6000/d", [("db", 6000)]),
        ("postgresql://u@[::1]/d", [("::1", 5432)]),
        ("postgresql://u@[::1]:6000/d", [("::1", 6000)]),
        ("postgresql://u@/d?host=db&port=6000", [("db", 6000)]),
        ("postgresql://u@/d?host=db:6000", [("db", 6000)]),
        ("postgresql://u@h1:6001,h2:6002/d", [("h1", 6001), ("h2", 6002)]),
        ("postgresql://u@h1,h2:6002/d", [("h1", 5432), ("h2", 6002)]),
        ("postgresql://u@h1:6001,[::1]:6002/d", [("h1", 6001), ("::1", 6002)]),
        ("postgresql://u@/d?host=h1:6001&host=h2:6002", [("h1", 6001), ("h2", 6002)]),
        ("postgresql://u@/d?host=h1:6001&host=[::1]:6002", [("h1", 6001), ("::1", 6002)]),
        ("postgresql://u@/d?host=h1,h2&port=6001,6002", [("h1", 6001), ("h2", 6002)]),
        ("postgresql://u@/d?host=h1,h2&port=6001", [("h1", 6001), ("h2", 6001)]),
        ("postgresql://u@/d?host=/run/postgresql", ["/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://u@%2Frun%2Fpostgresql/d", ["/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://u@%2Frun%2Fpostgresql:6000/d", ["/run/postgresql/.s.PGSQL.6000"]),
        ("postgresql://u@:6000/d?host=/run/postgresql", ["/run/postgresql/.s.PGSQL.6000"]),
        ("postgresql://u@localhost/d?host=/run/project:region:name", ["/run/project:region:name/.s.PGSQL.5432"]),
        ("postgresql://u@/d?host=/run/a:6001&host=h2", ["/run/a/.s.PGSQL.6001", ("h2", 5432)]),
    ],
)
def test_every_way_to_write_hosts_reaches_the_driver(
    text: str, addresses: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPORT", raising=False)

    found, _ = connection(text)

    assert found == addresses


def test_what_the_address_leaves_out_is_left_to_the_driver() -> None:
    assert driver_keywords("postgresql://") == {}


def test_libpq_parameters_become_keywords_of_the_driver() -> None:
    url = parse(
        "postgresql://u@db/d?sslmode=verify-full&sslrootcert=/etc/ca%20one.pem&sslcert=/c.pem&sslkey=/k.pem"
        "&application_name=agents+1&connect_timeout=7&target_session_attrs=read-write&options=-c%20jit%3Doff"
    )

    assert url.connect_args == {
        "ssl": "verify-full",
        "dsn": "postgresql://?sslrootcert=%2Fetc%2Fca+one.pem&sslcert=%2Fc.pem&sslkey=%2Fk.pem",
        "timeout": 7.0,
        "target_session_attrs": "read-write",
        "server_settings": {"application_name": "agents+1", "options": "-c jit=off"},
    }
    assert url.sqlalchemy_url == make_url("postgresql+asyncpg://u@db/d")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
def test_every_sslmode_is_passed_on(mode: str) -> None:
    assert parse(f"postgresql://u@db/d?sslmode={mode}").connect_args == {"ssl": mode}


@pytest.mark.parametrize("wanted", ["any", "primary", "standby", "prefer-standby", "read-write", "read-only"])
def test_the_driver_knows_every_target_session_attrs(wanted: str) -> None:
    _, parameters = connection(f"postgresql://u@h1,h2/d?target_session_attrs={wanted}")

    assert parameters.target_session_attrs == wanted


def test_the_driver_looks_for_the_root_certificate_in_the_named_file() -> None:
    with pytest.raises(FileNotFoundError):
        connection("postgresql://u@db/d?sslmode=verify-full&sslrootcert=/no/such/file.pem")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must start with postgresql://"),
        ("embedded", "must start with postgresql://"),
        ("host=db dbname=d", "must start with postgresql://"),
        ("mysql://u@db/d", "must start with postgresql://, postgres://, postgresql+asyncpg://"),
        ("sqlite:///file.db", "must start with postgresql://"),
        ("postgresql+psycopg://u@db/d", "must start with postgresql://"),
        ("postgresql://u@db:port/d", "port must be a whole number from 1 to 65535"),
        ("postgresql://u@db:0/d", "port must be a whole number from 1 to 65535"),
        ("postgresql://u@db:65536/d", "port must be a whole number from 1 to 65535"),
        ("postgresql://u@db:٣/d", "port must be a whole number from 1 to 65535"),
        ("postgresql://u@/d?host=h1,h2&port=1,2,3", "another number of ports than of hosts"),
        ("postgresql://u@h1,,h2/d", "one of several hosts has no name"),
        ("postgresql://u@::1/d", "brackets"),
        ("postgresql://u@[::1/d", "[address]"),
        ("postgresql://u@[::1]6000/d", "[address]"),
        ("postgresql://u@db/d?sslmode=on", "sslmode must be one of disable, allow, prefer"),
        ("postgresql://u@db/d?sslmode=", "name=value"),
        ("postgresql://u@db/d?sslmode", "name=value"),
        ("postgresql://u@db/d?sslmode=disable&sslmode=require", "sslmode more than once"),
        ("postgresql://u@db/d?replication=true", "parameter 'replication' is not known"),
        ("postgresql://u@db/d?target_session_attrs=master", "target_session_attrs must be one of any, primary"),
        ("postgresql://u@db/d?connect_timeout=0", "connect_timeout must be a whole number from 1"),
        ("postgresql://u@db/d?connect_timeout=soon", "connect_timeout must be a whole number from 1"),
        ("postgresql://u@db/d\n", "line break"),
        ("postgresql://u@db/my db", "space"),
    ],
)
def test_a_wrong_address_is_refused_by_name(text: str, said: str) -> None:
    error = refusal(text)

    assert error.variable == VARIABLE
    assert said in error.reason
    assert str(error) == f"{VARIABLE}: {error.reason}"


@pytest.mark.parametrize("character", list("@/?#%"))
def test_an_unescaped_character_in_a_password_is_refused_with_the_remedy(character: str) -> None:
    error = refusal(f"postgresql://user:hunt{character}er2@db:5432/d")

    assert "percent-encode it" in error.reason
    assert f"%{ord(character):X}" in error.reason


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:hunter2@db:x/d",
        "postgresql://user:hunter2@db/d?sslmode=on",
        "postgresql://user:hunter2",
        "postgresql://user:hunter2/d",
        "postgresql://user:a?hunter2=b@db/d",
        "postgresql://user:a/hunter2:b@db/d",
        "postgresql://user:hunter2%FF@db/d",
        "mysql://user:hunter2@db/d",
        "hunter2",
        "password=hunter2 host=http://db",
    ],
)
def test_a_refusal_knows_nothing_of_the_password(text: str) -> None:
    error = refusal(text)

    assert error.__cause__ is None
    assert error.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception_only(error)) + repr(error)


def test_what_is_printed_of_an_address_hides_the_password() -> None:
    url = parse("postgresql://user:hunter2@h1:6001,[::1]:6002,%2Frun%2Fpg/d?sslmode=require")

    assert url.safe == "postgresql://user:***@h1:6001,[::1]:6002,%2Frun%2Fpg/d"
    assert "hunter2" not in repr(url) + str(url) + repr(url.sqlalchemy_url) + str(url.sqlalchemy_url)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("postgres://user@db/d", "postgresql://user@db/d"),
        ("postgresql://:hunter2@db/d", "postgresql://:***@db/d"),
        ("postgresql://db", "postgresql://db/"),
    ],
)
def test_the_safe_form_adds_nothing(text: str, safe: str) -> None:
    assert parse(text).safe == safe


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from([*"@/?#:%,[]&= \\"]))
def test_no_text_gets_a_password_into_a_refusal(before: str, after: str, between: str) -> None:
    password = f"{before}hunter2{between}hunter3{after}"

    try:
        shown = repr(parse(f"postgresql://user:{password}@db/d"))
    except SettingsError as error:
        shown = str(error)

    assert "hunter" not in shown


def test_a_password_that_is_percent_encoded_arrives_whatever_it_holds() -> None:
    password = "".join(map(chr, itertools.chain(range(1, 128), (0xE4, 0x20AC, 0x1F600))))
    encoded = "".join(f"%{byte:02X}" for byte in password.encode())

    assert driver_keywords(f"postgresql://u:{encoded}@db/d")["password"] == password
