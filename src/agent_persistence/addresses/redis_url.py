"""Redis addresses, checked before redis-py reads them: it takes unknown parameters, and fails at the first call."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from agent_persistence.addresses.database_url import InvalidUrlError, SplitUrl, read_number, split_url

_SCHEMES: Final = ("redis", "rediss", "unix")
_SPELT_SCHEMES: Final = {"valkey": "redis", "valkeys": "rediss"}
_CERTIFICATES: Final = {
    **{name: name for name in ("none", "optional", "required")},
    "cert_none": "none",
    "cert_optional": "optional",
    "cert_required": "required",
}
_BOOLEANS: Final = {"true": "true", "yes": "yes", "1": "true", "false": "false", "no": "no", "0": "false"}
_VALUES: Final = {
    "ssl_cert_reqs": _CERTIFICATES,
    "ssl_check_hostname": _BOOLEANS,
    "socket_keepalive": _BOOLEANS,
    "protocol": {"2": "2", "3": "3"},
}
_TLS_TEXTS: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_ciphers")
_TEXTS: Final = ("client_name", "username", "password", *_TLS_TEXTS)
_KNOWN: Final = ("db", *_VALUES, *_TEXTS, "health_check_interval")
_TIMEOUT: Final = "set PERSISTENCE_CACHE_TIMEOUT_MS"
_INSTEAD: Final = {
    **dict.fromkeys(("socket_timeout", "timeout", "retry_on_timeout"), _TIMEOUT),
    **dict.fromkeys(("ssl", "tls"), "begin the address with rediss://"),
    "decode_responses": "leave it out, the cache needs bytes",
}
# Those of other clients, which redis-py works without.
_HARMLESS: Final = {"family", "max_connections", "socket_connect_timeout"}


def normal_redis_url(text: str) -> str:
    """Check an address, and return it as redis-py reads it.

    Raises:
        InvalidUrlError: it is wrong; the message holds no part of it that could be a password.
    """
    scheme, separator, rest = text.partition("://")
    if scheme.startswith(("redis+sentinel", "redis-sentinel", "sentinel")):
        raise InvalidUrlError("must not be of Sentinel: pass redis=Sentinel(...).master_for(...) to Persistence")
    normal = f"{_SPELT_SCHEMES.get(scheme, scheme)}{separator}{rest}"
    url = split_url(normal, _SCHEMES)
    _refuse_wrong_location(url)
    location, _, _ = normal.partition("?")
    query = _parameters(url)
    return f"{location}?{urlencode(query)}" if query else location


def _refuse_wrong_location(url: SplitUrl) -> None:
    host, *others = url.hosts
    if others:
        raise InvalidUrlError("must name one server")
    if url.scheme == "unix":
        if not url.path or host.name:
            raise InvalidUrlError("must name the file of the socket: unix:///run/redis.sock?db=0")
        numbers = url.query.get("db", [])
    else:
        numbers = [url.path.removeprefix("/"), *url.query.get("db", [])]
    # redis-py silently reads a database that is not a number as 0, which can be another application's.
    for number in filter(None, numbers):
        read_number(number, "database after the address", 0, 999_999)


def _parameters(url: SplitUrl) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, values in url.query.items():
        if name in _HARMLESS:
            continue
        if name in _INSTEAD:
            raise InvalidUrlError(f"the parameter {name!r} is not taken here: {_INSTEAD[name]}")
        if name not in _KNOWN:
            raise InvalidUrlError(f"the parameter {name!r} is not known; these are: {', '.join(_KNOWN)}")
        if name.startswith("ssl_") and url.scheme != "rediss":
            raise InvalidUrlError(f"the parameter {name!r} needs an address that begins with rediss://")
        if len(values) > 1:
            raise InvalidUrlError(f"gives {name} more than once")
        found[name] = _checked(name, values[0])
    return found


def _checked(name: str, value: str) -> str:
    if name == "health_check_interval":
        read_number(value, name, 0, 86_400)
    allowed = _VALUES.get(name)
    if allowed is None:
        return value
    if value.lower() not in allowed:
        raise InvalidUrlError(f"{name} must be one of {', '.join(allowed)}")
    return allowed[value.lower()]
