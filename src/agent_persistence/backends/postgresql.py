"""A checkpointer that keeps states in PostgreSQL, through a ``Persistence``.

    checkpointer = PostgreSQLCheckpointer(persistence=persistence, user_id="u-42")

It shares its rows with the ``Persistence``: ``persistence.states`` returns states that were saved here, and the other
way round. A thread that has only messages is listed as well, and deleting it deletes its messages. States do not
expire: ``persistence.purge`` deletes old ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar, Final, Self

from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.concurrency.time_limit import one_call
from agent_persistence.errors import InvalidInputError, SettingsError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.ids import STRING, IdType
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import Page, StateRecord
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_version

_NO_TTL: Final = "states in PostgreSQL do not expire; leave it out, and delete or purge old ones"
_ATTEMPTS: Final = 10  # to create a thread that other writers create and delete at the same time


class PostgreSQLCheckpointer(Checkpointer):
    """A checkpointer that keeps the states of one owner in PostgreSQL.

    Ids are strings for every id type of the database: the text of an int or of a UUID. All owners share the ids of
    threads: saving to another owner's thread raises ``ThreadExistsError``. Lists are in the order of the last
    saves; ``updated_at`` may be older than the last save by ``PERSISTENCE_THREAD_TOUCH_INTERVAL`` seconds.

    Args:
        user_id: the owner.
        persistence: the application's store, which is not closed.
        url: the address of a database, in place of ``persistence``; other settings are read from the environment.
        schema: with ``url``, the schema of the tables; it keeps applications apart that share a database.

    Raises:
        InvalidInputError: an argument is wrong, or both or neither of ``persistence`` and ``url`` are given.
        SettingsError: with ``url``, a variable of the environment is wrong.
    """

    capabilities: ClassVar = frozenset(Capability) - {Capability.TTL}

    def __init__(
        self,
        *,
        user_id: str,
        persistence: Persistence[Any, Any] | None = None,
        url: str | None = None,
        schema: str | None = None,
    ) -> None:
        if (persistence is None) == (url is None):
            raise InvalidInputError("persistence", "give either persistence or url")
        self._is_ours = persistence is None
        self._persistence = persistence or Persistence[Any, Any](_settings(url, schema))
        id_types = self._persistence.models.id_types
        self._id_type: IdType[Any] = id_types.id
        self._owner = _parse(id_types.user, user_id, "user_id")

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str) -> Self:
        """Create a checkpointer with a ``Persistence``, which it closes.

        Args:
            settings: the settings of the ``Persistence``.
            user_id: the owner.

        Raises:
            SettingsError: a variable is missing or wrong, or ``PERSISTENCE_CHECKPOINT_TTL_SECONDS`` is set.
        """
        if settings.checkpoint_ttl_seconds:
            raise SettingsError("PERSISTENCE_CHECKPOINT_TTL_SECONDS", _NO_TTL)
        created = cls(user_id=user_id, persistence=Persistence[Any, Any](settings))
        created._is_ours = True
        return created

    @classmethod
    def from_env(cls, *, user_id: str) -> Self:
        """Create a checkpointer from the environment: ``PERSISTENCE_*`` variables and ``.env``.

        Args:
            user_id: the owner.

        Raises:
            SettingsError: see ``from_settings``.
        """
        return cls.from_settings(PersistenceSettings(), user_id=user_id)

    async def __aenter__(self) -> Self:
        if self._is_ours:
            await self._persistence.__aenter__()
        return self

    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; see ``Checkpointer``."""
        key = self._check(thread_id, expected_version, ttl)
        with _named_state(), one_call():
            try:
                saved = await self._persistence.states.put(
                    key, state, user_id=self._owner, expected_version=expected_version
                )
            except ThreadNotFoundError:
                # Only now, because most saves find their thread: creating it first would cost each of them a statement.
                create = partial(self._create, key, state, expected_version)
                saved = await self._persistence.run(create, user_id=self._owner)
        return _checkpoint(saved)

    def check_save(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> bytes:
        """Check the arguments of ``save_state`` without the database; return the state as JSON.

        Raises:
            InvalidInputError: ``save_state`` would refuse an argument.
            CheckpointingDisabledError: the settings turned states off.
        """
        self._check(thread_id, expected_version, ttl)
        limits = CheckpointLimits.from_settings(self._persistence.settings)
        return limits.encode(limits.clean(state))

    def check_thread_id(self, thread_id: str) -> Any:
        """Return the id of a thread as the database has it.

        Raises:
            InvalidInputError: not the text of an id of its type.
        """
        return _parse(self._id_type, thread_id, "thread_id")

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or one version; see ``Checkpointer``."""
        key, states = self.check_thread_id(thread_id), self._persistence.states
        if version is None:
            found = await states.get(key, user_id=self._owner)
        else:
            found = await states.get_version(key, version, user_id=self._owner)
        return None if found is None else _checkpoint(found)

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states and messages; see ``Checkpointer``."""
        return await self._persistence.threads.delete(self.check_thread_id(thread_id), user_id=self._owner)

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, the most recently active first, without archived ones; see ``Checkpointer``."""
        page = await self._persistence.threads.page(user_id=self._owner, limit=limit, after=after)
        threads = (ThreadSummary(str(thread.thread_id), thread.created_at, thread.updated_at) for thread in page)
        return Page(tuple(threads), None, page.after, page.corrupt)

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        key = self.check_thread_id(thread_id)
        page = await self._persistence.states.page(key, user_id=self._owner, limit=limit, after=after)
        return Page(tuple(map(_checkpoint, page)), None, page.after, page.corrupt)

    async def aclose(self) -> None:
        """Close the ``Persistence``, unless it was given."""
        if self._is_ours:
            await self._persistence.aclose()

    def _check(self, thread_id: str, expected_version: int | None, ttl: float | None) -> Any:
        key = self.check_thread_id(thread_id)
        if ttl is not None:
            raise InvalidInputError("ttl", _NO_TTL)
        if expected_version is not None:
            check_version(expected_version, "expected_version")
        return key

    async def _create(
        self, key: Any, state: Any, expected_version: int | None, uow: UnitOfWork[Any, Any]
    ) -> StateRecord[Any]:
        """Create a thread with its first state in one unit of work; a conflict of versions rolls back both."""
        for _ in range(_ATTEMPTS):
            with suppress(ThreadExistsError):  # another writer created it first, or it is another owner's
                await uow.threads.create(thread_id=key)
            with suppress(ThreadNotFoundError):  # it was deleted again, or is another owner's
                return await uow.states.put(key, state, expected_version=expected_version)
        raise ThreadExistsError(key)


def _settings(url: str | None, schema: str | None) -> PersistenceSettings:
    given = {"database_url": url, "db_schema": schema}
    return PersistenceSettings(**{name: value for name, value in given.items() if value is not None})


def _parse(kind: IdType[Any], text: str, field: str) -> Any:
    """Parse an id, of which only the canonical spelling is accepted, so that a list returns the ids unchanged."""
    return kind.parse_exact(STRING.validate(text, field), field)


@contextmanager
def _named_state() -> Iterator[None]:
    """Rename the field of an ``InvalidInputError``: the argument ``data`` of the core is ``state`` here."""
    try:
        yield
    except InvalidInputError as error:
        if not error.field.startswith("data"):
            raise
        raise InvalidInputError(f"state{error.field.removeprefix('data')}", error.reason) from None


def _checkpoint(found: StateRecord[Any]) -> Checkpoint:
    return Checkpoint(str(found.thread_id), found.version, found.data, found.created_at)
