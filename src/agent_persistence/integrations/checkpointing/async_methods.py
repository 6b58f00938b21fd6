"""The asynchronous methods of the two frameworks' checkpointers, over the store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from pydantic_core import PydanticSerializationError, to_jsonable_python

from agent_persistence.errors import (
    InvalidInputError,
    MessageNotFoundError,
    StateConflictError,
    ThreadExistsError,
    UnavailableError,
)
from agent_persistence.ids import IdTypes
from agent_persistence.integrations.checkpointing.arguments import Arguments
from agent_persistence.integrations.checkpointing.json_escapes import from_storable, to_storable
from agent_persistence.integrations.checkpointing.message_form import to_fields, to_new_message
from agent_persistence.integrations.checkpointing.places import (
    Place,
    exact_id,
    expected_version,
    message_key,
    place_of,
    remember_version,
    user_of,
)
from agent_persistence.integrations.checkpointing.store import CheckpointStore, Version
from agent_persistence.integrations.checkpointing.stores import Stores
from agent_persistence.integrations.checkpointing.thread_form import from_meta, to_meta
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, MessageRecord, NewMessage, ThreadRecord

T = TypeVar("T")
Config = dict[str, Any]

_STOP_REQUESTS: Final = "stop_request"
_STOP_REQUEST_SECONDS: Final = 3600
_STOP: Final = "stop"


@dataclass(frozen=True, kw_only=True)
class Framework:
    """The words of one framework.

    Attributes:
        message, thread_info: its classes.
        refused: makes its error of a write to somebody else's thread, of a text.
        overtaken: makes its error of a state that was saved over another one than expected.
        unavailable: makes its error of a database that cannot be reached.
    """

    message: Any
    thread_info: Any
    refused: Callable[[str], Exception]
    overtaken: Callable[[StateConflictError], Exception]
    unavailable: Callable[[str], Exception]


class NoSuchMessageError(MessageNotFoundError, IndexError):
    """There is no such message in this thread for this user; also an ``IndexError``, as the frameworks have it."""


class AsyncMethods:
    """A checkpointer over threads, states and messages in PostgreSQL, with Redis where that is configured.

    The arguments are those of ``PgCheckpointer``, and ``persistence``.

    Args:
        postgres_dsn: the address of the database. Its schema must be up to date: ``agent-persistence upgrade``.
        pg_pool: an ``asyncpg.Pool`` of the host's, used and not closed.
        pool_config: ``max_size``, ``timeout``, ``command_timeout``, ``max_inactive_connection_lifetime``.
        redis_url: the address of Redis. Without one there is no cache; drafts, cache values and stop requests then stay
            in this process.
        redis, redis_pool: a client of the host's, or its pool: of bytes, used and not closed.
        redis_pool_config: for the pool that is made of ``redis_url``.
        schema: where the tables are.
        persistence: an open ``Persistence`` of the host's, in place of all addresses.
        id_type, user_id_type: ``"string"``, ``"int"``, ``"bigint"`` or ``"uuid"``, as the database was built.
        cache_ttl: seconds that cached states, drafts and cache values live.
        release_resources: whether ``release`` closes what the host has given as well.
        state_history_limit: how many states a thread keeps; all if left out.
        enforce_user_isolation: whether a thread exists for its user only. A policy in the config goes before this.

    Raises:
        InvalidInputError: no database is named, or an argument is not known here.
        SettingsError: an address is wrong.
    """

    _framework: ClassVar[Framework]

    def __init__(  # noqa: PLR0917 - by place as PgCheckpointer takes them
        self,
        postgres_dsn: str | None = None,
        pg_pool: Any = None,
        pool_config: Mapping[str, Any] | None = None,
        redis_url: str | None = None,
        redis: Any = None,
        redis_pool: Any = None,
        redis_pool_config: Mapping[str, Any] | None = None,
        schema: str = "public",
        *,
        persistence: Persistence[Any, Any] | None = None,
        id_type: str | None = None,
        user_id_type: str | None = None,
        cache_ttl: int | None = None,
        release_resources: bool = False,
        state_history_limit: int | None = None,
        enforce_user_isolation: bool = True,
    ) -> None:
        self.enforce_user_isolation = enforce_user_isolation
        self._stores = Stores(
            Arguments(
                postgres_dsn=postgres_dsn,
                pg_pool=pg_pool,
                pool_config=pool_config,
                redis_url=redis_url,
                redis=redis,
                redis_pool=redis_pool,
                redis_pool_config=redis_pool_config,
                schema=schema,
                persistence=persistence,
                id_type=id_type or self._default_id_type(),
                user_id_type=user_id_type,
                cache_ttl=cache_ttl,
                release_resources=release_resources,
                state_history_limit=state_history_limit,
            )
        )

    # --- What each framework says by itself ---

    @abstractmethod
    def _default_id_type(self) -> str | None:
        """The kind of ids that the framework makes, where the host has chosen one."""

    @abstractmethod
    def _dumped(self, state: Any) -> dict[str, Any]:
        """Dump a state."""

    @abstractmethod
    def _revived(self, data: dict[str, Any], config: Config) -> Any:
        """Make a state of its dump."""

    @abstractmethod
    def _isolates(self, config: Config) -> bool:
        """Whether threads exist for their users only."""

    def _expected(self, config: Config) -> int | None:
        """The version that a state may be saved over; ``None`` for any."""
        return expected_version(config)

    # --- Set-up and release ---

    async def asetup(self) -> bool:
        """Connect, and check the schema; no table is made here.

        Raises:
            NotMigratedError: the database is behind this version, or empty; its ``command`` mends it.
            IdTypeMismatchError: the database was built with another id type.
        """
        with self._in_its_words():
            await self._stores.run(lambda store: store.persistence.check())
        return True

    async def arelease(self) -> bool:
        """Close what was opened here; a later call opens it again."""
        await self._stores.release()
        return True

    # --- States ---

    async def aput_state(self, config: Config, state: Any) -> Any:
        """Save a state, over the version that the run has read, if it has read one."""
        await self._save(config, state, [])
        return state

    async def aput_checkpoint(
        self, config: Config, state: Any, messages: list[Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> Any:
        """Save a state and messages in one transaction."""
        await self._save(config, state, self._new_messages(messages or [], metadata))
        return state

    async def aget_state(self, config: Config) -> Any:
        """Return the latest state that was saved, or ``None``."""
        place = self._place(config)
        return self._state(config, await self._run(lambda store: store.get_state(place)))

    async def aclear_state(self, config: Config) -> bool:
        """Forget every state of a thread, and what its run is at."""
        place = self._place(config)
        await self._run(lambda store: store.clear_state(place))
        remember_version(config, None)
        return True

    async def aput_state_cache(self, config: Config, state: Any) -> Any:
        """Keep what a run is at between two checkpoints; return ``None`` where that cannot be done now."""
        place, data, base = self._place(config), self._state_data(state), expected_version(config)
        return state if await self._run(lambda store: store.put_draft(place, data, base=base)) else None

    async def aget_state_cache(self, config: Config) -> Any:
        """Return what the run is at, unless another state was saved since, and else the latest state."""
        place = self._place(config)
        return self._state(config, await self._run(lambda store: store.get_latest(place)))

    # --- Messages ---

    async def aput_messages(self, config: Config, messages: list[Any], metadata: dict[str, Any] | None = None) -> bool:
        """Add messages at the end; one whose id stands in the thread already takes that one's place."""
        place, new = self._place(config), self._new_messages(messages, metadata)
        if new:
            await self._run(lambda store: store.put_messages(place, new))
        return True

    async def aget_message(self, config: Config, message_id: str | int) -> Any:
        """Return a message.

        Raises:
            NoSuchMessageError: there is none; it is an ``IndexError``, too.
        """
        place, key = self._place(config), message_key(message_id, self._id_types.id)
        found = await self._run(lambda store: store.get_message(place, key))
        if found is None:
            raise NoSuchMessageError(place.thread_id, key)
        return self._message(found)

    async def alist_messages(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """List messages from the first one on; ``limit=0`` means all."""
        place, window = self._place(config), _window(search, offset, limit)
        found = await self._run(lambda store: store.list_messages(place, **window))
        return [self._message(one) for one in found]

    async def adelete_message(self, config: Config, message_id: str | int) -> bool:
        """Delete a message.

        Raises:
            NoSuchMessageError: there is none; it is an ``IndexError``, too.
        """
        place, key = self._place(config), message_key(message_id, self._id_types.id)
        if not await self._run(lambda store: store.delete_message(place, key)):
            raise NoSuchMessageError(place.thread_id, key)
        return True

    # --- Threads ---

    async def aput_thread(self, config: Config, thread_info: Any) -> bool:
        """Make a thread, or change its name and metadata; without a name it keeps its own."""
        place = self._place(config)
        given = thread_info.user_id
        if given is not None and exact_id(given, self._id_types.user, "thread_info.user_id") != place.user_id:
            raise InvalidInputError("thread_info.user_id", "is not the user of the config")
        meta = to_meta(self._jsonable(thread_info.metadata or {}, "thread_info.metadata"), thread_info.run_id)
        await self._run(lambda store: store.put_thread(place, thread_info.thread_name, meta))
        return True

    async def aget_thread(self, config: Config) -> Any:
        """Return a thread, or ``None``."""
        place = self._place(config)
        found = await self._run(lambda store: store.get_thread(place))
        return None if found is None else self._thread_info(found, config["thread_id"])

    async def alist_threads(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """List threads, the most recently active first; ``search`` looks at all that is known of them but the time."""
        window = _window(search, offset, limit)
        owner = user_of(config, self._id_types) if self._isolates(config) else ANY_USER
        wanted = window.pop("search")

        def is_wanted(record: ThreadRecord[Any, Any]) -> bool:
            return _mentions(self._thread_info(record, record.thread_id), wanted)

        found = await self._run(lambda store: store.list_threads(owner, is_wanted if wanted else None, **window))
        return [self._thread_info(one, one.thread_id) for one in found]

    async def aclean_thread(self, config: Config) -> bool:
        """Delete a thread with all that is in it; say whether there was one."""
        place = self._place(config)
        deleted = await self._run(lambda store: store.delete_thread(place))
        remember_version(config, None)
        return deleted

    async def aget_thread_owner(self, thread_id: str | int) -> Any:
        """Return whose a thread is, whoever asks, or ``None`` where there is none."""
        try:
            known = exact_id(thread_id, self._id_types.id, "thread_id")
        except InvalidInputError:
            return None
        return await self._run(lambda store: store.owner_of(known))

    # --- Cache values and stop requests ---

    async def aput_cache_value(self, namespace: str, key: str, value: Any, ttl_seconds: int | None = None) -> Any:
        """Keep a JSON value for a while, for all users; return ``None`` where that cannot be done now."""
        given = to_storable(self._jsonable(value, "value"))
        return value if await self._run(lambda store: store.put_value(namespace, key, given, ttl_seconds)) else None

    async def aget_cache_value(self, namespace: str, key: str) -> Any:
        """Return a value, or ``None``."""
        return from_storable(await self._run(lambda store: store.get_value(namespace, key)))

    async def aclear_cache_value(self, namespace: str, key: str) -> bool:
        """Forget a value; say whether there was one."""
        return await self._run(lambda store: store.delete_value(namespace, key))

    async def alist_cache_keys(self, namespace: str, prefix: str | None = None) -> list[str]:
        """List the keys of a namespace."""
        found = await self._run(lambda store: store.value_keys(namespace))
        return [key for key in found if key.startswith(prefix or "")]

    async def arequest_stop(self, config: Config) -> bool:
        """Ask the run of a thread to stop, in whatever process it is.

        Raises:
            Exception: the framework's own for what is not available, where Redis could not be told.
        """
        key = self._stop_key(config)
        if not await self._run(lambda store: store.put_value(_STOP_REQUESTS, key, _STOP, _STOP_REQUEST_SECONDS)):
            raise self._framework.unavailable("the request to stop could not be handed on: Redis does not answer")
        return True

    async def ais_stop_requested(self, config: Config) -> bool:
        """Say whether the run of a thread was asked to stop."""
        key = self._stop_key(config)
        return bool(await self._run(lambda store: store.get_value(_STOP_REQUESTS, key)))

    async def aclear_stop_request(self, config: Config) -> bool:
        """Forget a request to stop; say whether there was one."""
        key = self._stop_key(config)
        return await self._run(lambda store: store.delete_value(_STOP_REQUESTS, key))

    # --- The ledger of tool calls ---

    async def aget_tool_result(self, config: Config, tool_call_id: str) -> Any:
        """Return what a tool call returned, or ``None``."""
        place = self._place(config)
        return from_storable(await self._run(lambda store: store.get_tool_result(place, str(tool_call_id))))

    async def aput_tool_result(self, config: Config, tool_call_id: str, result: dict[str, Any]) -> bool:
        """Record what a tool call returned; what was recorded first counts."""
        place, given = self._place(config), to_storable(self._jsonable(result, "result"))
        await self._run(lambda store: store.put_tool_result(place, str(tool_call_id), given))
        return True

    # --- Between the framework's values and plain ones ---

    @property
    def _id_types(self) -> IdTypes[Any, Any]:
        return self._stores.id_types

    async def _save(self, config: Config, state: Any, messages: list[NewMessage[Any]]) -> None:
        place, data, expected = self._place(config), self._state_data(state), self._expected(config)
        version = await self._run(lambda store: store.put_state(place, data, messages, expected=expected))
        remember_version(config, version)

    async def _run(self, operation: Callable[[CheckpointStore], Awaitable[T]]) -> T:
        with self._in_its_words():
            return await self._stores.run(operation)

    @contextmanager
    def _in_its_words(self) -> Iterator[None]:
        """Raise the framework's errors where it has one; ours is the cause."""
        framework = self._framework
        try:
            yield
        except StateConflictError as error:
            raise framework.overtaken(error) from error
        except ThreadExistsError as error:
            raise framework.refused("the thread belongs to another user") from error
        except UnavailableError as error:
            raise framework.unavailable(str(error)) from error

    def _place(self, config: Config) -> Place:
        return place_of(config, self._id_types, isolates=self._isolates(config))

    def _stop_key(self, config: Config) -> str:
        place = self._place(config)
        return f"{place.thread_id!r}:{'' if place.owner is ANY_USER else repr(place.owner)}"

    def _state_data(self, state: Any) -> Any:
        try:
            return to_storable(self._dumped(state))
        except PydanticSerializationError as error:
            raise InvalidInputError("state", "cannot be written as JSON") from error

    def _state(self, config: Config, found: Version | None) -> Any:
        remember_version(config, found.version if found else None)
        return None if found is None else self._revived(from_storable(found.data), config)

    def _new_messages(self, messages: list[Any], metadata: dict[str, Any] | None) -> list[NewMessage[Any]]:
        """Dump messages; of two with the same id the last counts."""
        given = self._jsonable(metadata or {}, "metadata")
        made: dict[Any, NewMessage[Any]] = {}
        for place, message in enumerate(messages):
            try:
                new = to_new_message(message.model_dump(mode="json"), self._id_types.id, given)
            except PydanticSerializationError as error:
                raise InvalidInputError(f"messages[{place}]", "cannot be written as JSON") from error
            made[new.message_id] = new
        return list(made.values())

    def _message(self, record: MessageRecord[Any]) -> Any:
        return self._framework.message.model_validate(to_fields(record))

    def _thread_info(self, record: ThreadRecord[Any, Any], thread_id: Any) -> Any:
        metadata, run_id = from_meta(record.meta)
        return self._framework.thread_info(
            thread_id=thread_id if isinstance(thread_id, int) else str(thread_id),
            thread_name=record.name,
            user_id=record.user_id if isinstance(record.user_id, int) else str(record.user_id),
            metadata=metadata,
            updated_at=record.updated_at,
            run_id=run_id,
        )

    def _jsonable(self, given: Any, field: str) -> Any:
        try:
            return to_jsonable_python(given, inf_nan_mode="constants")
        except PydanticSerializationError as error:
            raise InvalidInputError(field, "cannot be written as JSON") from error


def _window(search: str | None, offset: int | None, limit: int | None) -> dict[str, Any]:
    """Check what part of a list is asked for; an empty search and a limit of 0 are none."""
    for field, given in (("offset", offset), ("limit", limit)):
        if given is not None and (type(given) is not int or given < 0):
            raise InvalidInputError(field, "must be an int from 0 on")
    return {"search": search or None, "offset": offset or 0, "limit": limit or None}


def _mentions(thread_info: Any, search: str) -> bool:
    """Whether a thread has a text somewhere, whatever its case: in its ids, its name or its metadata."""
    known = thread_info.model_dump(exclude={"updated_at"}, exclude_none=True)
    return any(search.lower() in str(one).lower() for one in known.values())
