"""The checkpointer of degraded mode: PostgreSQL's, which falls back to this process's memory."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.checkpointer import Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.degraded.journal import FIRST_PROVISIONAL, StateKey
from agent_persistence.degraded.outage import Outage
from agent_persistence.encoding.exact_json import encode_json
from agent_persistence.errors import CommitUnknownError, StateConflictError, UnavailableError
from agent_persistence.records import Page


class DegradedCheckpointer(Checkpointer):
    """``PostgreSQLCheckpointer`` while the database is up; created by ``DegradedMode.checkpointer``.

    While it is down, ``save_state`` keeps states in memory, and ``load_state`` returns the latest one that this process
    knows, both with ``durable=False``. Other methods use the database, and refuse threads with waiting states.
    """

    capabilities: ClassVar = PostgreSQLCheckpointer.capabilities

    def __init__(self, outage: Outage, direct: PostgreSQLCheckpointer, user_id: str) -> None:
        self._outage = outage
        self._direct = direct
        self._user_id = user_id

    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; see ``Checkpointer``.

        While the database is down, the state waits in memory: ``durable=False``, with a provisional version. This
        process can expect and load that version, also after the database has saved the state with another one.

        Raises:
            UnavailableError: the database is down, and the waiting states have reached ``most_bytes``, or degraded mode
                is closing.
            CommitUnknownError: the same, and the database may have saved the state before.
        """
        # Before anything is accepted: the caller is told now, and not by a critical log line after the outage.
        json = self._direct.check_save(thread_id, state, expected_version=expected_version, ttl=ttl)
        key, outage, is_in_doubt = self._key(thread_id), self._outage, False
        if not outage.keeps(key):
            settled = None if expected_version is None else outage.journal.settled(expected_version)
            try:
                saved = await self._direct.save_state(thread_id, state, expected_version=settled)
            except UnavailableError as error:
                outage.begin(error)
            except CommitUnknownError as error:
                if error.__cause__ is None:
                    raise  # the database has answered, and cannot tell
                outage.begin(error)
                is_in_doubt = True
            else:
                outage.known.put(key, saved.version, json, saved.created_at)
                return saved
        if expected_version is not None:
            self._expect(key, expected_version)
        return outage.add(key, json, expected_version, in_doubt=is_in_doubt).checkpoint

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or one version; see ``Checkpointer``.

        While the database is down, this is the latest one that this process saved or loaded, with ``durable=False``.

        Raises:
            UnavailableError: the database is down, and this process does not know the thread.
        """
        key = self._key(thread_id)
        if self._outage.keeps(key) and (found := self._recall(key, version)) is not None:
            return found
        try:
            return await self._ask(key, version)
        except UnavailableError as error:
            self._outage.begin(error)
            if (found := self._recall(key, version)) is None:
                raise
            return found

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states and messages; see ``Checkpointer``."""
        # First: if the deletion fails or its outcome is unknown, an outage must not bring the thread back.
        self._outage.known.forget(self._settled_key(thread_id))
        return await self._direct.delete_thread(thread_id)

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads in the database; see ``Checkpointer``."""
        return await self._direct.list_threads(limit=limit, after=after)

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        self._settled_key(thread_id)
        return await self._direct.state_history(thread_id, limit=limit, after=after)

    async def aclose(self) -> None:
        """Do nothing: ``DegradedMode.aclose`` writes the waiting states."""

    async def _ask(self, key: StateKey, version: int | None) -> Checkpoint | None:
        if version is not None:
            return await self._direct.load_state(key.thread_id, version=self._outage.journal.settled(version))
        found = await self._direct.load_state(key.thread_id)
        if found is None:
            self._outage.known.forget(key)
        else:
            # Without a limit of size: a state that another program saved must be remembered as well.
            json = encode_json(found.state, "state", max_bytes=sys.maxsize)
            self._outage.known.put(key, found.version, json, found.created_at)
        return found

    def _recall(self, key: StateKey, version: int | None) -> Checkpoint | None:
        """Return the waiting or known state of a thread, or ``None``."""
        journal = self._outage.journal
        waiting = journal.latest(key) if version is None else journal.find(key, version)
        if waiting is not None:
            return waiting.checkpoint
        known = self._outage.known.get(key)
        return known if known and (version is None or journal.settled(version) == known.version) else None

    def _expect(self, key: StateKey, expected: int) -> None:
        """Refuse a version at once that the database would refuse later, as far as this process knows.

        Raises:
            StateConflictError: the thread is known to have a later version.
        """
        journal, known = self._outage.journal, self._outage.known.version(key)
        waiting, settled = journal.latest(key), journal.settled(expected)
        if waiting is not None:
            found, is_passed = waiting.version, expected != waiting.version
        else:
            # A version above the known one may be another process's, so the database decides. A provisional one that is
            # not settled is of a state that was never written, or of a process that has ended.
            found, is_passed = known, settled < known or settled >= FIRST_PROVISIONAL
        if is_passed:
            raise StateConflictError(key.thread_id, expected, found)

    def _key(self, thread_id: str) -> StateKey:
        self._direct.check_thread_id(thread_id)
        return StateKey(self._user_id, thread_id)

    def _settled_key(self, thread_id: str) -> StateKey:
        """Return the key of a thread without waiting states, which a deletion would not delete.

        Raises:
            UnavailableError: states of the thread wait for the database.
        """
        key = self._key(thread_id)
        if self._outage.journal.latest(key) is not None:
            raise UnavailableError("the database is down, and states of this thread wait for it: try again later")
        return key
