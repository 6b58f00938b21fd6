"""Google ADK: a session service whose sessions are threads.

runner = Runner(agent=agent, app_name="app", session_service=PersistenceSessionService(persistence=persistence))
"""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from pydantic import ValidationError
from typing_extensions import override

from agent_persistence.concurrency.shielding import settled
from agent_persistence.errors import (
    CorruptRowError,
    InvalidInputError,
    MissingExtraError,
    ThreadExistsError,
    ThreadNotFoundError,
)
from agent_persistence.forms.adk import ASSISTANT
from agent_persistence.forms.adk_events import events_of
from agent_persistence.forms.form import Found, Item
from agent_persistence.integrations import adk_sessions as sessions
from agent_persistence.integrations.adk_sessions import Place, Seen
from agent_persistence.integrations.adk_state import APP, USER, State, delta_of, merged, shared_state
from agent_persistence.integrations.bridge import in_store
from agent_persistence.integrations.json_values import json_errors, jsonable
from agent_persistence.integrations.shared_messages import last_items
from agent_persistence.integrations.shared_threads import scoped_thread_id, thread_id_of, threads_with, uuid_of
from agent_persistence.operations.unit_of_work import Repositories, UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, ThreadRecord

try:
    from google.adk import errors as adk_errors
    from google.adk.errors.already_exists_error import AlreadyExistsError
    from google.adk.errors.session_not_found_error import SessionNotFoundError
    from google.adk.events.event import Event
    from google.adk.sessions import BaseSessionService, Session
    from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse
except ImportError as error:
    raise MissingExtraError("google-adk") from error

__all__ = ["PersistenceSessionService"]

# Older versions raise its base class.
_StaleSessionError: Final[type[ValueError]] = getattr(adk_errors, "StaleSessionError", ValueError)
_STALE: Final = (
    "the session was modified in storage since it was loaded: load it again with get_session, and append then"
)
_MOST_SESSIONS: Final = 10_000
_AT_ONCE: Final = 100


class PersistenceSessionService(BaseSessionService):
    """A session service of Google ADK in your threads: what is said is read by every other framework.

    A session is a thread, and its state is the thread's state. State of users and of apps is in items. It may be used
    from several event loops.

    Args:
        persistence: the store; the one of ``shared_persistence`` if left out, opened from the environment when it is
            first used.
        scoped: whether a thread's id is made of the app, the user and the session, so that the same session id can be
            used by each of them. With ``False`` the session id is the thread's: for threads that other frameworks
            share; it must then be unique among all owners.
        app_user_id: the owner of app-wide state (``app:``), which all users of an app read and change; ``"adk"``, or
            the UUID of that name, if left out.
        assistant: the author of what a model said through other frameworks. ADK tells an agent what other authors said
            as a quotation; with the name of your agent it is its own.
        list_all: let ``list_sessions`` without a user list those of all users.

    Raises:
        InvalidInputError: ids of the database are numbers; or ``app_user_id`` is none of an owner.
    """

    def __init__(
        self,
        *,
        persistence: Persistence[Any, Any] | None = None,
        scoped: bool = True,
        app_user_id: Any = None,
        assistant: str = ASSISTANT,
        list_all: bool = False,
    ) -> None:
        self._persistence = persistence
        self._scoped = scoped
        self._app_user_id = app_user_id
        self._assistant = assistant
        self._list_all = list_all
        self._appending: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()
        if persistence is not None:  # refused now, not by the first call
            thread_id_of("s", persistence.models.id_types.id, "session_id")
            self._app_owner(persistence)

    @override
    async def create_session(
        self, *, app_name: str, user_id: str, state: State | None = None, session_id: str | None = None
    ) -> Session:
        """Create a session.

        If the caller is cancelled, the outcome is awaited first.

        Args:
            app_name: of the app.
            user_id: the owner.
            state: at the beginning; keys with ``app:`` and ``user:`` change the shared state, ``temp:`` is left out.
            session_id: made if left out.

        Raises:
            AlreadyExistsError: there is a session of this id.
            InvalidInputError: the state has no JSON form, or an argument cannot be an id.
        """
        session_id = (session_id or "").strip() or str(uuid.uuid4())
        new = Session(
            id=session_id, app_name=app_name, user_id=user_id, state=state or {}, last_update_time=time.time()
        )
        return await settled(in_store(self._persistence, partial(self._create, session=new)))

    async def import_session(self, session: Session) -> None:
        """Keep a session of another service, with its events and its state as they are, all or nothing.

        If the caller is cancelled, the outcome is awaited first.

        Args:
            session: as the other service's ``get_session`` returns it. Its keys with ``app:`` and ``user:`` become the
                shared state.

        Raises:
            AlreadyExistsError: there is a session of this id, such as one that was imported already.
            InvalidInputError: a value has no JSON form, or an argument cannot be an id.
        """
        await settled(in_store(self._persistence, partial(self._create, session=session)))

    @override
    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return a session with its events, those of other frameworks' messages among them; ``None`` if there is none.

        Args:
            app_name: of the app.
            user_id: the owner.
            session_id: of the session.
            config: how many events, and since when by the events' own times.

        Raises:
            CorruptRowError: a message cannot be read as an event. None is passed by.
        """

        async def get(persistence: Persistence[Any, Any]) -> Session | None:
            place = self._place(persistence, app_name, user_id, session_id.strip())
            thread = await persistence.threads.get(place.thread_id, user_id=place.owner)
            if thread is None or not sessions.is_of(thread, place):
                return None
            # Events before the state, which is then never older than them.
            found = await _last_events(persistence, place, None if config is None else config.num_recent_events)
            state = await persistence.states.get(place.thread_id, user_id=place.owner)
            shared = await self._shared_state(persistence, app_name, place.owner)
            events = [_event(one, item) for one, item in zip(found, events_of(found, self._assistant), strict=True)]
            after = None if config is None else config.after_timestamp
            if config is not None and config.num_recent_events == 0:
                events = []
            elif after is not None:
                events = [event for event in events if event.timestamp >= after]
            marker = str(found[-1].records[-1].seq if found else 0)
            return _session(place, merged(sessions.state_of(state), *shared), events, _time_of(thread), marker=marker)

        return await in_store(self._persistence, get)

    @override
    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the sessions of an app without their events, the last updated one last; archived ones are left out.

        Args:
            app_name: of the app.
            user_id: the owner; all owners if left out, which ``list_all=True`` must allow.

        Raises:
            InvalidInputError: no user is given and ``list_all`` is not set; or there are more than 10,000 sessions.
        """
        if user_id is None and not self._list_all:
            raise InvalidInputError("user_id", "is needed; PersistenceSessionService(list_all=True) lists all users")

        async def list_them(persistence: Persistence[Any, Any]) -> list[Session]:
            owner = ANY_USER if user_id is None else self._owner(persistence, user_id)
            page = partial(persistence.threads.page, user_id=owner)
            threads = await threads_with(page, sessions.meta_of_app(app_name), most=_MOST_SESSIONS)
            return await self._listed(persistence, app_name, [thread for thread in threads if sessions.about(thread)])

        found = await in_store(self._persistence, list_them)
        return ListSessionsResponse(sessions=sorted(found, key=lambda one: (one.last_update_time, one.user_id, one.id)))

    @override
    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session with its events and its state; nothing if it does not exist.

        If the caller is cancelled, the outcome is awaited first.
        """

        async def delete(persistence: Persistence[Any, Any]) -> None:
            place = self._place(persistence, app_name, user_id, session_id.strip())
            await persistence.run(partial(sessions.delete, place=place), user_id=place.owner)

        await settled(in_store(self._persistence, delete))

    async def get_user_state(self, *, app_name: str, user_id: str) -> State:
        """Return the state of a user of an app, without ``user:`` in its keys."""

        async def get(persistence: Persistence[Any, Any]) -> State:
            search = partial(persistence.items.search, user_id=self._owner(persistence, user_id))
            return await shared_state(search, USER, app_name)

        return await in_store(self._persistence, get)

    @override
    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event with its changes of the state, all or nothing; a partial event is not kept.

        A repeated call with the last event changes nothing. If the caller is cancelled, the outcome is awaited first.

        Raises:
            StaleSessionError: somebody else has appended since the session was loaded.
            SessionNotFoundError: the session does not exist, or was deleted.
            InvalidInputError: a value of the event or of the state has no JSON form, or is too large.
        """
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        item = _item(event)
        await settled(in_store(self._persistence, partial(self._append, session=session, event=event, item=item)))
        return event

    async def thread_id(self, *, app_name: str, user_id: str, session_id: str) -> Any:
        """Return the id of the thread that holds a session, for ``persistence.messages.page`` and others."""

        async def find(persistence: Persistence[Any, Any]) -> Any:
            return self._place(persistence, app_name, user_id, session_id).thread_id

        return await in_store(self._persistence, find)

    async def _create(self, persistence: Persistence[Any, Any], *, session: Session) -> Session:
        place = self._place(persistence, session.app_name, session.user_id, session.id)
        delta = delta_of(jsonable(session.state, "state"))
        work = partial(
            sessions.create,
            place=place,
            rows=sessions.history_rows([_item(event) for event in session.events], persistence.models.id_types.id),
            delta=delta,
            time=session.last_update_time,
            of_app=partial(self._of_app, persistence),
        )
        try:
            await persistence.run(work, user_id=place.owner)
        except ThreadExistsError as taken:
            message = f"a session {session.id!r} exists already; load it with get_session"
            raise AlreadyExistsError(message) from taken
        state = merged(delta.session, *await self._shared_state(persistence, place.app, place.owner))
        return _session(place, state, [], session.last_update_time, marker="0")

    async def _append(self, persistence: Persistence[Any, Any], *, session: Session, event: Event, item: Item) -> None:
        place = self._place(persistence, session.app_name, session.user_id, session.id)
        rows = sessions.new_rows(item, persistence.models.id_types.id)
        # Branches of a run append to one session object at once: the second one has seen what the first appends.
        async with self._appending.setdefault((id(persistence), place.thread_id), asyncio.Lock()):
            last_event = session.events[-1].id if session.events else None
            work = partial(
                sessions.append,
                place=place,
                event=item,
                rows=rows,
                delta=delta_of(item["actions"]["state_delta"]),
                seen=Seen(session._storage_update_marker, last_event),  # noqa: SLF001 - where their services keep it
                of_app=partial(self._of_app, persistence),
            )
            try:
                end = await persistence.run(work, user_id=place.owner)
            except ThreadNotFoundError as missing:
                raise SessionNotFoundError(f"session {session.id!r} does not exist; create it first") from missing
            if end is None:
                raise _StaleSessionError(_STALE)
            session._storage_update_marker = str(end)  # noqa: SLF001
            session.last_update_time = event.timestamp
            if last_event != event.id:
                self._update_session_state(session, event)
                session.events.append(event)

    def _place(self, persistence: Persistence[Any, Any], app_name: str, user_id: str, session_id: str) -> Place:
        owner, id_type = self._owner(persistence, user_id), persistence.models.id_types.id
        if self._scoped:
            thread_id = scoped_thread_id([app_name, str(owner), session_id], id_type, "session_id")
        else:
            thread_id = thread_id_of(session_id, id_type, "session_id")
        return Place(thread_id, owner, app_name, user_id, session_id)

    def _owner(self, persistence: Persistence[Any, Any], user_id: str) -> Any:
        return persistence.models.id_types.user.parse(user_id, "user_id")

    def _app_owner(self, persistence: Persistence[Any, Any]) -> Any:
        kind = persistence.models.id_types.user
        if self._app_user_id is not None:
            return kind.validate(self._app_user_id, "app_user_id")
        if kind.python_type is int:
            raise InvalidInputError("app_user_id", "is needed where owners are numbers: the owner of app-wide state")
        name = sessions.FORM.key
        return kind.parse(str(uuid_of(name)) if kind.python_type is uuid.UUID else name, "app_user_id")

    def _of_app(self, persistence: Persistence[Any, Any], uow: UnitOfWork[Any, Any]) -> Repositories[Any, Any]:
        # A unit of work has one owner; that of the app joins its transaction.
        return persistence.bind(uow.session, user_id=self._app_owner(persistence))

    async def _shared_state(self, persistence: Persistence[Any, Any], app_name: str, owner: Any) -> tuple[State, State]:
        """Return the state of a user, and that of the app."""
        search = persistence.items.search
        return (
            await shared_state(partial(search, user_id=owner), USER, app_name),
            await shared_state(partial(search, user_id=self._app_owner(persistence)), APP, app_name),
        )

    async def _listed(
        self, persistence: Persistence[Any, Any], app_name: str, threads: list[ThreadRecord[Any, Any]]
    ) -> list[Session]:
        """Return sessions with their state."""
        search = persistence.items.search
        of_app = await shared_state(partial(search, user_id=self._app_owner(persistence)), APP, app_name)
        owners = {thread.user_id for thread in threads}
        of_users = {owner: await shared_state(partial(search, user_id=owner), USER, app_name) for owner in owners}

        async def listed(thread: ThreadRecord[Any, Any]) -> Session:
            kept, owner = sessions.about(thread), thread.user_id
            place = Place(thread.thread_id, owner, app_name, kept["user"], kept["session"])
            state = await persistence.states.get(thread.thread_id, user_id=owner)
            return _session(place, merged(sessions.state_of(state), of_users[owner], of_app), [], kept["time"])

        found: list[Session] = []
        for first in range(0, len(threads), _AT_ONCE):  # calls that wait together share statements
            found += await asyncio.gather(*map(listed, threads[first : first + _AT_ONCE]))
        return found


def _session(place: Place, state: State, events: list[Event], time: float, marker: str | None = None) -> Session:
    found = Session(
        id=place.session, app_name=place.app, user_id=place.user, state=state, events=events, last_update_time=time
    )
    found._storage_update_marker = marker  # noqa: SLF001 - where their services keep it
    return found


def _time_of(thread: ThreadRecord[Any, Any]) -> float:
    kept = sessions.about(thread)
    return float(kept["time"]) if kept else thread.updated_at.timestamp()


async def _last_events(persistence: Persistence[Any, Any], place: Place, wanted: int | None) -> list[Found]:
    read_page = partial(persistence.messages.page, place.thread_id, user_id=place.owner)
    return await last_items(sessions.FORM, read_page, None if wanted is None else max(wanted, 1))


def _event(found: Found, item: Item) -> Event:
    try:
        return Event.model_validate(item)
    except ValidationError as error:  # of a newer version of ADK, or edited
        raise CorruptRowError("messages", found.records[0].message_id, "meta") from error


def _item(event: Event) -> Item:
    # Apart from the rest, of which ADK writes a value that has no JSON form as its repr, and NaN as null.
    delta = jsonable(event.actions.state_delta, "state_delta")
    with json_errors("event"):
        item: Item = event.model_dump(mode="json", by_alias=False, exclude_none=True)
    item["actions"]["state_delta"] = delta
    return item
