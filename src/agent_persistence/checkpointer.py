"""The protocol of checkpointers: how agents save, load, list and delete states, whichever the store.

    async def resume(checkpointer: Checkpointer, thread_id: str) -> None:
        found = await checkpointer.load_state(thread_id)
        state = await step(found.state if found else {})
        await checkpointer.save_state(thread_id, state, expected_version=found.version if found else 0)

A checkpointer belongs to one owner, and does not see the threads of others. States are JSON, and every backend returns
them equal and of the same types. ``agent_persistence.testing.CheckpointerContract`` tests that a backend keeps the
contract.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import field
from datetime import datetime
from enum import Enum
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from agent_persistence.frozen import frozen
from agent_persistence.records import Page


class Capability(Enum):
    """An optional feature of a backend, beyond saving, loading, listing and deleting. Backends declare theirs."""

    HISTORY = "keeps older versions of a state"
    EXPECTED_VERSION = "saves over the version that was read, or not at all"
    TTL = "lets a state expire"
    OWNERS = "keeps the threads of several owners apart"
    NAMESPACE = "keeps applications apart that share a store"
    SURVIVES_RESTART = "has everything again in another process"


@frozen
class Checkpoint:
    """One saved state of a thread.

    Attributes:
        thread_id: the thread.
        version: grows with every save of the thread, and is never used twice, not even after the thread was deleted.
        state: the JSON value.
        created_at: when it was saved.
        expires_at: when it expires; ``None`` if it does not.
        durable: ``False`` if it is from this process's memory because the database is down; see ``DegradedMode``.
    """

    thread_id: str
    version: int
    state: Any = field(repr=False)  # a user's data, which must not get into logs
    created_at: datetime
    expires_at: datetime | None = None
    durable: bool = True


@frozen
class ThreadSummary:
    """A thread in a list.

    Attributes:
        thread_id: its id.
        created_at: when its first state was saved.
        updated_at: when its latest state was saved; lists are sorted by it.
    """

    thread_id: str
    created_at: datetime
    updated_at: datetime


class Checkpointer(Protocol):
    """A store for the states of one owner's threads.

    Use it as an async context manager, which closes the connections that it opened.

    Attributes:
        capabilities: the optional features; an argument that needs another one raises ``InvalidInputError``.
    """

    capabilities: ClassVar[frozenset[Capability]]

    # Abstract, although this is a protocol: a backend that inherits and lacks a method fails when it is created.
    @abstractmethod
    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; create the thread if it does not exist.

        Args:
            thread_id: the thread: a string of 1 to 255 characters, without control characters.
            state: any JSON value.
            expected_version: save only if this is still the latest version; 0 if the thread must have no state. After
                the thread was deleted, a late save with its version is refused; one without a version creates it again.
            ttl: seconds until the state expires. The thread expires with its latest state.

        Returns:
            The checkpoint, with its version.

        Raises:
            StateConflictError: ``expected_version`` is not the latest version.
            ThreadExistsError: the thread is another owner's, in a store where all owners share the ids.
            InvalidInputError: an argument was refused; nothing was saved.
            CheckpointingDisabledError: the settings turned states off.
            UnavailableError: the store cannot be reached; nothing was saved.
            CommitUnknownError: the reply was lost, so the state may have been saved; load it before saving again.
        """

    @abstractmethod
    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or one version; ``None`` if it does not exist or has expired.

        Args:
            thread_id: the thread.
            version: the version of an earlier state, which needs ``Capability.HISTORY``.

        Raises:
            InvalidInputError: an argument was refused.
            CorruptRowError: the stored state cannot be read.
        """

    @abstractmethod
    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states.

        Returns:
            Whether the thread existed.
        """

    @abstractmethod
    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, the last saved first.

        A thread that is saved while the list is read moves to the top. Only such a thread can be listed twice.

        Args:
            limit: the size of the page, 1 to 1,000.
            after: ``page.after`` of the previous page.
        """

    @abstractmethod
    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; an empty page if the thread does not exist.

        Args:
            thread_id: the thread.
            limit: the size of the page, 1 to 1,000.
            after: ``page.after`` of the previous page.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections that this object opened; a client or store that it was given stays open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
