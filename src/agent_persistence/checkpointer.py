"""``Checkpointer``: what an agent framework needs of a store, and what each of our backends gives.

    async def resume(checkpointer: Checkpointer, thread_id: str) -> None:
        found = await checkpointer.load_state(thread_id)
        state = await step(found.state if found else {})
        await checkpointer.save_state(thread_id, state, expected_version=found.version if found else 0)

A checkpointer belongs to one owner: what belongs to somebody else does not exist for it. States are JSON, and come back
equal and of the same types from every backend. ``agent_persistence.testing.CheckpointerContract`` holds a backend to
what is said here.
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
    """What a backend can do beyond saving, loading, listing and deleting. It is declared, not found out."""

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
        version: grows with every save of a thread, and is never used twice, not even after the thread was deleted.
        expires_at: when it ceases to exist; ``None`` if it does not.
        durable: ``False`` where it comes from this process's memory because the store is away; see ``DegradedMode``.
    """

    thread_id: str
    version: int
    state: Any = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    durable: bool = True


@frozen
class ThreadSummary:
    """A thread in a list.

    Attributes:
        updated_at: when its latest state was saved: lists are sorted by it.
    """

    thread_id: str
    created_at: datetime
    updated_at: datetime


class Checkpointer(Protocol):
    """Keeps the states of one owner's threads. Use it as an async context manager: it closes what it opened.

    Attributes:
        capabilities: what it can do; an argument that needs more is refused with ``InvalidInputError``.
    """

    capabilities: ClassVar[frozenset[Capability]]

    @abstractmethod
    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; a thread that does not exist begins with it.

        Args:
            state: any JSON value.
            expected_version: save only if this is still the latest version (0: the thread has no state). A late save
                with the version of a deleted thread is refused therefore; one without a version begins it anew.
            ttl: seconds until this state expires, and with it, unless another one was saved meanwhile, its thread.

        Raises:
            StateConflictError: ``expected_version`` is not the latest version.
            ThreadExistsError: the thread belongs to somebody else, in a store where all owners share the ids.
            InvalidInputError: an argument was refused; nothing was saved.
            CheckpointingDisabledError: the settings turned states off.
        """

    @abstractmethod
    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or that of a version; ``None`` where there is none."""

    @abstractmethod
    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states; say whether there was one."""

    @abstractmethod
    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, that of the latest save first; ``page.after`` leads on.

        A thread that is saved while the list is read moves to its top. No thread is listed twice unless it did so.

        Args:
            limit: how many, 1 to 1,000.
            after: the cursor of an earlier page.
        """

    @abstractmethod
    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; ``page.after`` leads on to older ones.

        Args:
            limit: how many, 1 to 1,000.
            after: the cursor of an earlier page.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close what this object opened, and nothing that it was given."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
