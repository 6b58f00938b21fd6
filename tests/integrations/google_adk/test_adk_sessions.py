"""Sessions of Google ADK in threads."""

from __future__ import annotations

import asyncio
import math
import uuid
from typing import Any

import pytest
from google.adk import errors as adk_errors
from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import Content, FunctionCall, Part
from integration.repository_testing import until_somebody_waits_for_a_lock
from integrations.google_adk.fake_llm import FakeLlm, texts
from sqlalchemy import update

from agent_persistence.errors import CorruptRowError, IdempotencyConflictError, InvalidInputError
from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.models.base import table_of
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewItem
from agent_persistence.repositories import ItemRepository

Key = dict[str, Any]
StaleSessionError: type[ValueError] = getattr(adk_errors, "StaleSessionError", ValueError)  # since ADK 2.9


@pytest.fixture
def service(persistence: Persistence) -> PersistenceSessionService:
    return PersistenceSessionService(persistence=persistence)


@pytest.fixture
def key(new_ids: Any, user_id: str) -> Key:
    """A session that does not exist yet, of an app that nobody has."""
    return {"app_name": f"app-{new_ids.thread()}", "user_id": user_id, "session_id": "s1"}


def says(text: str, author: str = "user", **more: Any) -> Event:
    role = "user" if author == "user" else "model"
    return Event(author=author, content=Content(role=role, parts=[Part(text=text)]), **more)


def changes(**delta: Any) -> Event:
    return Event(author="helper", actions=EventActions(state_delta=delta))


async def ask(runner: Runner, key: Key, text: str, **more: Any) -> list[Event]:
    message = Content(role="user", parts=[Part(text=text)])
    run = runner.run_async(user_id=key["user_id"], session_id=key["session_id"], new_message=message, **more)
    return [event async for event in run]


async def test_an_agent_remembers_and_its_tools_change_the_state(service: PersistenceSessionService, key: Key) -> None:
    def remember(tool_context: Any) -> str:
        tool_context.state.update({"city": "Oslo", "user:name": "Ada", "app:runs": 1, "temp:token": "secret"})
        return "done"

    model = FakeLlm(first=[Part(function_call=FunctionCall(name="remember", args={}))])
    agent = LlmAgent(name="helper", model=model, tools=[remember])
    runner = Runner(agent=agent, app_name=key["app_name"], session_service=service, auto_create_session=True)

    await ask(runner, key, "Hello")
    await ask(runner, key, "Again")

    assert texts(model.given[2]) == ["Hello", "remember", "remember", "Yes.", "Again"]
    session = await service.get_session(**key)
    assert session is not None
    assert session.state == {"city": "Oslo", "user:name": "Ada", "app:runs": 1}
    assert "secret" not in session.model_dump_json()
    other = await service.create_session(**{**key, "session_id": "s2"})
    assert other.state == {"user:name": "Ada", "app:runs": 1}
    assert await service.get_user_state(app_name=key["app_name"], user_id=key["user_id"]) == {"name": "Ada"}


async def test_what_an_agent_says_is_read_by_others_and_what_others_say_by_the_agent(
    persistence: Persistence, key: Key, new_ids: Any
) -> None:
    key["session_id"] = thread_id = new_ids.thread()
    service = PersistenceSessionService(persistence=persistence, scoped=False, assistant="helper")
    model = FakeLlm()
    runner = Runner(agent=LlmAgent(name="helper", model=model), app_name=key["app_name"], session_service=service)
    await persistence.threads.create(thread_id=thread_id, user_id=key["user_id"])
    for role, text in (("user", "Hi"), ("assistant", "Hello!")):
        await persistence.messages.append(thread_id, {"role": role, "content": text}, user_id=key["user_id"])

    await ask(runner, key, "And now?")

    page = await persistence.messages.page(thread_id, user_id=key["user_id"])
    assert [(one.role, one.text) for one in page] == [
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "And now?"),
        ("assistant", "Yes."),
    ]
    assert [(one.role, texts([one])) for one in model.given[0]] == [
        ("user", ["Hi"]),
        ("model", ["Hello!"]),
        ("user", ["And now?"]),
    ]
    listed = await service.list_sessions(app_name=key["app_name"], user_id=key["user_id"])
    assert [one.id for one in listed.sessions] == [thread_id]


async def test_partial_events_are_not_kept(service: PersistenceSessionService, key: Key) -> None:
    runner = Runner(
        agent=LlmAgent(name="helper", model=FakeLlm()),
        app_name=key["app_name"],
        session_service=service,
        auto_create_session=True,
    )

    seen = await ask(runner, key, "Hello", run_config=RunConfig(streaming_mode=StreamingMode.SSE))

    assert [event.partial for event in seen] == [True, None]
    session = await service.get_session(**key)
    assert session is not None
    assert texts([event.content for event in session.events if event.content]) == ["Hello", "Yes."]


async def test_what_a_rewind_takes_back_is_read_by_nobody(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    model = FakeLlm()
    runner = Runner(
        agent=LlmAgent(name="helper", model=model),
        app_name=key["app_name"],
        session_service=service,
        auto_create_session=True,
    )
    await ask(runner, key, "One")
    second = await ask(runner, key, "Two")

    await runner.rewind_async(
        user_id=key["user_id"], session_id=key["session_id"], rewind_before_invocation_id=second[0].invocation_id
    )
    await ask(runner, key, "Three")

    page = await persistence.messages.page(await service.thread_id(**key), user_id=key["user_id"])
    assert [one.text for one in page] == ["One", "Yes.", "Three", "Yes."] == [*texts(model.given[2]), "Yes."]
    session = await service.get_session(**key)
    assert session is not None
    assert len(session.events) == 7  # ADK keeps what was taken back, and the rewind itself


async def test_sessions_of_another_service_are_brought_along_once(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    old = InMemorySessionService()
    agent = LlmAgent(name="helper", model=FakeLlm())
    runner = Runner(agent=agent, app_name=key["app_name"], session_service=old, auto_create_session=True)
    await ask(runner, key, "One", state_delta={"n": 1, "app:n": 1, "user:n": 1})
    taken_back = (await ask(runner, key, "Two"))[0].invocation_id
    await runner.rewind_async(
        user_id=key["user_id"], session_id=key["session_id"], rewind_before_invocation_id=taken_back
    )
    await ask(runner, key, "Three", state_delta={"n": 2})
    session = await old.get_session(**key)
    assert session is not None

    await service.import_session(session)

    assert await _fresh(service, key) == _marked(session, await _fresh(service, key))
    page = await persistence.messages.page(await service.thread_id(**key), user_id=key["user_id"])
    assert [one.text for one in page] == ["One", "Yes.", "Three", "Yes."]
    with pytest.raises(AlreadyExistsError):
        await service.import_session(session)


def _marked(session: Session, stored: Session) -> Session:
    session._storage_update_marker = stored._storage_update_marker  # noqa: SLF001 - the rest is compared
    return session


async def test_a_stale_session_is_refused_and_a_fresh_one_goes_on(service: PersistenceSessionService, key: Key) -> None:
    first = await service.create_session(**key)
    second = await service.get_session(**key)
    assert second is not None
    await service.append_event(first, says("1", timestamp=7.0))

    with pytest.raises(StaleSessionError):
        await service.append_event(second, says("2", timestamp=7.0))
    with pytest.raises(StaleSessionError):
        await service.append_event(_without_marker(second), says("2"))
    await service.append_event(_without_marker(first), says("2"))

    assert second.events == []
    session = await service.get_session(**key)
    assert session is not None
    assert texts([event.content for event in session.events if event.content]) == ["1", "2"]


def _without_marker(session: Session) -> Session:
    """Return a session as it comes from another place than this service."""
    return Session.model_validate_json(session.model_dump_json())


async def test_a_session_that_another_framework_wrote_to_is_stale(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    session = await service.create_session(**key)
    thread_id = await service.thread_id(**key)
    await persistence.messages.append(thread_id, {"role": "user", "content": "From elsewhere"}, user_id=key["user_id"])

    with pytest.raises(StaleSessionError):
        await service.append_event(session, says("1"))

    session_now = await service.get_session(**key)
    assert session_now is not None
    await service.append_event(_without_marker(session_now), says("1"))


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_a_message_that_says_nothing_to_adk_does_not_make_every_session_stale(
    persistence: Persistence, service: PersistenceSessionService, key: Key, role: str
) -> None:
    await service.append_event(await service.create_session(**key), says("1"))
    message = {"role": role, "content": "Be brief."}
    await persistence.messages.append(await service.thread_id(**key), message, user_id=key["user_id"])

    for config in (None, GetSessionConfig(num_recent_events=0), GetSessionConfig(num_recent_events=1)):
        session = await service.get_session(**key, config=config)
        assert session is not None
        await service.append_event(session, says("2"))

    assert len((await _fresh(service, key)).events) == 4


async def test_branches_append_to_one_session_object_at_once(service: PersistenceSessionService, key: Key) -> None:
    session = await service.create_session(**key)

    await asyncio.gather(*(service.append_event(session, says(str(number))) for number in range(8)))

    stored = await service.get_session(**key)
    assert stored == session
    assert len(session.events) == 8


async def test_a_repeated_append_changes_nothing_and_another_event_of_its_id_is_refused(
    service: PersistenceSessionService, key: Key
) -> None:
    session = await service.create_session(**key)
    before = session.model_copy(deep=True)
    event = says("1", actions=EventActions(state_delta={"n": 1, "app:n": 1}))
    await service.append_event(session, event.model_copy(deep=True))
    other = await service.create_session(**{**key, "session_id": "s2"})
    await service.append_event(other, changes(**{"app:n": 2}))

    await service.append_event(before, event.model_copy(deep=True))
    await service.append_event(session, event.model_copy(deep=True))

    stored = await service.get_session(**key)
    assert stored is not None
    assert len(stored.events) == len(session.events) == len(before.events) == 1
    assert stored.state == {"n": 1, "app:n": 2}
    with pytest.raises(IdempotencyConflictError):
        await service.append_event(session, says("2", id=event.id))


async def test_all_of_an_event_is_kept_or_nothing(
    persistence: Persistence, service: PersistenceSessionService, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await service.create_session(**key)

    with monkeypatch.context() as broken:
        broken.setattr(ItemRepository, "put_many", _die)
        with pytest.raises(RuntimeError, match="in between"):
            await service.append_event(session, changes(**{"city": "Oslo", "app:n": 1}))

    assert session.events == []
    assert await service.get_session(**key) == await _fresh(service, key)
    assert await persistence.states.get(await service.thread_id(**key), user_id=key["user_id"]) is None
    await service.append_event(session, changes(**{"city": "Oslo", "app:n": 1}))
    assert (await _fresh(service, key)).state == {"city": "Oslo", "app:n": 1}


async def _die(*_: Any) -> None:
    raise RuntimeError("the process dies in between")


async def _fresh(service: PersistenceSessionService, key: Key) -> Session:
    session = await service.get_session(**key)
    assert session is not None
    return session


async def test_odd_values_come_back_and_what_has_no_json_form_is_refused_by_name(
    service: PersistenceSessionService, key: Key
) -> None:
    odd = {"nul": "a\0b", "lone": "\ud800", "private": "\ue000", "big": 2**80, "inf": math.inf, "none": None}
    first = {**odd, "user:odd": odd, "app:odd": odd, "app": 1, "temp": 2}
    session = await service.create_session(**key, state={**first, "temp:token": "secret"})
    await service.append_event(session, changes(again=odd))

    stored = await _fresh(service, key)

    assert stored.state == {**odd, "user:odd": odd, "app:odd": odd, "app": 1, "temp": 2, "again": odd}
    assert stored.events[0].actions.state_delta == {"again": odd}
    for refused_value in (print, {1: "a", "1": "b"}):
        with pytest.raises(InvalidInputError) as refused:
            await service.append_event(stored, changes(odd=refused_value))
        assert refused.value.field == "state_delta"
    assert len((await _fresh(service, key)).events) == 1


@pytest.mark.parametrize("app", ["", "a\0b", "\ud800", "x" * 2_000])
async def test_an_app_that_can_keep_no_state_is_refused_before_its_session_is_created(
    persistence: Persistence, service: PersistenceSessionService, key: Key, app: str
) -> None:
    key["app_name"] = app

    with pytest.raises(InvalidInputError):
        await service.create_session(**key)

    assert await persistence.threads.get(await service.thread_id(**key), user_id=key["user_id"]) is None


async def test_items_that_others_put_beside_shared_state_are_none_of_it_and_among_it_are_not_passed_by(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    await service.create_session(**key, state={"user:name": "Ada"})
    namespace = ("adk", "user", key["app_name"])
    owner = {"user_id": key["user_id"]}

    await persistence.items.put_many(
        [NewItem(namespace=(*namespace, "below"), key="name", value={"value": "Eve"})], **owner
    )
    assert (await _fresh(service, key)).state == {"user:name": "Ada"}

    await persistence.items.put_many([NewItem(namespace=namespace, key="city", value={"name": "Oslo"})], **owner)
    with pytest.raises(CorruptRowError):
        await service.get_session(**key)


async def test_keys_of_shared_state_that_two_sessions_change_are_both_kept(
    service: PersistenceSessionService, key: Key
) -> None:
    sessions = [await service.create_session(**{**key, "session_id": f"s{number}"}) for number in range(8)]

    await asyncio.gather(
        *(
            service.append_event(session, changes(**{f"app:{number}": number, "user:last": number, "app:all": number}))
            for number, session in enumerate(sessions)
        )
    )

    state = (await _fresh(service, key)).state
    assert {name for name in state if name.startswith("app:")} == {*(f"app:{number}" for number in range(8)), "app:all"}


async def test_apps_whose_names_differ_in_periods_share_nothing(service: PersistenceSessionService, key: Key) -> None:
    names = [key["app_name"] + end for end in (".a", "%2Ea", "")]
    for name in names:
        await service.create_session(**{**key, "app_name": name}, state={"app:name": name})

    for name in names:
        assert (await _fresh(service, {**key, "app_name": name})).state == {"app:name": name}


async def test_sessions_of_another_user_are_as_if_they_did_not_exist(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    session = await service.create_session(**key, state={"user:secret": 1})
    await service.append_event(session, says("Hello"))
    eve = {**key, "user_id": "eve"}

    assert await service.get_session(**eve) is None
    assert (await service.list_sessions(app_name=key["app_name"], user_id="eve")).sessions == []
    assert await service.get_user_state(app_name=key["app_name"], user_id="eve") == {}
    await service.delete_session(**eve)
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session.model_copy(update={"user_id": "eve"}), says("I am Ada"))
    assert (await service.create_session(**eve)).state == {}

    unscoped = PersistenceSessionService(persistence=persistence, scoped=False)
    mine = {**eve, "session_id": await service.thread_id(**key)}
    assert await unscoped.get_session(**mine) is None
    await unscoped.delete_session(**mine)
    with pytest.raises(AlreadyExistsError):
        await unscoped.create_session(**mine)
    assert await service.get_session(**key) == session


async def test_all_users_are_listed_only_where_that_is_allowed(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    for user in ("ada", "eve"):
        await service.create_session(**{**key, "user_id": user}, state={"user:name": user, "n": 1})

    with pytest.raises(InvalidInputError, match="list_all"):
        await service.list_sessions(app_name=key["app_name"])

    everybody = PersistenceSessionService(persistence=persistence, list_all=True)
    found = (await everybody.list_sessions(app_name=key["app_name"])).sessions
    assert [(one.user_id, one.state) for one in found] == [
        (user, {"n": 1, "user:name": user}) for user in ("ada", "eve")
    ]


async def test_a_session_of_another_app_is_not_opened_by_its_thread(
    persistence: Persistence, key: Key, new_ids: Any
) -> None:
    service = PersistenceSessionService(persistence=persistence, scoped=False)
    key["session_id"] = new_ids.thread()
    session = await service.create_session(**key)
    other = {**key, "app_name": "another"}

    assert await service.get_session(**other) is None
    await service.delete_session(**other)
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session.model_copy(update={"app_name": "another"}), says("1"))

    assert await service.get_session(**key) is not None


async def test_a_deleted_session_is_not_brought_back_by_a_late_run(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    session = await service.create_session(**key, state={"user:name": "Ada"})
    await service.delete_session(**key)

    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, says("late"))

    assert await persistence.threads.get(await service.thread_id(**key), user_id=ANY_USER) is None
    assert (await service.create_session(**key)).state == {"user:name": "Ada"}


async def test_numbers_of_events_count_events_and_not_messages(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    session = await service.create_session(**key)
    for name in ("a", "b", "c"):
        parts = [Part.from_function_response(name=name, response={"result": str(n)}) for n in range(5)]
        for number, part in enumerate(parts):
            assert part.function_response
            part.function_response.id = f"{name}{number}"
        await service.append_event(session, Event(author=name, content=Content(role="user", parts=parts)))
    rows = await persistence.messages.page(await service.thread_id(**key), user_id=key["user_id"])
    assert len(rows) == 15

    for number in range(5):
        recent = await service.get_session(**key, config=GetSessionConfig(num_recent_events=number))
        assert recent is not None
        assert [event.author for event in recent.events] == ["a", "b", "c"][3 - min(number, 3) :]


async def test_an_event_that_cannot_be_read_is_not_passed_by(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    session = await service.create_session(**key)
    await service.append_event(session, says("of a newer version"))
    message = table_of(persistence.models.Message)
    async with persistence.engine.begin() as connection:
        newer = {"adk": {"rest": {"set": {"actions": {"unheard_of": 1}}}}}
        is_it = message.c.thread_id == await service.thread_id(**key)
        await connection.execute(update(message).where(is_it).values(meta=newer))

    with pytest.raises(CorruptRowError):
        await service.get_session(**key)


async def test_a_cancelled_caller_waits_until_its_event_is_kept(
    persistence: Persistence, service: PersistenceSessionService, key: Key
) -> None:
    session = await service.create_session(**key)
    async with persistence.begin(user_id=key["user_id"]) as other:
        await other.threads.lock(await service.thread_id(**key))
        appending = asyncio.create_task(service.append_event(session, says("1")))
        await until_somebody_waits_for_a_lock(persistence)
        appending.cancel()
        assert not (await asyncio.wait([appending], timeout=0.05))[0]

    with pytest.raises(asyncio.CancelledError):
        await appending
    assert await service.get_session(**key) == session


async def test_a_service_is_used_from_other_event_loops(service: PersistenceSessionService, key: Key) -> None:
    def run() -> None:
        session = asyncio.run(service.create_session(**key))
        asyncio.run(service.append_event(session, says("From a thread")))

    await asyncio.to_thread(run)

    assert len((await _fresh(service, key)).events) == 1


async def test_uuids_are_made_of_session_ids_and_numbers_are_refused(open_store: Any, key: Key) -> None:
    uuids, numbers = await open_store(("uuid", "string")), await open_store(("bigint", "string"))
    for scoped in (True, False):
        service = PersistenceSessionService(persistence=uuids, scoped=scoped)
        session = await service.create_session(**key)
        await service.append_event(session, says("Hello"))
        assert await service.get_session(**key) == session

    with pytest.raises(InvalidInputError, match="PERSISTENCE_ID_TYPE"):
        PersistenceSessionService(persistence=numbers)


@pytest.mark.parametrize("kind", ["uuid", "int"])
async def test_owners_are_of_the_kind_of_the_database_and_so_is_that_of_app_wide_state(
    open_store: Any, key: Key, kind: str
) -> None:
    store = await open_store(("uuid", kind))
    if kind == "int":
        with pytest.raises(InvalidInputError, match="app_user_id"):
            PersistenceSessionService(persistence=store)
    service = PersistenceSessionService(persistence=store, app_user_id=0 if kind == "int" else None)
    key["user_id"] = "42" if kind == "int" else str(uuid.uuid4())

    session = await service.create_session(**key, state={"app:n": 1, "user:n": 2})

    assert (session.user_id, session.state) == (key["user_id"], {"app:n": 1, "user:n": 2})
    with pytest.raises(InvalidInputError, match="user_id"):
        await service.create_session(**{**key, "user_id": "ada"})


async def test_concurrent_writers_lose_and_double_nothing(service: PersistenceSessionService, key: Key) -> None:
    await service.create_session(**key)

    async def add(writer: int) -> None:
        for number in range(2):
            event = says(f"{writer}-{number}", actions=EventActions(state_delta={f"{writer}": number}))
            while True:
                try:
                    await service.append_event(await _fresh(service, key), event)
                    break
                except StaleSessionError:
                    await asyncio.sleep(0)

    await asyncio.gather(*map(add, range(8)))

    session = await _fresh(service, key)
    said = texts([event.content for event in session.events if event.content])
    assert sorted(said) == sorted(f"{writer}-{number}" for writer in range(8) for number in range(2))
    assert session.state == {f"{writer}": 1 for writer in range(8)}
