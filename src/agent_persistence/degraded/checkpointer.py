"""A checkpointer of PostgreSQL that falls back on this process's memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.checkpointer import Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.degraded.journal import FIRST_PROVISIONAL, Place
from agent_persistence.encoding.exact_json import encode_json
from agent_persistence.errors import StateConflictError, UnavailableError
from agent_persistence.records import Page

if TYPE_CHECKING:
    from agent_persistence.degraded.mode import DegradedMode


class DegradedCheckpointer(Checkpointer):
    """``PostgreSQLCheckpointer`` while the database is there; made by ``DegradedMode.checkpointer``.

    While it is not, ``save_state`` keeps states in memory, and ``load_state`` returns the latest one that this process
    knows: both say ``durable=False``. All else is asked of the database, or refused for a thread that waits for it.
    """

    capabilities: ClassVar = PostgreSQLCheckpointer.capabilities

    def __init__(self, mode: DegradedMode, direct: PostgreSQLCheckpointer, user_id: str) -> None:
        self._mode = mode
        self._direct = direct
        self._user_id = user_id

    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; see ``Checkpointer``.

        Without the database it is kept for later: ``durable=False``, and the version is provisional. It can be expected
        and loaded in this process, also when the database has it, under a version of its own then.

        Raises:
            UnavailableError: the database is away, and memory is full.
        """
        json = self._direct.check_save(thread_id, state, expected_version=expected_version, ttl=ttl)
        place, mode = self._place(thread_id), self._mode
        if not mode.is_on:
            settled = None if expected_version is None else mode.journal.settled(expected_version)
            try:
                saved = await self._direct.save_state(thread_id, state, expected_version=settled)
            except UnavailableError as error:
                mode.begin(error)
            else:
                mode.known.put(place, saved.version, json, saved.created_at)
                return saved
        if expected_version is not None:
            self._expect(place, expected_version)
        return mode.take_in(place, json, expected_version).checkpoint

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or that of a version; see ``Checkpointer``.

        Without the database it is the latest that this process saved or loaded: ``durable=False``.

        Raises:
            UnavailableError: the database is away, and the thread is not known here.
        """
        place = self._place(thread_id)
        if self._mode.is_on and (found := self._recall(place, version)) is not None:
            return found
        try:
            return await self._ask(place, version)
        except UnavailableError as error:
            self._mode.begin(error)
            if (found := self._recall(place, version)) is None:
                raise
            return found

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states and messages; see ``Checkpointer``."""
        self._mode.known.forget(self._settled_place(thread_id))
        return await self._direct.delete_thread(thread_id)

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads that the database has; see ``Checkpointer``."""
        return await self._direct.list_threads(limit=limit, after=after)

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        self._settled_place(thread_id)
        return await self._direct.state_history(thread_id, limit=limit, after=after)

    async def aclose(self) -> None:
        """Nothing is open: ``DegradedMode.aclose`` writes what waits."""

    async def _ask(self, place: Place, version: int | None) -> Checkpoint | None:
        if version is not None:
            return await self._direct.load_state(place.thread_id, version=self._mode.journal.settled(version))
        found = await self._direct.load_state(place.thread_id)
        if found is None:
            self._mode.known.forget(place)
        else:
            json = encode_json(found.state, "state", max_bytes=sys.maxsize)
            self._mode.known.put(place, found.version, json, found.created_at)
        return found

    def _recall(self, place: Place, version: int | None) -> Checkpoint | None:
        """Return what this process knows."""
        journal = self._mode.journal
        waiting = journal.latest(place) if version is None else journal.find(place, version)
        if waiting is not None:
            return waiting.checkpoint
        known = self._mode.known.get(place)
        return known if known and (version is None or journal.settled(version) == known.version) else None

    def _expect(self, place: Place, expected: int) -> None:
        """Refuse at once what the database would refuse later, as far as this process can tell.

        Raises:
            StateConflictError: the thread is known to be further on.
        """
        journal, known = self._mode.journal, self._mode.known.version(place)
        waiting, settled = journal.latest(place), journal.settled(expected)
        if waiting is not None:
            found, is_passed = waiting.version, expected != waiting.version
        else:  # a version above the known one may be another process's, unless it was made here
            found, is_passed = known, settled < known or settled >= FIRST_PROVISIONAL
        if is_passed:
            raise StateConflictError(place.thread_id, expected, found)

    def _place(self, thread_id: str) -> Place:
        self._direct.check_thread_id(thread_id)
        return Place(self._user_id, thread_id)

    def _settled_place(self, thread_id: str) -> Place:
        place = self._place(thread_id)
        if self._mode.journal.latest(place) is not None:
            raise UnavailableError("the database is away, and this thread has states that wait for it: try again later")
        return place
