"""States in PostgreSQL: ``Persistence``, seen as a checkpointer.

    checkpointer = PostgreSQLCheckpointer(persistence=persistence, user_id="u-42")

Rows are those of the core: what is saved here is found by ``persistence.states``, and the other way round. A thread
that has messages only is listed as well, and deleting it deletes them. States do not expire: ``persistence.purge``
removes old ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final, Self

from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.errors import InvalidInputError, SettingsError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.ids import IdType
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import Page, StateRecord
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_version

_NO_TTL: Final = "states in PostgreSQL do not expire; leave it out, and delete or purge what is old"
_TRIES: Final = 10  # of a writer who meets others that begin and delete the same thread


class PostgreSQLCheckpointer(Checkpointer):
    """Keeps the states of one owner in PostgreSQL.

    Ids are strings here whatever the database was built with: the text of an int or of a UUID. All owners share the ids
    of threads: one that somebody else has is ``ThreadExistsError``. A list is ordered by ``updated_at``, which moves at
    most once in ``PERSISTENCE_THREAD_TOUCH_INTERVAL`` seconds; 0 makes the order exact.

    Args:
        user_id: the owner.
        persistence: one of the host's, used and not closed.
        url: the address of a database instead; everything else is taken from the environment.
        schema: with ``url``, the schema of the tables, which keeps applications apart that share a database.
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
        self._kind: IdType[Any] = id_types.id
        self._owner = _parse(id_types.user, user_id, "user_id")

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str) -> Self:
        """Make one with a ``Persistence`` of its own.

        Raises:
            SettingsError: a variable is missing, or wrong, or asks for what PostgreSQL does not do.
        """
        if settings.checkpoint_ttl_seconds:
            raise SettingsError("PERSISTENCE_CHECKPOINT_TTL_SECONDS", _NO_TTL)
        made = cls(user_id=user_id, persistence=Persistence[Any, Any](settings))
        made._is_ours = True
        return made

    @classmethod
    def from_env(cls, *, user_id: str) -> Self:
        """Make one from ``PERSISTENCE_*`` and ``.env``."""
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
        with _named_state():
            try:
                saved = await self._persistence.states.put(
                    key, state, user_id=self._owner, expected_version=expected_version
                )
            except ThreadNotFoundError:
                saved = await self._begin(key, state, expected_version)
        return _checkpoint(saved)

    def check_save(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> bytes:
        """Refuse what ``save_state`` would refuse without asking the database; return the state as JSON."""
        self._check(thread_id, expected_version, ttl)
        limits = CheckpointLimits.from_settings(self._persistence.settings)
        return limits.encode(limits.clean(state))

    def check_thread_id(self, thread_id: str) -> None:
        """Refuse what every method would refuse."""
        self._thread_id(thread_id)

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or that of a version; see ``Checkpointer``."""
        key, states = self._thread_id(thread_id), self._persistence.states
        if version is None:
            found = await states.get(key, user_id=self._owner)
        else:
            found = await states.get_version(key, version, user_id=self._owner)
        return None if found is None else _checkpoint(found)

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states and messages; see ``Checkpointer``."""
        return await self._persistence.threads.delete(self._thread_id(thread_id), user_id=self._owner)

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, the most recently active first, archived ones left out; see ``Checkpointer``."""
        page = await self._persistence.threads.page(user_id=self._owner, limit=limit, after=after)
        threads = (ThreadSummary(str(thread.thread_id), thread.created_at, thread.updated_at) for thread in page)
        return Page(tuple(threads), None, page.after, page.corrupt)

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        key = self._thread_id(thread_id)
        page = await self._persistence.states.page(key, user_id=self._owner, limit=limit, after=after)
        return Page(tuple(map(_checkpoint, page)), None, page.after, page.corrupt)

    async def aclose(self) -> None:
        """Close the ``Persistence``, if it was made here."""
        if self._is_ours:
            await self._persistence.aclose()

    def _check(self, thread_id: str, expected_version: int | None, ttl: float | None) -> Any:
        key = self._thread_id(thread_id)
        if ttl is not None:
            raise InvalidInputError("ttl", _NO_TTL)
        if expected_version is not None:
            check_version(expected_version, "expected_version")
        return key

    async def _begin(self, key: Any, state: Any, expected_version: int | None) -> StateRecord[Any]:
        """Save the first state of a thread together with the thread; a conflict takes both back."""

        async def begin(uow: UnitOfWork[Any, Any]) -> StateRecord[Any]:
            for _ in range(_TRIES):
                with suppress(ThreadExistsError):  # another writer began it meanwhile, or it is somebody else's
                    await uow.threads.create(thread_id=key)
                with suppress(ThreadNotFoundError):  # it was deleted again, or is somebody else's
                    return await uow.states.put(key, state, expected_version=expected_version)
            raise ThreadExistsError(key)

        return await self._persistence.run(begin, user_id=self._owner)

    def _thread_id(self, thread_id: str) -> Any:
        return _parse(self._kind, thread_id, "thread_id")


def _settings(url: str | None, schema: str | None) -> PersistenceSettings:
    given = {"database_url": url, "db_schema": schema}
    return PersistenceSettings(**{name: value for name, value in given.items() if value is not None})


def _parse(kind: IdType[Any], text: str, field: str) -> Any:
    """Read an id; of a number only the usual way to write it, so that a text comes back as it was."""
    if not isinstance(text, str):
        raise InvalidInputError(field, f"must be a string, not {type(text).__name__}")
    found = kind.parse(text, field)
    if str(found) != text:
        raise InvalidInputError(field, f"must be written as {kind.name}s usually are, without signs, spaces and braces")
    return found


@contextmanager
def _named_state() -> Iterator[None]:
    """The core calls ``data`` what is called ``state`` here."""
    try:
        yield
    except InvalidInputError as error:
        if not error.field.startswith("data"):
            raise
        refusal = InvalidInputError(f"state{error.field.removeprefix('data')}", error.reason)
    else:
        return
    raise refusal


def _checkpoint(found: StateRecord[Any]) -> Checkpoint:
    return Checkpoint(str(found.thread_id), found.version, found.data, found.created_at)
