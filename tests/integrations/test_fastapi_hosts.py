"""FastAPI: applications with sessions of their own, asked by many clients at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from agent_persistence import (
    CorruptRowError,
    DatabaseError,
    InvalidInputError,
    MessageRecord,
    Page,
    Persistence,
    PersistenceSettings,
    PoolTimeoutError,
    StateRecord,
    ThreadNotFoundError,
    ThreadRecord,
    UnitOfWork,
)
from agent_persistence.integrations.fastapi import (
    MessageFilters,
    ThreadFilters,
    claim_thread,
    get_persistence,
    install,
    joined_unit_of_work,
    problem_of,
    problems,
    unit_of_work,
)
from agent_persistence.repositories.threads.repository import ThreadRepository

Settings = Callable[..., Awaitable[PersistenceSettings]]
PersistenceDep = Annotated[Persistence[str, str], Depends(get_persistence)]
AT_ONCE = 60

# --- The application --------------------------------------------------------------------------------------------------


class Host:
    """The application's engine, with a pool of 5 + 10 connections."""

    def __init__(self, settings: PersistenceSettings, *, pool_timeout: float = 30) -> None:
        self.engine = make_engine(settings, pool_size=5, max_overflow=10, pool_timeout=pool_timeout)
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self.settings = settings

    def app(self) -> FastAPI:
        app = FastAPI(responses=problems())
        install(app, lambda: Persistence(self.settings, engine=self.engine))
        app.state.sessions = self.sessions
        app.include_router(router)
        return app


def make_engine(settings: PersistenceSettings, **options: Any) -> AsyncEngine:
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql+asyncpg")
    return create_async_engine(url, hide_parameters=True, **options)


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions() as session, session.begin():
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


async def current_user_id(session: SessionDep, x_user_id: Annotated[str, Header()]) -> str:
    """Look the user up, and keep the session open for the rest of the request."""
    return str(await session.scalar(text("SELECT :token"), {"token": x_user_id}))


async def header_user_id(x_user_id: Annotated[str, Header()]) -> str:
    return x_user_id


Joined = Annotated[UnitOfWork[str, str], joined_unit_of_work(SessionDep, current_user_id)]
Apart = Annotated[UnitOfWork[str, str], unit_of_work(current_user_id)]
BigIntWork = Annotated[UnitOfWork[int, str], unit_of_work(header_user_id)]
JoinedToTheEnd = Annotated[
    UnitOfWork[str, str], joined_unit_of_work(Annotated[AsyncSession, Depends(get_session)], header_user_id)
]
Claimed = Annotated[ThreadRecord[str, str], claim_thread(Joined)]
Created = Annotated[ThreadRecord[str, str], claim_thread(Joined, create=True)]
ClaimedApart = Annotated[ThreadRecord[int, str], claim_thread(BigIntWork)]

router = APIRouter()


@router.get("/threads")
async def list_threads(filters: ThreadFilters, uow: Joined) -> Page[ThreadRecord[str, str]]:
    return await uow.threads.page(**filters)


class Named(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str


@router.get("/names", response_model=Page[Named])
async def list_names(uow: Joined) -> Page[ThreadRecord[str, str]]:
    return await uow.threads.page()


@router.post("/threads", status_code=201)
async def create(name: str, uow: Joined) -> ThreadRecord[str, str]:
    return await uow.threads.create(name=name)


@router.get("/threads/{thread_id}/messages")
async def list_messages(thread_id: str, filters: MessageFilters, uow: Joined) -> Page[MessageRecord[str]]:
    return await uow.messages.page(thread_id, **filters)


@router.post("/apart")
async def create_apart(name: str, uow: Apart) -> None:
    await uow.threads.create(name=name)


@router.post("/claimed/{thread_id}")
async def stream(thread: Claimed, persistence: PersistenceDep) -> StreamingResponse:
    return StreamingResponse(tokens(persistence, thread))


@router.post("/created/{thread_id}")
async def stream_in_a_new_one(thread: Created, persistence: PersistenceDep) -> StreamingResponse:
    return StreamingResponse(tokens(persistence, thread))


@router.get("/claimed-apart/{thread_id}")
async def read(thread: ClaimedApart) -> ThreadRecord[int, str]:
    return thread


@router.post("/late/{thread_id}")
async def stream_with_the_unit_of_work(thread: Claimed, uow: Joined) -> StreamingResponse:
    async def late() -> AsyncIterator[str]:
        yield "begun"
        try:
            await uow.messages.append(thread.thread_id, {"role": "assistant", "content": "late"})
        except DatabaseError as error:
            yield f", {error}"

    return StreamingResponse(late())


@router.post("/to-the-end")
async def stream_in_a_session_of_the_whole_request(uow: JoinedToTheEnd) -> StreamingResponse:
    async def late() -> AsyncIterator[str]:
        yield (await uow.threads.create()).thread_id

    return StreamingResponse(late())


async def tokens(persistence: Persistence[str, str], thread: ThreadRecord[str, str]) -> AsyncIterator[str]:
    """Answer as a model does; say how many connections are in use meanwhile."""
    pool: Any = persistence.engine.pool
    yield f"{pool.checkedout()} in use"
    await persistence.messages.append(
        thread.thread_id, {"role": "assistant", "content": "Hello"}, user_id=thread.user_id
    )


@pytest.fixture
async def host(settings_for: Settings) -> AsyncIterator[Host]:
    host = Host(await settings_for())
    yield host
    await host.engine.dispose()


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://host") as client,
    ):
        yield client


@pytest.fixture
async def client(host: Host) -> AsyncIterator[httpx.AsyncClient]:
    async with running(host.app()) as client:
        yield client


@pytest.fixture
def alice(user_id: str) -> dict[str, str]:
    return {"X-User-Id": user_id}


BOB = {"X-User-Id": "bob"}

# --- One connection a request -----------------------------------------------------------------------------------------


async def test_sixty_requests_at_once_share_a_pool_of_fifteen(client: httpx.AsyncClient, alice: dict[str, str]) -> None:
    asked = [client.post(f"/threads?name={number}", headers=alice) for number in range(AT_ONCE // 2)]
    asked += [client.get("/threads", headers=alice) for _ in range(AT_ONCE // 2)]

    answers = await asyncio.gather(*asked)

    assert {answer.status_code for answer in answers} == {200, 201}
    assert len((await client.get("/threads?limit=100", headers=alice)).json()["items"]) == AT_ONCE // 2


async def test_a_second_connection_for_each_of_them_is_refused_with_the_setting_of_the_hosts_pool(
    settings_for: Settings, alice: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(await settings_for(), pool_timeout=0.2)

    async with running(host.app()) as client:
        answers = await asyncio.gather(*[client.post(f"/apart?name={n}", headers=alice) for n in range(AT_ONCE)])
    await host.engine.dispose()

    refused = [answer.json() for answer in answers if answer.status_code == 503]
    assert {problem["error"] for problem in refused} == {"PoolTimeout"}
    assert "raise pool_size of its create_async_engine" in caplog.text
    assert "Persistence.bind" in caplog.text
    assert "PERSISTENCE_POOL_SIZE" not in caplog.text


async def one_call(store: Persistence[str, str]) -> None:
    await store.threads.create(user_id="alice")


async def begin(store: Persistence[str, str]) -> None:
    async with store.begin(user_id="alice") as uow:
        await uow.threads.create()


async def bind(store: Persistence[str, str]) -> None:
    async with AsyncSession(store.engine) as session:
        await store.bind(session, user_id="alice").threads.create()


@pytest.mark.parametrize("hosts_timeout", [0.05, 30])
@pytest.mark.parametrize("work", [one_call, begin], ids=lambda work: work.__name__)
async def test_a_wait_for_the_hosts_pool_ends_with_the_shorter_of_both_timeouts(
    settings_for: Settings, work: Callable[[Persistence[str, str]], Awaitable[None]], hosts_timeout: float
) -> None:
    settings = await settings_for(pool_timeout=0.05)
    engine = make_engine(settings, pool_size=1, max_overflow=1, pool_timeout=hosts_timeout)
    async with Persistence[str, str](settings, engine=engine) as store, engine.connect(), engine.connect():
        began = time.monotonic()
        with pytest.raises(PoolTimeoutError, match="application's engine"):
            await work(store)
    await engine.dispose()

    assert time.monotonic() - began < settings.call_seconds / 2


@pytest.mark.parametrize("work", [one_call, begin, bind], ids=lambda work: work.__name__)
async def test_the_error_of_an_exhausted_pool_names_the_hosts_setting(
    settings_for: Settings, work: Callable[[Persistence[str, str]], Awaitable[None]]
) -> None:
    settings = await settings_for(pool_timeout=0.05)
    engine = make_engine(settings, pool_size=1, max_overflow=0, pool_timeout=0.05)
    async with Persistence[str, str](settings, engine=engine) as store, engine.connect():
        with pytest.raises(PoolTimeoutError, match="application's engine") as refusal:
            await work(store)
    await engine.dispose()

    assert refusal.value.setting == "pool_size"


async def test_the_error_of_our_own_pool_names_our_setting(settings_for: Settings, user_id: str) -> None:
    settings = await settings_for(pool_size=1, max_overflow=0, pool_timeout=0.05)
    async with Persistence[str, str](settings) as store, store.engine.connect():
        with pytest.raises(PoolTimeoutError, match="PERSISTENCE_POOL_SIZE") as refusal:
            await store.threads.create(user_id=user_id)

    assert refusal.value.setting == "PERSISTENCE_POOL_SIZE"


async def test_a_dependency_that_is_none_is_refused_where_it_is_declared() -> None:
    with pytest.raises(InvalidInputError, match="owner"):
        joined_unit_of_work(AsyncSession, "current_user_id")
    with pytest.raises(InvalidInputError, match="session"):
        joined_unit_of_work(Annotated[AsyncSession, "no dependency"], AsyncSession)


def test_an_application_has_one_persistence(host: Host) -> None:
    app = host.app()

    with pytest.raises(InvalidInputError, match="call install once"):
        install(app, lambda: Persistence(host.settings))


# --- Before the first token -------------------------------------------------------------------------------------------


async def test_a_stream_in_a_thread_that_is_not_the_users_is_refused_before_its_first_token(
    client: httpx.AsyncClient, alice: dict[str, str]
) -> None:
    thread_id = (await client.post("/threads?name=mine", headers=alice)).json()["thread_id"]

    mine = await client.post(f"/claimed/{thread_id}", headers=alice)
    absent = await client.post("/claimed/absent", headers=alice)
    of_another = await client.post(f"/claimed/{thread_id}", headers=BOB)
    taken = await client.post(f"/created/{thread_id}", headers=BOB)

    assert (mine.status_code, mine.text) == (200, "0 in use")
    assert (absent.status_code, of_another.status_code) == (404, 404)
    assert (taken.status_code, taken.json()["error"]) == (409, "ThreadExistsError")


async def test_a_stream_that_still_uses_the_unit_of_work_is_told_so_and_loses_nothing_silently(
    client: httpx.AsyncClient, alice: dict[str, str]
) -> None:
    thread_id = (await client.post("/threads?name=mine", headers=alice)).json()["thread_id"]

    streamed = await client.post(f"/late/{thread_id}", headers=alice)

    assert streamed.text.startswith("begun, the unit of work has ended")
    assert (await client.get(f"/threads/{thread_id}/messages", headers=alice)).json()["items"] == []


async def test_a_unit_of_work_lasts_as_long_as_its_session(client: httpx.AsyncClient, alice: dict[str, str]) -> None:
    made = (await client.post("/to-the-end", headers=alice)).text

    assert [thread["thread_id"] for thread in (await client.get("/threads", headers=alice)).json()["items"]] == [made]


def test_an_error_within_a_stream_is_told_and_logged_as_the_response_would_have_been(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = problem_of(ThreadNotFoundError("t-1"))
    other = problem_of(ValueError("canary"))

    assert (told["status"], told["error"], told["detail"]) == (
        404,
        "ThreadNotFoundError",
        "thread 't-1' does not exist",
    )
    assert (other["status"], other["error"], other["detail"]) == (500, "ValueError", "the server failed")
    assert [record.getMessage().splitlines()[0] for record in caplog.records] == ["stream answered 500"]


async def test_a_thread_that_a_client_names_is_created_once(
    client: httpx.AsyncClient, alice: dict[str, str], user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, get, looked = f"/created/named-{user_id}", ThreadRepository.get, asyncio.Barrier(5)

    async def get_before_it_is_there(threads: ThreadRepository[str, str], thread_id: str) -> Any:
        found = await get(threads, thread_id)
        if found is None:
            async with asyncio.timeout(10):
                await looked.wait()
        return found

    monkeypatch.setattr(ThreadRepository, "get", get_before_it_is_there)
    answers = await asyncio.gather(*[client.post(path, headers=alice) for _ in range(5)])

    assert [answer.status_code for answer in answers] == [200] * 5
    said = await client.get(f"/threads/named-{user_id}/messages", headers=alice)
    assert len(said.json()["items"]) == 5


async def test_a_thread_is_claimed_in_a_unit_of_work_of_its_own_as_well(
    settings_for: Settings, alice: dict[str, str]
) -> None:
    settings = await settings_for(id_type="bigint")
    app = FastAPI()
    install(app, lambda: Persistence(settings))
    app.include_router(router)

    async with running(app) as client:
        made = await app.state.agent_persistence.threads.create(user_id=alice["X-User-Id"])
        found = await client.get(f"/claimed-apart/{made.thread_id}", headers=alice)
        no_id = await client.get("/claimed-apart/x", headers=alice)

    assert found.json()["thread_id"] == made.thread_id
    assert (no_id.status_code, no_id.headers["content-type"]) == (422, "application/problem+json")


# --- Pages, filters, OpenAPI ------------------------------------------------------------------------------------------


async def test_a_list_is_filtered_and_continued_by_query_parameters(
    client: httpx.AsyncClient, alice: dict[str, str]
) -> None:
    for name in ("Refund 1", "Refund 2", "Hours"):
        await client.post(f"/threads?name={name}", headers=alice)

    first = (await client.get("/threads?search=refund&limit=1", headers=alice)).json()
    second = (await client.get(f"/threads?search=refund&limit=1&after={first['after']}", headers=alice)).json()
    archived = (await client.get("/threads?archived=true", headers=alice)).json()
    refused = await client.get("/threads?limit=0", headers=alice)
    no_cursor = await client.get("/threads?after=x", headers=alice)

    assert [item["name"] for page in (first, second) for item in page["items"]] == ["Refund 2", "Refund 1"]
    assert second["after"] is None
    assert archived == {"items": [], "before": None, "after": None}
    assert (refused.status_code, no_cursor.status_code) == (422, 422)
    assert no_cursor.json()["error"] == "InvalidInput"


async def test_messages_are_searched_and_read_in_both_directions_by_query_parameters(
    client: httpx.AsyncClient, host: Host, alice: dict[str, str], user_id: str
) -> None:
    thread_id = (await client.post("/threads?name=mine", headers=alice)).json()["thread_id"]
    async with Persistence[str, str](host.settings, engine=host.engine) as store:
        said = [{"role": "user", "content": text} for text in ("one", "two", "three")]
        await store.messages.append_many(thread_id, said, user_id=user_id)

    async def ask(query: str) -> tuple[list[str], dict[str, str]]:
        page = (await client.get(f"/threads/{thread_id}/messages?{query}", headers=alice)).json()
        return [item["text"] for item in page["items"]], page

    newest, page = await ask("limit=1")
    older, page = await ask(f"limit=1&before={page['before']}")
    newer, _ = await ask(f"after={page['after']}")
    found, _ = await ask("search=O")

    assert (newest, older, newer, found) == (["three"], ["two"], ["three"], ["one", "two"])


async def test_a_page_leaves_out_what_cannot_be_read() -> None:
    app = FastAPI()

    @app.get("/")
    async def read() -> Page[StateRecord[str]]:
        return Page((), "before", None, (CorruptRowError("states", 1, "meta"),))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client:
        assert (await client.get("/")).json() == {"items": [], "before": "before", "after": None}


async def test_a_page_of_the_hosts_model_holds_its_fields_only(
    client: httpx.AsyncClient, alice: dict[str, str]
) -> None:
    await client.post("/threads?name=Refund", headers=alice)

    assert (await client.get("/names", headers=alice)).json()["items"] == [{"name": "Refund"}]


def test_openapi_lists_pages_parameters_and_problems(host: Host) -> None:
    described = host.app().openapi()
    listing = described["paths"]["/threads"]["get"]
    page = described["components"]["schemas"]["Page_ThreadRecord_str__str__"]

    assert {parameter["name"] for parameter in listing["parameters"]} >= {"limit", "after", "search", "archived"}
    assert set(page["properties"]) == {"items", "before", "after"}
    assert "corrupt" not in page["description"]
    assert all("description" in parameter for parameter in listing["parameters"] if parameter["in"] == "query")
    assert list(listing["responses"]["404"]["content"]) == ["application/problem+json"]
    assert set(listing["responses"]["422"]["content"]) == {"application/problem+json", "application/json"}
    assert set(listing["responses"]) == {"200", "404", "409", "422", "503"}
    problem = listing["responses"]["404"]["content"]["application/problem+json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}


def test_a_schema_of_the_host_that_is_called_problem_stays_as_it_is(host: Host) -> None:
    class Problem(BaseModel):
        severity: int

    app = host.app()
    app.add_api_route("/problem", lambda: None, response_model=Problem)

    described = app.openapi()
    listing = described["paths"]["/threads"]["get"]["responses"]["404"]["content"]["application/problem+json"]

    assert set(described["components"]["schemas"]["Problem"]["properties"]) == {"severity"}
    assert set(listing["schema"]["properties"]) == {"title", "status", "detail", "error"}


def test_a_claim_in_a_session_that_outlasts_the_response_is_refused() -> None:
    async def own(persistence: PersistenceDep) -> AsyncIterator[UnitOfWork[str, str]]:
        async with persistence.begin(user_id="ann") as uow:
            yield uow

    for uow in (JoinedToTheEnd, own):
        with pytest.raises(InvalidInputError, match='scope="function"'):
            claim_thread(uow)
    claim_thread(Annotated[UnitOfWork[str, str], Depends(own, scope="function")])


def test_a_status_that_is_never_sent_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="418"):
        problems(418)


async def test_a_problem_is_as_openapi_describes_it(client: httpx.AsyncClient, host: Host) -> None:
    document = host.app().openapi()
    described = document["paths"]["/claimed/{thread_id}"]["post"]["responses"]["404"]["content"]
    sent = await client.post("/claimed/absent", headers=BOB)

    assert sent.headers["content-type"] in described
    assert set(sent.json()) == set(document["components"]["schemas"]["Problem"]["properties"])
