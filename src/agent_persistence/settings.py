"""The ``PERSISTENCE_*`` variables, checked before anything starts."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent_persistence import ids
from agent_persistence.addresses.database_url import DatabaseUrl, split_url
from agent_persistence.addresses.redis_url import normal_redis_url
from agent_persistence.concurrency.time_limit import SETTLE_SECONDS
from agent_persistence.errors import SettingsError
from agent_persistence.ids import ID_TYPES, IdKind, IdTypes
from agent_persistence.validation import GREATEST_TTL, LEAST_TTL, NAMESPACE, NAMESPACE_RULE

EMBEDDED: Final = "embedded"
_REPLY_GRACE_SECONDS: Final = 2.0
_PREFIX: Final = "PERSISTENCE_"
_SECRETS: Final = ("database_url", "redis_url", "migration_database_url")
_OPTIONAL: Final = (
    *_SECRETS,
    "db_schema",
    "id_generator",
    "embedded_dir",
    "sql_log_level",
    "dynamodb_endpoint_url",
    "dynamodb_region",
)

QUARANTINE_SECONDS: Final = 10.0
"""How long a write keeps readers from filling the cache: longer than a transaction may last or idle."""
# A transaction that outlives its quarantine commits after a reader has cached the old row. The second in between is for
# the difference of two servers' clocks.
LONGEST_TRANSACTION: Final = QUARANTINE_SECONDS - 1

# PostgreSQL counts milliseconds: less than one would be 0, which means "no limit".
Seconds = Annotated[float, Field(ge=0.001)]


class PersistenceSettings(BaseSettings):
    """The settings of this package: the field ``pool_size`` is the variable ``PERSISTENCE_POOL_SIZE``.

    Keyword arguments override the environment, which overrides ``.env`` in the working directory; ``_env_file=None``
    ignores that file. ``.env.example`` explains each variable.

    Raises:
        SettingsError: a value is wrong. The error names the variable and what is allowed, and never holds a secret.
        TypeError: there is no field of this name.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        # An application's .env holds variables of others, which pydantic-settings refuses by default.
        extra="ignore",
        frozen=True,
        # pydantic's errors would otherwise show addresses with their passwords.
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    embedded_dir: Path | None = None

    db_schema: str | None = None
    version_table: str = "schema_migrations"
    id_type: IdKind = "string"
    user_id_type: IdKind = "string"
    id_generator: str | None = None

    pool_size: PositiveInt = 10
    max_overflow: NonNegativeInt = 5
    # SQLAlchemy's default is 30 s, for which a crowded pool would hold up each caller before the error.
    pool_timeout: Seconds = 5.0
    pool_recycle: PositiveInt = 1800
    connect_timeout: Seconds = 5.0
    statement_timeout: Seconds = 10.0
    lock_timeout: Seconds = 3.0
    # Both below the length of a quarantine: a process that stalls before COMMIT must not commit after it.
    idle_in_transaction_timeout: Seconds = 8.0
    transaction_timeout: Seconds = 8.0
    # An outage that is shorter than this, such as a restart or a failover, raises no error in one-call operations.
    retry_deadline: NonNegativeFloat = 15.0
    batching: bool = True
    pgbouncer: bool = False
    row_level_security: bool = False

    cache_namespace: str = "agent_persistence"
    # The only bound on a stale value where two faults meet, or where other programs write without the triggers.
    cache_ttl_seconds: PositiveInt = 300
    # While Redis hangs, a read takes 2.3 ms in the median and 31 ms at most with these limits; by redis-py's defaults,
    # without a circuit breaker, it takes up to 1.5 s.
    cache_timeout_ms: PositiveInt = 25
    cache_budget_ms: PositiveInt = 50
    cache_sweep_interval: Seconds = 1.0

    enable_checkpointing: bool = True
    max_checkpoint_history: NonNegativeInt = 0
    checkpoint_cleanup_interval: NonNegativeFloat = 0.0
    checkpointer_cleanup_timeout: Seconds = 5.0
    # Of 200,000 messages in bursts of ten, one update a burst takes 16 MB of WAL, one a message 90 MB.
    thread_touch_interval: NonNegativeFloat = 10.0
    max_json_bytes: PositiveInt = 16 * 1024 * 1024
    # 500 steps that gain a kilobyte each take 1.5 MB as changes and 77 MB whole; reading one takes a second round trip.
    patch_states_from: NonNegativeInt = 8 * 1024
    sanitize: Literal["refuse", "replace"] = "refuse"

    namespace: str = "agent_persistence"
    checkpoint_ttl_seconds: NonNegativeFloat = 0.0
    dynamodb_table: str = "agent_persistence"
    dynamodb_endpoint_url: str | None = None
    dynamodb_region: str | None = None

    migration_database_url: SecretStr | None = None
    migration_lock_timeout: NonNegativeFloat = 300.0
    # The longest stall of other readers behind a reader of 6 s: 5.4 s without a limit, 0.5 s with this one.
    migration_ddl_lock_timeout_ms: PositiveInt = 500
    auto_migrate: bool = False

    sql_log_level: Literal["INFO", "WARNING", "ERROR"] | None = None
    # Durations cost a clock a statement and one an operation; counts are always on.
    metrics: bool = False
    slow_operation_ms: NonNegativeFloat = 1000.0
    trace_ids: Literal["plain", "hashed", "none"] = "hashed"

    # Written out: the signature that type checkers derive from the fields accepts no plain string for a secret, and no
    # _env_file.
    def __init__(self, **values: Any) -> None:
        _refuse_wrong_keywords(type(self), values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            refusal = _refusal(error.errors(include_url=False)[0])
        except (OSError, UnicodeError) as error:
            refusal = SettingsError(".env", f"cannot be read: {type(error).__name__}; make it a readable file in UTF-8")
        else:
            return
        # Outside the except block, so that pydantic's error, which holds the values, is not its __context__.
        raise refusal

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, which are not validated.

        Raises:
            TypeError: there is no field of this name.
        """
        for name in update or ():
            if name not in type(self).model_fields:
                raise TypeError(_unknown(name, type(self).model_fields))
        return super().model_copy(update=update, deep=deep)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse changes. pydantic's error would print the value."""
        raise AttributeError(f"settings are immutable; make new ones with another {name}")

    @property
    def is_embedded(self) -> bool:
        """Whether the database is an embedded server."""
        return _is_embedded(self.database_url)

    @property
    def database(self) -> DatabaseUrl | None:
        """The address of the database; ``None`` if it is unset or embedded."""
        return None if _is_embedded(self.database_url) else _address(self.database_url, "database_url")

    @property
    def migration_database(self) -> DatabaseUrl | None:
        """The address for migrations: ``migration_database_url``, which bypasses a pooler, or ``database``."""
        return _address(self.migration_database_url, "migration_database_url") or self.database

    @property
    def reply_seconds(self) -> float:
        """How long a client waits for a reply: the server's ``statement_timeout`` comes first, if the server works."""
        return self.statement_timeout + _REPLY_GRACE_SECONDS

    @property
    def call_seconds(self) -> float:
        """The longest time that a one-call operation may take: one statement without a reply, and its settlement."""
        return max(self.retry_deadline, self.reply_seconds + SETTLE_SECONDS)

    @property
    def id_types(self) -> IdTypes[Any, Any]:
        """The id types of this database."""
        return IdTypes(ID_TYPES[self.id_type], ID_TYPES[self.user_id_type])

    def id_maker(self) -> Callable[[], Any] | None:
        """Return the function that makes new ids in Python, or ``None`` if the database makes them."""
        kind = ID_TYPES[self.id_type]
        match self.id_generator or ("database" if kind.generated else "uuid7"):
            case "database" | "uuid7" | "uuid4" as generator:
                return ids.id_maker(kind, generator)
            case path:
                return _import_callable(path)

    @field_validator(*_OPTIONAL, mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("database_url")
    @classmethod
    def _is_a_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if not _is_embedded(value):
            _address(value, "database_url")
        return value

    @field_validator("migration_database_url")
    @classmethod
    def _is_a_direct_address(cls, value: SecretStr | None) -> SecretStr | None:
        _address(value, "migration_database_url")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_embedded(value):
            return SecretStr(normal_redis_url(value.get_secret_value()))
        return value

    @field_validator("db_schema", "version_table")
    @classmethod
    def _is_an_identifier(cls, value: str | None) -> str | None:
        # PostgreSQL reserves the prefix pg_ for its schemas, and truncates names beyond 63 bytes.
        if value is not None and not re.fullmatch("(?!(?i:pg_))[A-Za-z_][A-Za-z0-9_]{0,62}", value):
            raise ValueError("must be 1 to 63 letters, digits and '_', and must not start with a digit or pg_")
        return value

    @field_validator("cache_namespace")
    @classmethod
    def _is_one_word(cls, value: str) -> str:
        if not re.fullmatch(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+", value):
            raise ValueError("must be a word without spaces and control characters")
        return value

    @field_validator("namespace")
    @classmethod
    def _is_a_namespace(cls, value: str) -> str:
        if not NAMESPACE.fullmatch(value):
            raise ValueError(NAMESPACE_RULE)
        return value

    @field_validator("checkpoint_ttl_seconds")
    @classmethod
    def _is_a_time_to_live(cls, value: float) -> float:
        if value and not LEAST_TTL <= value <= GREATEST_TTL:
            raise ValueError(f"must be 0, or between {LEAST_TTL:g} and {GREATEST_TTL:.0f}")
        return value

    @field_validator("dynamodb_table")
    @classmethod
    def _is_the_name_of_a_table(cls, value: str) -> str:
        if not re.fullmatch("[A-Za-z0-9_.-]{3,255}", value):
            raise ValueError("must be 3 to 255 letters, digits, '_', '.' and '-'")
        return value

    @field_validator("dynamodb_endpoint_url")
    @classmethod
    def _is_an_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            url = split_url(value, ("http", "https"))
            if url.user is not None or url.password is not None:
                raise ValueError("must not hold credentials; AWS's own variables and files give them")
        return value

    @field_validator("transaction_timeout", "idle_in_transaction_timeout")
    @classmethod
    def _is_shorter_than_the_quarantine(cls, value: float) -> float:
        if value >= LONGEST_TRANSACTION:
            raise ValueError(
                f"must be below {LONGEST_TRANSACTION:g} seconds: a write keeps readers from filling the cache "
                f"for {QUARANTINE_SECONDS:g} s, and a longer transaction could leave a stale value in it"
            )
        return value

    @model_validator(mode="after")
    def _pooler_is_named(self) -> Self:
        if self.database is not None and self.database.names_pooler and not self.pgbouncer:
            raise SettingsError(
                "PERSISTENCE_PGBOUNCER", "must be true: PERSISTENCE_DATABASE_URL says that it leads to a pooler"
            )
        return self

    @model_validator(mode="after")
    def _budget_holds_a_call(self) -> Self:
        if self.cache_budget_ms < self.cache_timeout_ms:
            raise SettingsError(
                "PERSISTENCE_CACHE_BUDGET_MS",
                f"must be at least PERSISTENCE_CACHE_TIMEOUT_MS, which is {self.cache_timeout_ms}",
            )
        return self

    @model_validator(mode="after")
    def _cleanup_has_something_to_do(self) -> Self:
        if self.checkpoint_cleanup_interval and not self.max_checkpoint_history:
            raise SettingsError(
                "PERSISTENCE_CHECKPOINT_CLEANUP_INTERVAL",
                "removes nothing while PERSISTENCE_MAX_CHECKPOINT_HISTORY is 0, which keeps all states; set both",
            )
        return self

    @model_validator(mode="after")
    def _ids_can_be_made(self) -> Self:
        try:
            self.id_maker()
        except ValueError as error:
            raise SettingsError("PERSISTENCE_ID_GENERATOR", str(error)) from None
        return self


def _variable(field_name: object) -> str:
    return f"{_PREFIX}{str(field_name).upper()}"


# Arguments of pydantic-settings, such as _env_file. A misspelt one would be dropped as well.
_OF_PYDANTIC: Final = frozenset(name for name in signature(BaseSettings.__init__).parameters if name.startswith("_"))


def _refuse_wrong_keywords(settings: type[PersistenceSettings], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name in _OF_PYDANTIC:
            continue
        # ``extra="ignore"`` would drop a misspelt keyword without a word.
        if name not in settings.model_fields:
            raise TypeError(_unknown(name, settings.model_fields))
        # An empty variable is an unset one; an empty argument is a mistake.
        if value == "":
            raise SettingsError(_variable(name), "must not be empty")


def _unknown(name: str, known: Iterable[str]) -> str:
    meant = get_close_matches(name.lower(), [*known, *_OF_PYDANTIC], 1)
    return f"PersistenceSettings has no field {name!r}" + (f"; did you mean {meant[0]!r}?" if meant else "")


def _refusal(error: ErrorDetails) -> SettingsError:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):
        # A copy, because the traceback of the original holds values.
        return SettingsError(cause.variable, cause.reason)
    name = error["loc"][0]
    reason = str(cause) if cause else error["msg"].replace("Input should", "must", 1)
    # An address in a wrong variable can hold a password too.
    is_secret = name in _SECRETS or re.search("://|@|password", str(error["input"]), re.IGNORECASE)
    given = "" if is_secret else f" (given: {error['input']!r})"
    return SettingsError(_variable(name), reason + given)


def _is_embedded(value: SecretStr | None) -> bool:
    return value is not None and value.get_secret_value() == EMBEDDED


def _address(value: SecretStr | None, field_name: str) -> DatabaseUrl | None:
    return None if value is None else DatabaseUrl.parse(value.get_secret_value(), _variable(field_name))


def _import_callable(path: str) -> Callable[[], Any]:
    """Import the host's function that makes ids.

    Raises:
        ValueError: it cannot be imported, or is not callable.
    """
    if not re.search("[.:]", path):
        raise ValueError(f"must be database, uuid7, uuid4, or a callable such as myapp.ids:new_id (given: {path!r})")
    try:
        found = pkgutil.resolve_name(path)
    except Exception as error:  # noqa: BLE001  # importing the host's module can raise anything
        # Only the import system's text is repeated; that of another error could hold the host's values.
        detail = str(error) if isinstance(error, ImportError | AttributeError) else type(error).__name__
        raise ValueError(f"{path!r} cannot be imported: {detail}") from None
    if not callable(found):
        raise ValueError(f"{path!r} is not callable")
    return cast("Callable[[], Any]", found)  # callable() says nothing about arguments and result
