"""FastAPI: applications with the routes of a host, asked over ASGI, on a real database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import httpx
import pytest
from connections import all_are_back
from fastapi import APIRouter, Depends, FastAPI, Header, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence import (
    CheckpointingDisabledError,
    CommitUnknownError,
    CorruptRowError,
    DatabaseError,
    IdempotencyConflictError,
    InvalidInputError,
    LockTimeoutError,
    NotMigratedError,
    Persistence,
    PersistenceError,
    PersistenceSettings,
    PoolTimeoutError,
    StateConflictError,
    StatementTimeoutError,
    StateNotFoundError,
    ThreadExistsError,
    ThreadNotFoundError,
    ThreadRecord,
    UnavailableError,
    UnitOfWork,
)
from agent_persistence.integrations.fastapi import get_persistence, install, problem_of, unit_of_work

Settings = Callable[..., Awaitable[PersistenceSettings]]
Client = httpx.AsyncClient

ALICE = {"X-User-Id": "alice"}
BOB = {"X-User-Id": "bob"}

# --- The host's application -------------------------------------------------------------------------------------------


async def current_user_id(x_user_id: Annotated[str, Header()]) -> str:
    return x_user_id


async def get_session(persistence: PersistenceDep) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(persistence.engine) as session, session.begin():
        yield session


PersistenceDep = Annotated[Persistence[str, str], Depends(get_persistence)]
CurrentUserId = Annotated[str, Depends(current_user_id)]
UnitOfWorkDep = Annotated[UnitOfWork[str, str], unit_of_work(current_user_id)]
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


async def the_same_work(uow: UnitOfWorkDep) -> UnitOfWork[str, str]:
    return uow


router = APIRouter()


@router.put("/threads/{thread_id}", status_code=201)
async def create(thread_id: str, uow: UnitOfWorkDep) -> ThreadRecord[str, str]:
    return await uow.threads.create(thread_id=thread_id)


@router.get("/threads/{thread_id}")
async def read(thread_id: str, persistence: PersistenceDep, user_id: CurrentUserId) -> ThreadRecord[str, str]:
    return await persistence.threads.require(thread_id, user_id=user_id)


@router.put("/fails-after/{thread_id}")
async def fail_after_creating(thread_id: str, uow: UnitOfWorkDep) -> None:
    await uow.threads.create(thread_id=thread_id)
    raise ThreadNotFoundError("another")


@router.get("/one-unit-of-work")
async def compare(uow: UnitOfWorkDep, other: Annotated[UnitOfWork[str, str], Depends(the_same_work)]) -> bool:
    return uow is other


@router.put("/joined/{thread_id}")
async def join(
    thread_id: str, session: SessionDep, persistence: PersistenceDep, user_id: CurrentUserId, *, fail: bool = False
) -> None:
    await session.execute(text("INSERT INTO host_rows VALUES (:id)"), {"id": thread_id})
    await persistence.bind(session, user_id=user_id).threads.create(thread_id=thread_id)
    if fail:
        raise ThreadNotFoundError("another")


@router.get("/streamed/{thread_id}")
async def use_it_while_streaming(thread_id: str, uow: UnitOfWorkDep) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        yield (await uow.threads.create(thread_id=thread_id)).thread_id

    return StreamingResponse(body())


def make_app(settings: PersistenceSettings, **options: Any) -> FastAPI:
    app = FastAPI(**options)
    install(app, partial(Persistence[str, str], settings))
    app.include_router(router)
    return app


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[Client]:
    """Run the application's lifespan, and ask it as a server would: what it raises is a 500."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), Client(transport=transport, base_url="http://host") as client:
        yield client


@pytest.fixture
async def app(settings_for: Settings) -> FastAPI:
    return make_app(await settings_for())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[Client]:
    async with running(app) as client:
        yield client


@pytest.fixture
async def persistence(app: FastAPI, client: Client) -> Persistence[str, str]:  # noqa: ARG001  # the client starts it
    """The store of the running application."""
    found: Persistence[str, str] = app.state.agent_persistence
    return found


@pytest.fixture
async def failing_commits(persistence: Persistence[str, str]) -> AsyncIterator[None]:
    """A database in which every transaction that made a thread of alice's fails at its COMMIT."""
    statements = [
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'canary' USING ERRCODE = '23514'; END $$
        """,
        """
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON threads DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.user_id = 'alice') EXECUTE FUNCTION refuse()
        """,
    ]
    await execute(persistence, *statements)
    yield
    await execute(persistence, "DROP FUNCTION refuse CASCADE")


async def execute(persistence: Persistence[Any, Any], *statements: str) -> None:
    async with persistence.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


# --- The unit of work -------------------------------------------------------------------------------------------------


async def test_what_a_request_did_is_there_when_its_response_arrives(client: Client, user_id: str) -> None:
    created = await client.put("/threads/t-there", headers={"X-User-Id": user_id})

    found = await client.get("/threads/t-there", headers={"X-User-Id": user_id})
    assert created.status_code == 201
    assert found.json() == created.json()
    assert found.json()["user_id"] == user_id


@pytest.mark.usefixtures("failing_commits")
async def test_a_commit_that_fails_is_an_error_and_no_success(client: Client) -> None:
    failed = await client.put("/threads/t-not-committed", headers=ALICE)
    after = await client.put("/threads/t-committed", headers=BOB)

    assert failed.status_code == 500
    assert failed.json()["error"] == "DatabaseError"
    assert after.status_code == 201
    assert (await client.get("/threads/t-not-committed", headers=ALICE)).status_code == 404


async def test_an_error_in_the_endpoint_rolls_back(client: Client) -> None:
    failed = await client.put("/fails-after/t-rolled-back", headers=ALICE)

    assert failed.status_code == 404
    assert (await client.get("/threads/t-rolled-back", headers=ALICE)).status_code == 404


async def test_what_belongs_to_somebody_else_answers_like_what_is_not_there(client: Client) -> None:
    await client.put("/threads/t-of-alice", headers=ALICE)

    of_somebody_else = await client.get("/threads/t-of-alice", headers=BOB)
    absent = await client.get("/threads/t-absent", headers=BOB)

    assert of_somebody_else.status_code == absent.status_code == 404
    assert of_somebody_else.text.replace("t-of-alice", "") == absent.text.replace("t-absent", "")


async def test_dependencies_of_one_request_share_one_unit_of_work(client: Client) -> None:
    assert (await client.get("/one-unit-of-work", headers=ALICE)).json() is True


async def test_a_unit_of_work_that_is_over_fails_while_the_response_is_streamed(
    app: FastAPI, persistence: Persistence[str, str]
) -> None:
    async with Client(transport=httpx.ASGITransport(app), base_url="http://host") as client:
        with pytest.raises(RuntimeError, match="response already started") as failure:
            await client.get("/streamed/t-streamed", headers=ALICE)

    assert isinstance(failure.value.__cause__, DatabaseError)
    assert await all_are_back(persistence)


@pytest.mark.parametrize(("fail", "rows"), [(False, 1), (True, 0)])
async def test_the_hosts_rows_and_ours_live_or_die_together(
    client: Client, persistence: Persistence[str, str], *, fail: bool, rows: int
) -> None:
    await execute(persistence, "CREATE TABLE host_rows (id text)")

    await client.put(f"/joined/t-joined-{rows}?fail={fail}", headers=ALICE)

    async with persistence.engine.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM host_rows")) == rows
    found = await persistence.threads.get(f"t-joined-{rows}", user_id="alice")
    assert (found is not None) is bool(rows)
    await execute(persistence, "DROP TABLE host_rows")


# --- The lifespan -----------------------------------------------------------------------------------------------------


async def test_the_applications_own_lifespan_runs_inside_ours(settings_for: Settings) -> None:
    settings = await settings_for()
    seen: list[Any] = []

    @asynccontextmanager
    async def own_lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        persistence = app.state.agent_persistence
        seen.append((await persistence.health()).database)
        yield {"kept": "state"}
        seen.append((await persistence.health()).database)

    app = make_app(settings, lifespan=own_lifespan)

    async with app.router.lifespan_context(app) as state:
        assert state == {"kept": "state"}
        seen.append("running")

    assert seen == ["up", "running", "up"]
    assert not hasattr(app.state, "agent_persistence")


async def test_an_application_starts_as_often_as_one_likes_in_any_event_loop(settings_for: Settings) -> None:
    app = make_app(await settings_for())

    async def run() -> int:
        async with running(app) as client:
            return (await client.get("/threads/t-absent", headers=ALICE)).status_code

    here = [await run(), await run()]
    elsewhere = await asyncio.to_thread(asyncio.run, run())

    assert [*here, elsewhere] == [404, 404, 404]


async def test_a_database_that_is_not_migrated_keeps_the_application_from_starting(
    make_database: Callable[[], Awaitable[str]],
) -> None:
    app = make_app(PersistenceSettings(database_url=await make_database()))

    with pytest.raises(NotMigratedError, match="agent-persistence upgrade"):
        async with app.router.lifespan_context(app):
            pass


async def test_without_a_lifespan_the_error_says_so(app: FastAPI) -> None:
    async with Client(transport=httpx.ASGITransport(app), base_url="http://host") as client:
        with pytest.raises(RuntimeError, match="lifespan"):
            await client.get("/threads/t", headers=ALICE)


# --- Errors -----------------------------------------------------------------------------------------------------------

# What clients of 0.1.0 compare with: these names outlive those of the classes.
TOLD: dict[type[PersistenceError], str] = {
    CommitUnknownError: "CommitUnknown",
    CorruptRowError: "CorruptRow",
    IdempotencyConflictError: "IdempotencyConflict",
    InvalidInputError: "InvalidInput",
    PoolTimeoutError: "PoolTimeout",
    StateConflictError: "StateConflict",
    StatementTimeoutError: "StatementTimeout",
}
ERRORS = [
    (InvalidInputError("limit", "must be an int"), 422, "limit: must be an int"),
    (ThreadNotFoundError("t"), 404, "thread 't' does not exist"),
    (StateNotFoundError("t", 3), 404, "thread 't' has no state of version 3"),
    (ThreadExistsError("t"), 409, "thread 't' cannot be created: the id is taken"),
    (IdempotencyConflictError("t", "m"), 409, "message id 'm' already exists in thread 't' with different content"),
    (StateConflictError("t", 1, 2), 409, "thread 't' is at state version 2, not 1; read it again and retry"),
    (CheckpointingDisabledError(), 501, "states are not saved here"),
    (UnavailableError("canary"), 503, "the database is not available; try again"),
    (PoolTimeoutError("canary"), 503, "the database is not available; try again"),
    (StatementTimeoutError("canary"), 504, "the database took too long"),
    (CommitUnknownError("canary"), 500, "this may have been saved or not; read before you write again"),
    (DatabaseError("canary", sqlstate="23514", constraint="canary"), 500, "the server failed"),
    (CorruptRowError("messages", "canary", "canary"), 500, "the server failed"),
    (NotMigratedError("canary", "canary"), 500, "the server failed"),
]


@pytest.mark.parametrize(("error", "status", "detail"), ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS])
async def test_an_error_is_told_as_a_problem(
    app: FastAPI, client: Client, error: PersistenceError, status: int, detail: str
) -> None:
    @app.get("/raises")
    async def raises() -> None:
        raise error

    response = await client.get("/raises")

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem == problem_of(error)
    assert problem.pop("title")
    assert problem == {"status": status, "detail": detail, "error": TOLD.get(type(error), type(error).__name__)}


def test_of_other_errors_a_stream_tells_the_class_only() -> None:
    assert problem_of(ValueError("canary")) == {
        "title": "Internal Server Error",
        "status": 500,
        "detail": "the server failed",
        "error": "ValueError",
    }


async def test_only_a_database_that_is_away_is_worth_another_try(app: FastAPI, client: Client) -> None:
    @app.get("/raises/{number}")
    async def raises(number: int) -> None:
        raise ERRORS[number][0]

    responses = [await client.get(f"/raises/{number}") for number in range(len(ERRORS))]

    again = {response.status_code for response in responses if "retry-after" in response.headers}
    assert again == {503}


async def test_the_log_says_where_the_server_failed_and_not_what_the_rows_hold(
    persistence: Persistence[str, str], client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await execute(persistence, "ALTER TABLE threads ADD CONSTRAINT no_canary CHECK (thread_id NOT LIKE '%canary%')")

    with caplog.at_level(logging.INFO):
        response = await client.put("/threads/a-secret-canary", headers={"X-User-Id": "mallory"})
    await execute(persistence, "ALTER TABLE threads DROP CONSTRAINT no_canary")

    assert response.status_code == 500
    assert "canary" not in response.text
    [record] = [record for record in caplog.records if record.name == "agent_persistence"]
    assert record.levelname == "ERROR"
    assert "in create" in caplog.text
    assert "sqlstate 23514" in caplog.text
    assert "Failing row" not in caplog.text
    assert "mallory" not in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("the database takes no writes"),
        LockTimeoutError("waited"),
        CommitUnknownError("the connection closed during COMMIT"),
        DatabaseError("the disk of the database is full", sqlstate="53100"),
        NotMigratedError("ap0001", "ap0002"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_server_does_to_every_request_is_one_line_each(
    app: FastAPI, client: Client, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    @app.get("/raises")
    async def raises() -> None:
        raise error

    await client.get("/raises")

    [line] = [record.getMessage() for record in caplog.records if record.name == "agent_persistence"]
    assert "\n" not in line
    assert type(error).__name__ in line
    assert str(error) in line


async def test_what_a_client_did_wrong_is_not_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await client.get("/threads/t-absent", headers=ALICE)

    assert [record for record in caplog.records if record.name == "agent_persistence"] == []


async def test_a_handler_of_the_hosts_goes_before_ours(app: FastAPI, client: Client) -> None:
    @app.exception_handler(ThreadNotFoundError)
    async def gone(*_: Any) -> PlainTextResponse:
        return PlainTextResponse("gone", 410)

    response = await client.get("/threads/t-absent", headers=ALICE)

    assert (response.status_code, response.text) == (410, "gone")


async def test_an_exhausted_pool_is_a_503(settings_for: Settings) -> None:
    app = make_app(await settings_for(pool_size=1, max_overflow=0, pool_timeout=0.05))

    async with running(app) as client, app.state.agent_persistence.engine.connect():
        response = await client.put("/threads/t-no-connection", headers=ALICE)

    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"] == "PoolTimeout"


async def test_a_lock_that_is_held_too_long_is_a_504(settings_for: Settings) -> None:
    app = make_app(await settings_for(lock_timeout=0.05))

    async with running(app) as client, app.state.agent_persistence.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE threads IN ACCESS EXCLUSIVE MODE"))
        response = await client.put("/threads/t-locked", headers=ALICE)

    assert response.status_code == 504
    assert response.json()["error"] == "LockTimeout"


@pytest.mark.parametrize(
    ("error", "code"),
    [(ThreadNotFoundError("t"), 1008), (InvalidInputError("t", "wrong"), 1008), (UnavailableError("canary"), 1011)],
)
async def test_a_websocket_is_closed_with_the_name_of_the_error(
    app: FastAPI, error: PersistenceError, code: int
) -> None:
    @app.websocket("/raises")
    async def raises(socket: WebSocket) -> None:
        await socket.accept()
        raise error

    sent = await connect(app, "/raises")

    assert sent == [
        {"type": "websocket.accept", "subprotocol": None, "headers": []},
        {"type": "websocket.close", "code": code, "reason": TOLD.get(type(error), type(error).__name__)},
    ]


async def connect(app: FastAPI, path: str) -> list[Any]:
    """Open a WebSocket; return what the application sent."""
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({**scope, "scheme": "ws", "server": ("host", 80), "subprotocols": []}, receive, send)
    return sent
