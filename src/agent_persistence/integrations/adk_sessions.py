"""Sessions of Google ADK in threads: what the session service does in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.errors import InvalidInputError, ThreadNotFoundError
from agent_persistence.forms.adk import ADKForm
from agent_persistence.forms.adk_events import events_of
from agent_persistence.forms.form import Item, written
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdType
from agent_persistence.integrations.adk_state import APP, USER, Delta, State, items_of
from agent_persistence.integrations.shared_messages import last_items, with_ids
from agent_persistence.operations.unit_of_work import Repositories, UnitOfWork
from agent_persistence.records import NewMessage, StateRecord, ThreadRecord

FORM: Final = ADKForm()

OfApp = Callable[[UnitOfWork[Any, Any]], Repositories[Any, Any]]
"""Returns the repositories of the owner of app-wide state, in the same transaction."""


@frozen
class Place:
    """Where a session is kept.

    Attributes:
        thread_id: of its thread.
        owner: of the thread.
        app: the name of the app.
        user: the owner as ADK writes it.
        session: its id.
    """

    thread_id: Any
    owner: Any
    app: str
    user: str
    session: str


@frozen
class Seen:
    """The last event that somebody has seen of a session.

    Attributes:
        marker: of the session as it was loaded; ``None`` if it came from elsewhere.
        last_event: the id of its last event; ``None`` if it has none.
    """

    marker: str | None
    last_event: str | None


def new_rows(event: Item, id_type: IdType[Any]) -> list[NewMessage[Any]]:
    """Return the messages that hold an event; its id is the first one's.

    Raises:
        InvalidInputError: it is nested too deeply.
    """
    return with_ids(written(FORM, event, "event"), str(event["id"]), id_type, "event.id")


def history_rows(events: Sequence[Item], id_type: IdType[Any]) -> list[NewMessage[Any]]:
    """Return the messages that hold the events of a session that is brought along."""
    rows = [new_rows(event, id_type) for event in events]
    for place, event in enumerate(events):
        for taken_back in range(_first_taken_back(events[:place], event), place):
            rows[taken_back] = [replace(row, aside=FORM.key) for row in rows[taken_back]]
    return [row for group in rows for row in group]


async def create(
    uow: UnitOfWork[Any, Any],
    *,
    place: Place,
    rows: Sequence[NewMessage[Any]],
    delta: Delta,
    time: float,
    of_app: OfApp,
) -> None:
    """Create a session with its events and its state.

    Raises:
        ThreadExistsError: its thread exists.
    """
    await uow.threads.create(thread_id=place.thread_id, meta=_meta({}, place, time))
    if rows:
        await uow.messages.append_many(place.thread_id, rows)
    await _change_state(uow, place, delta, of_app)


async def append(
    uow: UnitOfWork[Any, Any],
    *,
    place: Place,
    event: Item,
    rows: Sequence[NewMessage[Any]],
    delta: Delta,
    seen: Seen,
    of_app: OfApp,
) -> int | None:
    """Append an event, with its changes of the state. An event that is the last one already changes nothing.

    Returns:
        The number of the last message; ``None`` if somebody else has appended since the session was loaded.

    Raises:
        ThreadNotFoundError: the session does not exist.
        IdempotencyConflictError: the session has another event of this id.
    """
    # In this order everywhere, so that no two calls wait for each other: thread, messages, state, items.
    thread = await uow.threads.lock(place.thread_id)
    if not is_of(thread, place):
        raise ThreadNotFoundError(place.thread_id)
    last = await uow.messages.page(place.thread_id, limit=1, asides=FORM.key)
    if last.corrupt:
        raise last.corrupt[0]
    end = last.items[-1].seq if last.items else 0
    is_repeated = bool(last.items) and last.items[-1].message_id == rows[-1].message_id
    if not is_repeated and await _is_stale(uow, place, seen, end):
        return None
    records = await uow.messages.append_many(place.thread_id, rows)
    if records[-1].seq <= end:
        return end
    await _leave_rewound(uow, place, event)
    await _change_state(uow, place, delta, of_app)
    await uow.threads.update(place.thread_id, meta=_meta(thread.meta, place, event["timestamp"]))
    return records[-1].seq


async def delete(uow: UnitOfWork[Any, Any], *, place: Place) -> None:
    """Delete a session; nothing if there is none."""
    thread = await uow.threads.get(place.thread_id)
    if thread is not None and is_of(thread, place):
        await uow.threads.delete(place.thread_id)


def is_of(thread: ThreadRecord[Any, Any], place: Place) -> bool:
    """Whether a thread holds this session, or is none of ADK's yet."""
    kept = about(thread)
    return not kept or (kept["app"], kept["session"]) == (place.app, place.session)


def about(thread: ThreadRecord[Any, Any]) -> dict[str, Any]:
    """Return what a thread's ``meta`` says of its session; nothing if ADK has never written to it."""
    kept = thread.meta.get(FORM.key)
    if not isinstance(kept, dict) or not {"app", "user", "session", "time"} <= kept.keys():
        return {}
    return {name: from_storable(value) for name, value in kept.items()}


def state_of(record: StateRecord[Any] | None) -> State:
    """Return the state of a session from the state of its thread.

    Raises:
        InvalidInputError: another program has saved a state that is no JSON object.
    """
    data = {} if record is None else from_storable(record.data)
    if not isinstance(data, dict):
        raise InvalidInputError("state", "the thread's state is no JSON object: another program has saved it")
    return data


def meta_of_app(app_name: str) -> dict[str, Any]:
    """Return what the ``meta`` of each session of an app contains."""
    return {FORM.key: {"app": to_storable(app_name)}}


def _meta(meta: Mapping[str, Any], place: Place, time: float) -> dict[str, Any]:
    texts = {"app": place.app, "user": place.user, "session": place.session}
    return {**meta, FORM.key: {**{name: to_storable(text) for name, text in texts.items()}, "time": time}}


async def _is_stale(uow: UnitOfWork[Any, Any], place: Place, seen: Seen, end: int) -> bool:
    if seen.marker is not None:
        return seen.marker != str(end)
    events = events_of(await last_items(FORM, partial(uow.messages.page, place.thread_id), 1), "")
    return (events[-1].get("id") if events else None) != seen.last_event


async def _leave_rewound(uow: UnitOfWork[Any, Any], place: Place, event: Item) -> None:
    """Make asides of what a rewind takes back: ADK passes it by, and so do all others then."""
    if event["actions"].get("rewind_before_invocation_id") is None:
        return
    found = await last_items(FORM, partial(uow.messages.page, place.thread_id))
    for one in found[_first_taken_back([one.item for one in found], event) :]:
        for row in one.records:
            if row.aside is None:
                await uow.messages.update(place.thread_id, row.message_id, aside=FORM.key)


def _first_taken_back(events: Sequence[Item], event: Item) -> int:
    """Return the place of the first of these events that a later one takes back; their number if it takes back none."""
    invocation = event["actions"].get("rewind_before_invocation_id")
    places = (place for place, one in enumerate(events) if one.get("invocation_id") == invocation)
    return len(events) if invocation is None else next(places, len(events))


async def _change_state(uow: UnitOfWork[Any, Any], place: Place, delta: Delta, of_app: OfApp) -> None:
    if delta.session:
        state = state_of(await uow.states.get(place.thread_id, fresh=True))
        await uow.states.put(place.thread_id, to_storable({**state, **delta.session}))
    if delta.user:
        await uow.items.put_many(items_of(USER, place.app, delta.user))
    if delta.app:
        await of_app(uow).items.put_many(items_of(APP, place.app, delta.app))
