"""The asynchronous methods of the frameworks' checkpointers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, TypeVar

from agent_persistence.cache.named_values import Name
from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.errors import InvalidInputError, MessageNotFoundError
from agent_persistence.ids import IdTypes
from agent_persistence.integrations.checkpointing.arguments import Arguments
from agent_persistence.integrations.checkpointing.conversion import new_messages, storable, thread_meta
from agent_persistence.integrations.checkpointing.framework import Framework
from agent_persistence.integrations.checkpointing.run_config import (
    ThreadRef,
    exact_id,
    expected_version,
    message_key,
    remember_version,
    thread_ref,
    user_of,
)
from agent_persistence.integrations.checkpointing.store import CheckpointStore, VersionedState
from agent_persistence.integrations.checkpointing.stores import Stores
from agent_persistence.integrations.json_values import json_errors, jsonable
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewMessage, ThreadRecord
from agent_persistence.validation import check_ttl

P = ParamSpec("P")
T = TypeVar("T")
Config = dict[str, Any]

_STOP_REQUESTS: Final = "stop_request"
_STOP_REQUEST_SECONDS: Final = 3600
_STOP: Final = "stop"


class NoSuchMessageError(MessageNotFoundError, IndexError):
    """The user's thread has no such message; also an ``IndexError``, which the frameworks raise here."""


class AsyncMethods:
    """A checkpointer over threads, states and messages in PostgreSQL, with a cache in Redis where one is configured.

    The methods take the ``config`` of the run. It names the thread by ``thread_id`` and its user by ``user_id``, in the
    id types of the database (``"7"`` may stand for ``7``). A thread that the call creates gets ``thread_name`` and
    ``thread_meta`` of the config. Threads of other users do not exist for the call, unless isolation is off.

    All methods raise the framework's error where it has one, with this package's as the cause, and else:

    Raises:
        InvalidInputError: an argument cannot be used, or the config lacks an id; ``field`` names it.
        ClosedError: ``release`` was called during the call.
    """

    _framework: ClassVar[Framework]

    def __init__(  # noqa: PLR0917 - the positions of PgCheckpointer
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
        """Take the arguments of ``PgCheckpointer``, and ``persistence``; nothing connects before the first call.

        Args:
            postgres_dsn: the address of the database, whose schema must be up to date: ``agent-persistence upgrade``.
            pg_pool: the host's ``asyncpg.Pool``, used and not closed.
            pool_config: ``max_size``, ``timeout``, ``command_timeout`` and ``max_inactive_connection_lifetime``, as
                ``asyncpg.create_pool`` takes them; the times are in seconds.
            redis_url: the address of Redis. Without Redis there is no cache, and drafts, cache values and stop requests
                stay in this process.
            redis, redis_pool: the host's client or its connection pool, used and not closed; without
                ``decode_responses``.
            redis_pool_config: arguments of the connection pool that is made of ``redis_url``.
            schema: the PostgreSQL schema of the tables.
            persistence: the host's open ``Persistence``, in place of all addresses.
            id_type, user_id_type: ``"string"``, ``"int"``, ``"bigint"`` or ``"uuid"``, as the database was built.
            cache_ttl: the lifetime of cached states, drafts and cache values, in seconds.
            release_resources: whether ``arelease`` closes the host's resources, too.
            state_history_limit: how many states a thread keeps; all by default.
            enforce_user_isolation: whether a thread is visible to its user only. An authorization policy in Agentflow's
                config overrides it.

        Raises:
            InvalidInputError: the arguments name no database, or one is not supported.
            SettingsError: an address is wrong.
        """
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
                id_type=id_type or self._framework.default_id_type(),
                user_id_type=user_id_type,
                cache_ttl=cache_ttl,
                release_resources=release_resources,
                state_history_limit=state_history_limit,
            )
        )

    # --- Where the frameworks differ ---

    @abstractmethod
    def _dump_state(self, state: Any) -> dict[str, Any]:
        """Dump a state to JSON types."""

    @abstractmethod
    def _load_state(self, data: dict[str, Any], config: Config) -> Any:
        """Make a state of its dump."""

    @abstractmethod
    def _isolates(self, config: Config) -> bool:
        """Whether a thread is visible to its user only."""

    def _expected_version(self, config: Config) -> int | None:
        """Return the version that a state may be saved over, or ``None`` for any."""
        return expected_version(config)

    # --- Set-up and release ---

    async def asetup(self) -> bool:
        """Connect and check the schema; return ``True``. It creates no tables, and may be left out.

        Raises:
            NotMigratedError: the schema is behind this version or empty; run its ``command``.
            IdTypeMismatchError: the database was built with another id type.
        """
        await self._run(CheckpointStore.check)
        return True

    async def arelease(self) -> bool:
        """Close the connections that the checkpointer opened, and return ``True``; a later call opens new ones."""
        await self._stores.release()
        return True

    # --- States ---

    async def aput_state(self, config: Config, state: Any) -> Any:
        """Save a state as the thread's latest, and return it.

        With Agentflow, it is refused if another run has saved a state since this run read or saved one.
        """
        await self._save(config, state, [])
        return state

    async def aput_checkpoint(
        self, config: Config, state: Any, messages: list[Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> Any:
        """Save a state and messages in one transaction, and return the state; see ``aput_state``, ``aput_messages``."""
        await self._save(config, state, new_messages(messages or [], metadata, self._id_types.id))
        return state

    async def aget_state(self, config: Config) -> Any:
        """Return the latest saved state of the thread, or ``None``."""
        return self._loaded(config, await self._run(CheckpointStore.get_state, self._thread(config)))

    async def aclear_state(self, config: Config) -> bool:
        """Delete all states of the thread, and its draft; return ``True``."""
        await self._run(CheckpointStore.clear_state, self._thread(config))
        remember_version(config, None)
        return True

    async def aput_state_cache(self, config: Config, state: Any) -> Any:
        """Keep the state of a run between two checkpoints, as a draft that may be lost.

        Returns:
            The state, or ``None`` if Redis did not take it.
        """
        thread, data = self._thread(config), self._dumped(state)
        kept = await self._run(CheckpointStore.put_draft, thread, data, base=expected_version(config))
        return state if kept else None

    async def aget_state_cache(self, config: Config) -> Any:
        """Return the draft of the thread, or the latest saved state if that is newer or there is no draft."""
        saved, draft = await self._run(CheckpointStore.get_latest, self._thread(config))
        if draft is not None:
            # Any error: another version of the application may have written the draft, and the table has a state.
            with suppress(Exception):
                return self._loaded(config, draft)
        return self._loaded(config, saved)

    # --- Messages ---

    async def aput_messages(self, config: Config, messages: list[Any], metadata: dict[str, Any] | None = None) -> bool:
        """Append messages to the thread, all of them or none; return ``True``.

        Args:
            messages: a message whose id exists in the thread replaces that one, in its position.
            metadata: of the call; stored with each message.
        """
        thread, new = self._thread(config), new_messages(messages, metadata, self._id_types.id)
        if new:
            await self._run(CheckpointStore.put_messages, thread, new)
        return True

    async def aget_message(self, config: Config, message_id: str | int) -> Any:
        """Return a message.

        Raises:
            NoSuchMessageError: the thread has no such message; also an ``IndexError``.
        """
        thread, key = self._thread(config), message_key(message_id, self._id_types.id)
        record = await self._run(CheckpointStore.get_message, thread, key)
        if record is None:
            raise NoSuchMessageError(thread.thread_id, key)
        return self._framework.to_message(record)

    async def alist_messages(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """List the messages of the thread in their order.

        Args:
            search: only messages whose text contains this, in any case.
            offset: how many messages to skip.
            limit: how many messages to return; all for ``None`` and ``0``.
        """
        thread, window = self._thread(config), _window(offset, limit)
        records = await self._run(CheckpointStore.list_messages, thread, search=search or None, **window)
        return [self._framework.to_message(record) for record in records]

    async def adelete_message(self, config: Config, message_id: str | int) -> bool:
        """Delete a message, and return ``True``.

        Raises:
            NoSuchMessageError: the thread has no such message; also an ``IndexError``.
        """
        thread, key = self._thread(config), message_key(message_id, self._id_types.id)
        if not await self._run(CheckpointStore.delete_message, thread, key):
            raise NoSuchMessageError(thread.thread_id, key)
        return True

    # --- Threads ---

    async def aput_thread(self, config: Config, thread_info: Any) -> bool:
        """Create the thread, or update its name and metadata; return ``True``.

        Args:
            thread_info: the framework's ``ThreadInfo``. Without a ``thread_name``, the thread keeps its name.
        """
        thread = self._thread(config)
        given = thread_info.user_id
        if given is not None and exact_id(given, self._id_types.user, "thread_info.user_id") != thread.user_id:
            raise InvalidInputError("thread_info.user_id", "is not the user of the config")
        with json_errors("thread_info.metadata"):
            meta = thread_meta(jsonable(thread_info.metadata or {}, "thread_info.metadata"), thread_info.run_id)
        await self._run(CheckpointStore.put_thread, thread, thread_info.thread_name, meta)
        return True

    async def aget_thread(self, config: Config) -> Any:
        """Return the thread as a ``ThreadInfo``, or ``None``."""
        record = await self._run(CheckpointStore.get_thread, self._thread(config))
        return None if record is None else self._framework.to_thread_info(record, config["thread_id"])

    async def alist_threads(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """List the user's threads, the most recently active first.

        Args:
            config: needs no ``thread_id``, and no ``user_id`` if users are not isolated.
            search: only threads that contain this in an id, the name or the metadata, in any case. It is looked for in
                this process, so all threads of the user are read.
            offset: how many threads to skip.
            limit: how many threads to return; all for ``None`` and ``0``.
        """
        window = _window(offset, limit)
        owner = user_of(config, self._id_types) if self._isolates(config) else ANY_USER
        matches = partial(self._mentions, search.lower()) if search else None
        records = await self._run(CheckpointStore.list_threads, owner, matches, **window)
        return [self._framework.to_thread_info(record) for record in records]

    async def aclean_thread(self, config: Config) -> bool:
        """Delete the thread with its contents; return whether it existed."""
        deleted = await self._run(CheckpointStore.delete_thread, self._thread(config))
        remember_version(config, None)
        return deleted

    async def aget_thread_owner(self, thread_id: str | int) -> Any:
        """Return the owner of a thread, for any caller, or ``None`` if there is no such thread."""
        try:
            exact = exact_id(thread_id, self._id_types.id, "thread_id")
        except InvalidInputError:
            return None
        return await self._run(CheckpointStore.owner_of, exact)

    # --- Cache values and stop requests ---

    async def aput_cache_value(self, namespace: str, key: str, value: Any, ttl_seconds: int | None = None) -> Any:
        """Cache a JSON value for all users.

        Args:
            ttl_seconds: its lifetime; ``cache_ttl`` of the checkpointer by default.

        Returns:
            The value, or ``None`` if Redis did not take it.
        """
        if ttl_seconds is not None:
            check_ttl(ttl_seconds, "ttl_seconds")
        kept = await self._run(
            CheckpointStore.put_value, _value_name(namespace, key), storable(value, "value"), ttl_seconds
        )
        return value if kept else None

    async def aget_cache_value(self, namespace: str, key: str) -> Any:
        """Return a cached value, or ``None``."""
        stored = await self._run(CheckpointStore.get_value, _value_name(namespace, key))
        try:
            return from_storable(stored)
        except (ValueError, RecursionError):  # not one that this package has written
            return None

    async def aclear_cache_value(self, namespace: str, key: str) -> bool:
        """Delete a cached value; return whether it existed."""
        return await self._run(CheckpointStore.delete_value, _value_name(namespace, key))

    async def alist_cache_keys(self, namespace: str, prefix: str | None = None) -> list[str]:
        """List the keys of a namespace that begin with ``prefix``, in no order."""
        keys = await self._run(CheckpointStore.value_keys, _values_in(namespace))
        return [key for key in keys if key.startswith(prefix or "")]

    async def arequest_stop(self, config: Config) -> bool:
        """Ask the run of the thread to stop, in any process; return ``True``. The request expires after an hour.

        Raises:
            Exception: the framework's error for unavailable storage: Redis did not take the request.
        """
        name = self._stop_request(config)
        if not await self._run(CheckpointStore.put_value, name, _STOP, _STOP_REQUEST_SECONDS):
            raise self._framework.unavailable("the request to stop was not delivered: Redis does not answer")
        return True

    async def ais_stop_requested(self, config: Config) -> bool:
        """Return whether the run of the thread was asked to stop; ``False`` if Redis does not answer."""
        return bool(await self._run(CheckpointStore.get_value, self._stop_request(config)))

    async def aclear_stop_request(self, config: Config) -> bool:
        """Delete the request to stop; return whether there was one."""
        return await self._run(CheckpointStore.delete_value, self._stop_request(config))

    # --- Results of tool calls ---

    async def aget_tool_result(self, config: Config, tool_call_id: str) -> Any:
        """Return the recorded result of a tool call, or ``None``."""
        return from_storable(await self._run(CheckpointStore.get_tool_result, self._thread(config), str(tool_call_id)))

    async def aput_tool_result(self, config: Config, tool_call_id: str, result: dict[str, Any]) -> bool:
        """Record the result of a tool call, unless one is recorded; return ``True``."""
        thread, found = self._thread(config), storable(result, "result")
        await self._run(CheckpointStore.put_tool_result, thread, str(tool_call_id), found)
        return True

    # --- Helpers ---

    @property
    def _id_types(self) -> IdTypes[Any, Any]:
        return self._stores.id_types

    async def _run(
        self, operation: Callable[Concatenate[CheckpointStore, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with self._framework.translated_errors():
            return await self._stores.run(operation, *args, **kwargs)

    async def _save(self, config: Config, state: Any, messages: list[NewMessage[Any]]) -> None:
        thread, data, expected = self._thread(config), self._dumped(state), self._expected_version(config)
        version = await self._run(CheckpointStore.put_state, thread, data, messages, expected=expected)
        remember_version(config, version)

    def _thread(self, config: Config) -> ThreadRef:
        return thread_ref(config, self._id_types, isolates=self._isolates(config))

    def _stop_request(self, config: Config) -> Name:
        thread = self._thread(config)
        owner = "" if thread.owner is ANY_USER else repr(thread.owner)
        return _value_name(_STOP_REQUESTS, f"{thread.thread_id!r}:{owner}")

    def _dumped(self, state: Any) -> Any:
        with json_errors("state"):
            return to_storable(self._dump_state(state))

    def _loaded(self, config: Config, state: VersionedState | None) -> Any:
        # The next save of this run must be over this version; see _expected_version.
        remember_version(config, state.version if state else None)
        return None if state is None else self._load_state(from_storable(state.data), config)

    def _mentions(self, search: str, record: ThreadRecord[Any, Any]) -> bool:
        # The test of the frameworks' in-memory checkpointers, so that a search finds the same threads.
        fields = self._framework.to_thread_info(record).model_dump(exclude={"updated_at"}, exclude_none=True)
        return any(search in str(value).lower() for value in fields.values())


def _window(offset: int | None, limit: int | None) -> dict[str, Any]:
    for field, value in (("offset", offset), ("limit", limit)):
        if value is not None and (type(value) is not int or value < 0):
            raise InvalidInputError(field, "must be a non-negative int")
    return {"offset": offset or 0, "limit": limit or None}


def _value_name(namespace: str, key: str) -> Name:
    return _values_in(namespace), key


def _values_in(namespace: str) -> str:
    return f"values:{namespace}"  # apart from the drafts
