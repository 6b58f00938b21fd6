"""PostgreSQL addresses: parsed as libpq does, for SQLAlchemy and asyncpg."""

from __future__ import annotations

import getpass
import os
import re
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlencode

from sqlalchemy import URL

from agent_persistence.errors import SettingsError

# All of them mean asyncpg: for postgresql:// SQLAlchemy 2.1 silently takes psycopg, and 2.0 looks for psycopg2.
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSION_ATTRIBUTES: Final = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
_SSL_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_SERVER_SETTINGS: Final = ("application_name", "options")
# As in libpq, they replace what stands before the question mark.
_LOCATION: Final = ("host", "port", "user", "password", "dbname")
_PARAMETERS: Final = ("sslmode", *_SSL_FILES, "connect_timeout", "target_session_attrs", *_SERVER_SETTINGS)
# What other drivers call these parameters, or their values.
_SPELT: Final = {"ssl": "sslmode", "fallback_application_name": "application_name"}
_SPELT_MODES: Final = {"true": "require", "1": "require", "false": "disable", "0": "disable", "no-verify": "require"}
# Providers print them, or other drivers need them; asyncpg works without.
_HARMLESS: Final = {
    *("channel_binding", "sslsni", "sslcompression", "load_balance_hosts", "supa", "uselibpqcompat"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
    *("pgbouncer", "statement_cache_size", "prepared_statement_cache_size", "prepared_statement_name_func"),
}
# Those that are harmless as long as they have one of these values.
_HARMLESS_VALUES: Final = {
    "gssencmode": ("disable", "prefer"),
    "sslnegotiation": ("postgres",),
    "client_encoding": ("utf8", "utf-8", "auto"),
}
_POOLER_PARAMETERS: Final = {
    ("pgbouncer", "true"),
    ("pgbouncer", "1"),
    ("statement_cache_size", "0"),
    ("prepared_statement_cache_size", "0"),
}
_INSTEAD: Final = {
    **dict.fromkeys(("schema", "currentSchema", "search_path"), "set PERSISTENCE_DB_SCHEMA"),
    **dict.fromkeys(("connection_limit", "pool_size", "max_connections"), "set PERSISTENCE_POOL_SIZE"),
    "max_overflow": "set PERSISTENCE_MAX_OVERFLOW",
    "pool_timeout": "set PERSISTENCE_POOL_TIMEOUT",
    "pool_recycle": "set PERSISTENCE_POOL_RECYCLE",
    **dict.fromkeys(("statement_timeout", "command_timeout"), "set PERSISTENCE_STATEMENT_TIMEOUT"),
    "lock_timeout": "set PERSISTENCE_LOCK_TIMEOUT",
    "idle_in_transaction_session_timeout": "set PERSISTENCE_IDLE_IN_TRANSACTION_TIMEOUT",
    "timeout": "it is called connect_timeout",
    "sslpassword": "use a key without a password",
}
_DEFAULT_PORT: Final = 5432
_SYSTEM: Final = "system"


class Host(NamedTuple):
    """A server: a name, an address, or the directory of a Unix socket."""

    name: str
    port: int | None

    @property
    def is_socket(self) -> bool:
        """Whether it is the directory of a Unix socket."""
        return self.name.startswith("/")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """The address of a PostgreSQL database, as libpq understands it.

    The two halves belong together: ``create_async_engine(url.sqlalchemy_url, connect_args=url.connect_args)``.

    Attributes:
        names_pooler: whether a parameter for other drivers says that the address is a transaction pooler's.
    """

    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[Host, ...]
    database: str | None
    parameters: Mapping[str, str]
    names_pooler: bool = False

    @classmethod
    def parse(cls, text: str, variable: str) -> DatabaseUrl:
        """Parse an address.

        Args:
            text: the URL.
            variable: names it in errors.

        Raises:
            SettingsError: the address is wrong. It never holds a part of the address that could be a password.
        """
        try:
            url = cls._from_parts(split_url(text, _SCHEMES))
            _refuse_no_user(url.user)
            return url
        except InvalidUrlError as error:
            reason = str(error)
        # Outside the except block, so that its __context__ is not an error that holds the password.
        raise SettingsError(variable, reason)

    @classmethod
    def _from_parts(cls, url: SplitUrl) -> DatabaseUrl:
        _refuse_unknown(url.query)
        given = {name: _only(url.query, name) for name in url.query if name not in _HARMLESS and name != "host"}
        parameters = {_SPELT[name]: value for name, value in given.items() if name in _SPELT}
        parameters |= {name: value for name, value in given.items() if name in _PARAMETERS}
        if "sslmode" in parameters:
            parameters["sslmode"] = _SPELT_MODES.get(parameters["sslmode"], parameters["sslmode"])
        _refuse_wrong_values(parameters)
        return cls(
            given.get("user", url.user),
            given.get("password", url.password),
            _hosts(url),
            given.get("dbname", url.path.removeprefix("/")) or None,
            parameters,
            any((name, value) in _POOLER_PARAMETERS for name, values in url.query.items() for value in values),
        )

    @property
    def sqlalchemy_url(self) -> URL:
        """User, password, database and the first host, for ``create_async_engine``."""
        first = self.hosts[0]
        return URL.create(
            "postgresql+asyncpg",
            username=self.user,
            password=self.password,
            host=None if first.is_socket else first.name or None,
            port=first.port,
            database=self.database,
            # The host of a URL cannot be a path; SQLAlchemy passes this parameter to the driver.
            query={"host": first.name} if first.is_socket else {},
        )

    @property
    def connect_args(self) -> dict[str, Any]:
        """Everything else, as keyword arguments of ``asyncpg.connect``."""
        arguments: dict[str, Any] = {}
        if len(self.hosts) > 1:
            # Not in the URL: SQLAlchemy splits hosts there at every colon, which breaks IPv6 addresses.
            arguments["host"] = [host.name for host in self.hosts]
            arguments["port"] = [host.port or _DEFAULT_PORT for host in self.hosts]
        if self.parameters.get("sslrootcert") == _SYSTEM:
            arguments["ssl"] = self._system_context()
            return {**arguments, **self._other_arguments()}
        if "sslmode" in self.parameters:
            arguments["ssl"] = self.parameters["sslmode"]
        if files := {name: self.parameters[name] for name in _SSL_FILES if name in self.parameters}:
            # asyncpg takes these in a DSN only; an SSL context made here would turn "prefer" into "require".
            arguments["dsn"] = f"postgresql://?{urlencode(files)}"
        return {**arguments, **self._other_arguments()}

    def _system_context(self) -> ssl.SSLContext:
        """Return what ``sslrootcert=system`` means to libpq: the system's certificates, and the host's name."""
        context = ssl.create_default_context()
        if "sslcert" in self.parameters:
            context.load_cert_chain(self.parameters["sslcert"], self.parameters.get("sslkey"))
        return context

    def _other_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if "connect_timeout" in self.parameters:
            arguments["timeout"] = float(self.parameters["connect_timeout"])
        if "target_session_attrs" in self.parameters:
            arguments["target_session_attrs"] = self.parameters["target_session_attrs"]
        if server := {name: self.parameters[name] for name in _SERVER_SETTINGS if name in self.parameters}:
            arguments["server_settings"] = server
        return arguments

    @property
    def safe(self) -> str:
        """The address for display: the password is ``***``, and the query is left out."""
        password = "" if self.password is None else ":***"
        login = "" if self.user is None and not password else f"{self.user or ''}{password}@"
        hosts = ",".join(_shown(host) for host in self.hosts)
        return f"postgresql://{login}{hosts}/{self.database or ''}"


class InvalidUrlError(ValueError):
    """An address is wrong; the message holds no part of it that could be a password."""


@dataclass(frozen=True, slots=True)
class SplitUrl:
    """The decoded parts of a URL."""

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[Host, ...]
    path: str
    query: Mapping[str, list[str]] = field(repr=False)


def split_url(text: str, schemes: Collection[str]) -> SplitUrl:
    """Split a URL into decoded parts. Ambiguous ones are refused, such as a password that is not percent-encoded.

    Raises:
        InvalidUrlError: the text is not a URL with one of these schemes.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in schemes:
        raise InvalidUrlError(f"must start with {', '.join(f'{known}://' for known in schemes)}")
    authority, path, query = _cut(rest)
    login, at, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    return SplitUrl(
        scheme=scheme,
        user=_decode(user) if at and user else None,
        password=_decode(password) if colon else None,
        hosts=tuple(_host(_decode(token)) for token in hosts.split(",")),
        path=_decode(path),
        query=_query(query),
    )


def read_number(text: str, name: str, lowest: int, highest: int) -> int:
    """Return a text as a whole number.

    Raises:
        InvalidUrlError: it is not a number, or out of range.
    """
    if not re.fullmatch("[0-9]{1,9}", text) or not lowest <= int(text) <= highest:
        raise InvalidUrlError(f"the {name} must be a whole number from {lowest} to {highest}")
    return int(text)


def _cut(rest: str) -> tuple[str, str, str]:
    if re.search(r"[\s\x00-\x1f\x7f]", rest):
        raise InvalidUrlError("holds a space, a line break or a control character; percent-encode it, or remove it")
    if re.search("%(?![0-9A-Fa-f]{2})|%00", rest):
        raise InvalidUrlError("holds a '%' that encodes nothing; percent-encode it: %25 for '%'")
    # Not by urllib, which ends the address at an unencoded '/', '?' or '#' of a password: the rest of the password
    # would be taken for the database, and could be shown.
    location, _, query = rest.partition("?")
    authority, slash, path = location.partition("/")
    if "#" in rest or authority.count("@") > 1 or "@" in path or "@" in query:
        raise InvalidUrlError(
            "a user name, password, database name or parameter holds a '@', '/', '?' or '#'; "
            "percent-encode it: %40 for '@', %2F for '/', %3F for '?', %23 for '#'"
        )
    return authority, slash + path, query


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass
    # Outside the except block, because the UnicodeDecodeError holds the bytes.
    raise InvalidUrlError("holds percent-encoded bytes that are not UTF-8")


def _query(text: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for part in filter(None, text.split("&")):
        name, _, value = part.partition("=")
        if not name or not value:
            raise InvalidUrlError("every parameter after the '?' must be name=value")
        values.setdefault(_decode(name), []).append(_decode(value))
    return values


def _host(token: str) -> Host:
    if token.startswith("["):
        name, bracket, port = token[1:].partition("]")
        if not bracket or port[:1] not in ("", ":"):
            raise InvalidUrlError("an IPv6 address must be written as [address] or [address]:port")
        return Host(name, _port(port[1:]))
    name, _, port = token.rpartition(":") if ":" in token else (token, "", "")
    # The path of a socket may hold a colon.
    if token.startswith("/"):
        return Host(name, _port(port)) if port.isdecimal() else Host(token, None)
    if ":" in name:
        raise InvalidUrlError("an IPv6 address must be written in brackets: [::1]:5432")
    return Host(name, _port(port))


def _port(text: str) -> int | None:
    return read_number(text, "port", 1, 65535) if text else None


def _hosts(url: SplitUrl) -> tuple[Host, ...]:
    hosts = list(url.hosts)
    # As in libpq, the parameter replaces the host before the path, but not its port.
    if named := url.query.get("host"):
        default = hosts[0].port
        hosts = [_host(token) for value in named for token in value.split(",")]
        hosts = [Host(host.name, host.port or default) for host in hosts]
    if given := url.query.get("port"):
        ports = [_port(port) for value in given for port in value.split(",")]
        if len(ports) not in (1, len(hosts)):
            raise InvalidUrlError("gives another number of ports than of hosts")
        # One port serves all hosts, as in libpq.
        hosts = [Host(host.name, port) for host, port in zip(hosts, ports * len(hosts), strict=False)]
    if len(hosts) > 1 and not all(host.name for host in hosts):
        raise InvalidUrlError("one of several hosts has no name")
    return tuple(hosts)


def _refuse_unknown(query: Mapping[str, list[str]]) -> None:
    for name, values in query.items():
        if name in _INSTEAD:
            raise InvalidUrlError(f"the parameter {name!r} is not taken here: {_INSTEAD[name]}")
        if name in _HARMLESS_VALUES:
            allowed = _HARMLESS_VALUES[name]
            if not {value.lower() for value in values} <= {*allowed}:
                raise InvalidUrlError(f"{name} must be {' or '.join(allowed)}: asyncpg knows no other")
        elif name not in {*_PARAMETERS, *_LOCATION, *_SPELT, *_HARMLESS}:
            known = ", ".join((*_LOCATION, *_PARAMETERS))
            raise InvalidUrlError(f"the parameter {name!r} is not known; these are: {known}")


def _refuse_no_user(user: str | None) -> None:
    """Refuse an address without a user where the driver could not find out who runs the process."""
    if user is None and "PGUSER" not in os.environ:
        try:
            getpass.getuser()
        except (KeyError, OSError, ImportError):
            raise InvalidUrlError("names no user, and the user id of this process has no name; add one") from None


def _only(query: Mapping[str, list[str]], name: str) -> str:
    if len(query[name]) > 1:
        raise InvalidUrlError(f"gives {name} more than once")
    return query[name][0]


def _refuse_wrong_values(parameters: Mapping[str, str]) -> None:
    for name, allowed in (("sslmode", _SSL_MODES), ("target_session_attrs", _SESSION_ATTRIBUTES)):
        if name in parameters and parameters[name] not in allowed:
            raise InvalidUrlError(f"{name} must be one of {', '.join(allowed)}")
    if "connect_timeout" in parameters:
        read_number(parameters["connect_timeout"], "connect_timeout", 1, 86_400)
    if parameters.get("sslrootcert") == _SYSTEM and parameters.get("sslmode", "verify-full") != "verify-full":
        raise InvalidUrlError("sslrootcert=system needs sslmode=verify-full")


def _shown(host: Host) -> str:
    name = quote(host.name, safe="") if host.is_socket else f"[{host.name}]" if ":" in host.name else host.name
    return name if host.port is None else f"{name}:{host.port}"
