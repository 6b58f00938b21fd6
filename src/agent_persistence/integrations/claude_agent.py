"""Claude Agent SDK: a session store whose transcripts are threads.

store = PersistenceSessionStore(persistence=persistence, user_id="u-42")
options = ClaudeAgentOptions(session_store=store, resume=session_id)
"""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import partial
from typing import Any, Final, cast

from agent_persistence.concurrency.shielding import settled
from agent_persistence.errors import InvalidInputError, MissingExtraError
from agent_persistence.forms.claude_chain import chained
from agent_persistence.forms.form import Item
from agent_persistence.integrations import claude_transcripts as transcripts
from agent_persistence.integrations.bridge import in_store
from agent_persistence.integrations.claude_transcripts import Place
from agent_persistence.integrations.json_values import distinct, json_errors
from agent_persistence.integrations.shared_threads import SharedThread, scoped_thread_id, thread_id_of
from agent_persistence.persistence import Persistence
from agent_persistence.records import ThreadRecord

try:
    from claude_agent_sdk import fold_session_summary
    from claude_agent_sdk.types import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStore,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
    )
except ImportError as error:
    raise MissingExtraError("claude-agent-sdk") from error

__all__ = ["PersistenceSessionStore"]

_REMEMBERED: Final = 10_000


class PersistenceSessionStore(SessionStore):
    """A session store of the Claude Agent SDK in your threads: what is said is read by every other framework.

    A session is a thread, and each of its subagents one more. It may be used from several event loops.

    Args:
        persistence: the store; the one of ``shared_persistence`` if left out, opened from the environment when it is
            first used.
        user_id: the owner. Sessions of other owners are as if they did not exist.
        scoped: whether a thread's id is made of the owner, the project and the session, so that the same session id
            can be used by each of them. With ``False`` the session id is the thread's: for threads that other
            frameworks share; it must then be unique among all owners.

    Raises:
        InvalidInputError: ids of the database are numbers; or ``user_id`` is none of an owner.
    """

    def __init__(self, *, persistence: Persistence[Any, Any] | None = None, user_id: Any, scoped: bool = True) -> None:
        self._persistence = persistence
        self._user_id = user_id
        self._scoped = scoped
        self._known = _KnownThreads()
        if persistence is not None:
            self._place(persistence, {"project_key": "p", "session_id": "s"})  # refused now, not by the first call

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Append entries, all or none; the session begins if it is new. An entry whose ``uuid`` it has is passed by.

        If the caller is cancelled, the outcome is awaited first.

        Raises:
            InvalidInputError: an entry has no JSON form, or is too large; or the key cannot be one.
            ThreadNotFoundError: the session was deleted since this store has read it or written to it.
            ThreadExistsError: the thread belongs to another owner (``scoped=False``).
        """
        items = [_json_object(entry, f"entries[{index}]") for index, entry in enumerate(entries)]
        if items:
            await settled(in_store(self._persistence, partial(self._append, key=key, items=items)))

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Return all entries, messages of other frameworks among them; ``None`` if there are none.

        Raises:
            CorruptRowError: a message cannot be read. None is passed by.
        """
        entries = await in_store(self._persistence, partial(self._load, key=key))
        return cast("list[SessionStoreEntry]", entries) or None

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Return the sessions of a project with the times of their last appends; archived threads are left out."""
        summaries = await self.list_session_summaries(project_key)
        return [{"session_id": one["session_id"], "mtime": one["mtime"]} for one in summaries]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """Return the summaries of a project's sessions, as the SDK's own lists show them."""
        threads = await self._threads(project=project_key, subpath=None)
        return [cast("SessionSummaryEntry", transcripts.listed(thread)) for thread in threads]

    async def delete(self, key: SessionKey) -> None:
        """Delete a session with its subagents, or one subagent of it; nothing if it does not exist.

        If the caller is cancelled, the outcome is awaited first.
        """
        await settled(in_store(self._persistence, partial(self._delete, key=key)))

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """Return the subpaths of a session: its subagents."""
        threads = await self._threads(project=key["project_key"], session=key["session_id"])
        subpaths = [transcripts.about(thread)["subpath"] for thread in threads]
        return [subpath for subpath in subpaths if subpath is not None]

    async def thread_id(self, key: SessionKey) -> Any:
        """Return the id of the thread that holds a session, for ``persistence.messages.page`` and others."""

        async def find(persistence: Persistence[Any, Any]) -> Any:
            return self._place(persistence, key).thread_id

        return await in_store(self._persistence, find)

    def _place(self, persistence: Persistence[Any, Any], key: SessionKey | SessionListSubkeysKey) -> Place:
        id_types = persistence.models.id_types
        owner = id_types.user.validate(self._user_id, "user_id")
        project, session = _text(key, "project_key"), _text(key, "session_id")
        subpath = _text(key, "subpath") if "subpath" in key else None
        if self._scoped:
            thread_id = scoped_thread_id([str(owner), project, session, subpath], id_types.id, "key")
        elif subpath is not None:
            thread_id = scoped_thread_id([session, subpath], id_types.id, "key")
        else:
            thread_id = thread_id_of(session, id_types.id, "session_id")
        return Place(thread_id, project, session, subpath)

    async def _append(self, persistence: Persistence[Any, Any], *, key: SessionKey, items: list[Item]) -> None:
        place = self._place(persistence, key)
        append = partial(
            transcripts.append,
            place=place,
            new=transcripts.new_entries(items, persistence.models.id_types.id),
            fold=partial(_fold, key),
        )
        begin = partial(append, begins=True, after=self._found_session_of(persistence, place))
        await self._known[place.thread_id].write(
            partial(persistence.run, append, user_id=self._user_id),
            partial(persistence.run, begin, user_id=self._user_id),
        )

    def _found_session_of(self, persistence: Persistence[Any, Any], place: Place) -> Any:
        """Return the thread of a subagent's session if it existed: a late subagent must not come without it."""
        if place.subpath is None:
            return None
        session = self._place(persistence, {"project_key": place.project, "session_id": place.session}).thread_id
        return session if session in self._known and self._known[session].existed else None

    async def _load(self, persistence: Persistence[Any, Any], *, key: SessionKey) -> list[Item]:
        place = self._place(persistence, key)
        read_page = partial(persistence.messages.page, place.thread_id, user_id=self._user_id)
        found = await transcripts.entries_of(read_page)
        if found:
            self._known[place.thread_id].note_read(found)
        return chained(found, place.session)

    async def _threads(self, **parts: str | None) -> list[ThreadRecord[Any, Any]]:
        async def find(persistence: Persistence[Any, Any]) -> list[ThreadRecord[Any, Any]]:
            return await transcripts.threads_of(partial(persistence.threads.page, user_id=self._user_id), **parts)

        return await in_store(self._persistence, find)

    async def _delete(self, persistence: Persistence[Any, Any], *, key: SessionKey) -> None:
        work = partial(transcripts.delete, place=self._place(persistence, key))
        await persistence.run(work, user_id=self._user_id)


class _KnownThreads(OrderedDict[Any, SharedThread]):
    """The threads that a store has found; of 10,000, the first found is forgotten."""

    def __missing__(self, thread_id: Any) -> SharedThread:
        self[thread_id] = found = SharedThread()
        if len(self) > _REMEMBERED:
            self.popitem(last=False)
        return found


def _fold(key: SessionKey, summary: Any, entries: Any) -> Any:
    return fold_session_summary(summary, key, entries)


def _text(key: SessionKey | SessionListSubkeysKey, name: str) -> str:
    value = key.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(name, "must be a text that is not empty")
    return value


def _json_object(entry: Any, field: str) -> Item:
    with json_errors(field):
        # What the SDK demands to come back, lone surrogates in keys included.
        value = json.loads(json.dumps(entry), object_pairs_hook=distinct)
    if not isinstance(value, dict):
        raise InvalidInputError(field, f"must be an entry of a transcript, not {type(entry).__name__}")
    return value
