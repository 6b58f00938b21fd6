"""The common part of the backends without PostgreSQL: checks of arguments, limits, and pages with their cursors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.encoding.cursors import decode_cursor, encode_cursor
from agent_persistence.encoding.timestamps import MICROSECONDS, moment, moment_or_none
from agent_persistence.errors import StateConflictError
from agent_persistence.ids import STRING
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_limit, check_namespace, check_version


@dataclass(slots=True, repr=False)  # a repr would show a user's state
class StateToSave:
    """The checked arguments of ``save_state``.

    Attributes:
        thread_id: the thread.
        state: the state, with its unstorable characters replaced if the limits say so.
        json: the state, encoded.
        expected: the version that must be the latest; ``None`` for any.
        lifetime: microseconds until the state expires; ``None`` if it does not.
    """

    thread_id: str
    state: Any
    json: bytes
    expected: int | None
    lifetime: int | None

    def check_version(self, found: int) -> None:
        """Raise ``StateConflictError`` unless the latest version is the expected one."""
        if self.expected is not None and self.expected != found:
            raise StateConflictError(self.thread_id, self.expected, found)

    def expiry(self, saved: int) -> int | None:
        """Return when the state expires if it is saved at a time; both in microseconds since 1970."""
        return None if self.lifetime is None else saved + self.lifetime


class ThreadRow(NamedTuple):
    """A thread in a list; times are in microseconds since 1970.

    A cursor holds the first column, or the first two: the columns by which the store continues a list.
    """

    updated: int
    thread_id: str
    created: int


class BaseCheckpointer(Checkpointer):
    """A checkpointer whose arguments are checked here; a backend adds the storage.

    Args:
        user_id: the owner.
        namespace: keeps applications apart that share a store.
        limits: how much to keep, and for how long.
    """

    # Both determine the text of cursors, so they must not change: callers may hold cursors of an earlier release.
    _store_name: ClassVar[str]
    _cursor_columns: ClassVar = 1

    def __init__(self, user_id: str, namespace: str, limits: CheckpointLimits | None) -> None:
        self._owner = STRING.validate(user_id, "user_id")
        self._namespace = check_namespace(namespace, "namespace")
        self._limits = limits or CheckpointLimits()

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str) -> Self:
        """Create a checkpointer with the namespace, the limits and the server of the settings."""

    @classmethod
    def from_env(cls, *, user_id: str) -> Self:
        """Create a checkpointer from the environment: ``PERSISTENCE_*`` variables and ``.env``.

        Args:
            user_id: the owner.

        Raises:
            SettingsError: a variable is missing or wrong.
        """
        return cls.from_settings(PersistenceSettings(), user_id=user_id)

    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; see ``Checkpointer``."""
        STRING.validate(thread_id, "thread_id")
        seconds = self._limits.lifetime(ttl)
        lifetime = None if seconds is None else int(seconds * MICROSECONDS)
        if expected_version is not None:
            check_version(expected_version, "expected_version")
        cleaned = self._limits.clean(state)
        # Encoded before anything is sent: a refused state leaves no trace, and every attempt sends the same bytes.
        json = self._limits.encode(cleaned)
        return await self._save(StateToSave(thread_id, cleaned, json, expected_version, lifetime))

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or one version; see ``Checkpointer``."""
        STRING.validate(thread_id, "thread_id")
        if version is not None:
            check_version(version, "version")
        return await self._load(thread_id, version)

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states; see ``Checkpointer``."""
        return await self._delete(STRING.validate(thread_id, "thread_id"))

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, the last saved first; see ``Checkpointer``."""
        check_limit(limit, "limit", 1000)
        listing = f"{self._store_name} threads"
        start = None if after is None else decode_cursor(after, listing, "after", self._read_position)
        rows = await self._list(limit + 1, start)  # one more than the page has shows whether another page follows
        threads = (ThreadSummary(row.thread_id, moment(row.created), moment(row.updated)) for row in rows[:limit])
        more = encode_cursor(listing, *rows[limit - 1][: self._cursor_columns]) if len(rows) > limit else None
        return Page(tuple(threads), None, more)

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        STRING.validate(thread_id, "thread_id")
        check_limit(limit, "limit", 1000)
        before = None if after is None else decode_cursor(after, f"{self._store_name} states", "after", int)
        return await self._history(thread_id, limit, before)

    @abstractmethod
    async def _save(self, new: StateToSave) -> Checkpoint: ...

    @abstractmethod
    async def _load(self, thread_id: str, version: int | None) -> Checkpoint | None: ...

    @abstractmethod
    async def _delete(self, thread_id: str) -> bool: ...

    @abstractmethod
    async def _list(self, count: int, start: Any) -> Sequence[ThreadRow]:
        """Return so many threads at most, from a position on that ``_read_position`` returned."""

    @abstractmethod
    async def _history(self, thread_id: str, limit: int, before: int | None) -> Page[Checkpoint]: ...

    def _read_position(self, *position: Any) -> Any:
        """Return the position that a cursor holds; a ``ValueError`` or ``TypeError`` refuses the cursor."""
        [updated] = position
        return int(updated)

    def _states_cursor(self, versions: Sequence[int], limit: int) -> str | None:
        """Return the cursor after a page of states, given the versions that were found; ``None`` at the end."""
        return encode_cursor(f"{self._store_name} states", versions[limit - 1]) if len(versions) > limit else None


def is_alive(expires: int | None, now: int) -> bool:
    """Return whether a state or thread has not expired; both times are in microseconds since 1970."""
    return expires is None or now < expires


def checkpoint(thread_id: str, version: int, state: Any, created: int, expires: int | None) -> Checkpoint:
    """Return a checkpoint; both times are in microseconds since 1970."""
    return Checkpoint(thread_id, version, state, moment(created), moment_or_none(expires))
