"""The example is run as its README says, and asked over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from agent_persistence import PersistenceSettings, migrate
from agent_persistence.embedded import EmbeddedServers
from served import served

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_chat"
ABSENT = "01a1fc1a-0000-7000-8000-000000000000"

# What a host's database may do at COMMIT, by the name of the thread.
MISCHIEF = """
CREATE FUNCTION mischief() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.thread_name = 'refuse' OR (SELECT name FROM users WHERE id = NEW.user_id) = 'Mallory' THEN
        RAISE EXCEPTION 'refused' USING ERRCODE = '23514';
    ELSIF NEW.thread_name = 'kill' THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER mischief AFTER INSERT ON threads DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION mischief();
"""


class Person:
    """Somebody with a token."""

    def __init__(self, client: httpx.AsyncClient, token: str, thread_id: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"}
        self.thread_id = thread_id

    async def ask(self, method: str, path: str, **json: Any) -> httpx.Response:
        return await self._client.request(method, path, headers=self._headers, json=json or None)

    async def get(self, path: str) -> Any:
        return (await self.ask("GET", path)).raise_for_status().json()

    async def create_thread(self, name: str) -> str:
        response = await self.ask("POST", "/threads", name=name)
        thread_id: str = response.raise_for_status().json()["thread_id"]
        return thread_id

    async def say(self, content: str) -> httpx.Response:
        return await self.ask("POST", f"/threads/{self.thread_id}/messages", content=content)


@pytest_asyncio.fixture(scope="module")
async def database_url(make_database: Callable[[], Awaitable[str]]) -> str:
    return await make_database()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, servers: EmbeddedServers, database_url: str) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("elsewhere")
    addresses = {"PERSISTENCE_DATABASE_URL": database_url, "PERSISTENCE_REDIS_URL": servers.redis_url}
    with served(EXAMPLE / "run.py", folder, **addresses) as address:
        yield address


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address) as client:
        yield client


@pytest_asyncio.fixture
async def ada(client: httpx.AsyncClient) -> Person:
    return await sign_up(client, "Ada")


@pytest_asyncio.fixture
async def bob(client: httpx.AsyncClient) -> Person:
    return await sign_up(client, "Bob")


async def sign_up(client: httpx.AsyncClient, name: str) -> Person:
    user = (await client.post("/users", json={"name": name})).raise_for_status().json()
    return Person(client, user["token"], user["thread_id"])


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def mischief(database_url: str, address: str) -> AsyncIterator[None]:  # noqa: ARG001  # whoever listens there has migrated the database
    async with connected(database_url) as connection:
        await connection.execute(MISCHIEF)
        yield
        await connection.execute("DROP FUNCTION mischief CASCADE")


async def test_a_conversation(ada: Person) -> None:
    said = await ada.say("Where is my order?")
    await ada.say("Hello?")

    messages = await ada.get(f"/threads/{ada.thread_id}/messages")
    state = await ada.get(f"/threads/{ada.thread_id}/state")
    assert said.status_code == 201
    assert said.json()["message"] == {"role": "assistant", "content": "You said: Where is my order?"}
    assert [message["message"]["content"] for message in messages["items"]] == [
        "Where is my order?",
        "You said: Where is my order?",
        "Hello?",
        "You said: Hello?",
    ]
    assert state["data"] == {"turns": 2}


async def test_pages_lead_through_threads_and_messages(ada: Person) -> None:
    made = [await ada.create_thread(f"thread {number}") for number in range(4)]
    await ada.say("one")

    first = await ada.get("/threads?limit=3")
    second = await ada.get(f"/threads?limit=3&after={first['after']}")
    newest = await ada.get(f"/threads/{ada.thread_id}/messages?limit=1")
    oldest = await ada.get(f"/threads/{ada.thread_id}/messages?limit=1&before={newest['before']}")

    found = [thread["thread_id"] for page in (first, second) for thread in page["items"]]
    assert found == [ada.thread_id, *made[::-1]]
    assert second["after"] is None
    assert [page["items"][0]["message"]["role"] for page in (newest, oldest)] == ["assistant", "user"]


async def test_a_thread_without_messages_is_there(ada: Person) -> None:
    thread_id = await ada.create_thread("empty")

    page = await ada.get(f"/threads/{thread_id}/messages")

    assert page["items"] == []
    assert page["after"] is not None


async def test_a_thread_that_was_deleted_is_gone_with_all_that_was_in_it(ada: Person) -> None:
    await ada.say("Forget this.")

    deleted = await ada.ask("DELETE", f"/threads/{ada.thread_id}")

    assert deleted.status_code == 204
    for path in ("messages", "state"):
        assert (await ada.ask("GET", f"/threads/{ada.thread_id}/{path}")).status_code == 404
    assert (await ada.ask("DELETE", f"/threads/{ada.thread_id}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "json"),
    [
        ("GET", "/threads/{}/messages", {}),
        ("GET", "/threads/{}/state", {}),
        ("POST", "/threads/{}/messages", {"content": "Let me in."}),
        ("DELETE", "/threads/{}", {}),
    ],
)
async def test_what_belongs_to_somebody_else_answers_like_what_is_not_there(
    ada: Person, bob: Person, method: str, path: str, json: dict[str, str]
) -> None:
    await ada.say("Between us.")

    of_ada = await bob.ask(method, path.format(ada.thread_id), **json)
    absent = await bob.ask(method, path.format(ABSENT), **json)

    assert of_ada.status_code == 404
    assert of_ada.text.replace(ada.thread_id, ABSENT) == absent.text
    assert [thread["thread_id"] for thread in (await bob.get("/threads"))["items"]] == [bob.thread_id]
    assert len((await ada.get(f"/threads/{ada.thread_id}/messages"))["items"]) == 2


async def test_who_has_no_token_of_ours_is_told_so(client: httpx.AsyncClient) -> None:
    none = await client.get("/threads")
    unknown = await client.get("/threads", headers={"Authorization": "Bearer of bad news"})

    assert none.status_code in {401, 403}  # FastAPI changed its mind
    assert unknown.status_code == 401


async def test_bad_input_is_named(ada: Person) -> None:
    of_fastapi = await ada.ask("GET", "/threads?limit=0")
    of_the_store = await ada.ask("GET", "/threads?after=nonsense")

    assert (of_fastapi.status_code, of_the_store.status_code) == (422, 422)
    assert of_fastapi.json()["detail"][0]["loc"] == ["query", "limit"]
    assert of_the_store.json()["detail"].startswith("after: ")


@pytest.mark.usefixtures("mischief")
@pytest.mark.parametrize(
    ("name", "status", "error"), [("refuse", 500, "DatabaseError"), ("kill", 503, "UnavailableError")]
)
async def test_a_commit_that_fails_is_no_success_and_the_next_one_is(
    ada: Person, name: str, status: int, error: str
) -> None:
    failed = await ada.ask("POST", "/threads", name=name)
    after = await ada.ask("POST", "/threads", name="after")

    assert failed.status_code == status
    assert failed.json()["error"] == error
    assert after.status_code == 201
    assert [thread["name"] for thread in (await ada.get("/threads"))["items"]] == ["after", "Welcome"]


@pytest.mark.usefixtures("mischief")
async def test_a_user_whose_first_thread_cannot_be_saved_is_not_saved_either(
    client: httpx.AsyncClient, database_url: str
) -> None:
    response = await client.post("/users", json={"name": "Mallory"})

    assert response.status_code == 500
    async with connected(database_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM users WHERE name = 'Mallory'") == 0


async def test_a_user_goes_with_all_threads(client: httpx.AsyncClient, database_url: str) -> None:
    person = await sign_up(client, "Somebody who leaves")

    async with connected(database_url) as connection:
        await connection.execute("DELETE FROM users WHERE name = 'Somebody who leaves'")

        assert not await connection.fetchval("SELECT count(*) FROM threads WHERE thread_id = $1", person.thread_id)


async def test_it_is_ready_if_the_servers_are(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")

    assert response.status_code == 200
    assert (response.json()["database"], response.json()["cache"]) == ("up", "up")


async def test_who_answers_second_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
    address: str,  # noqa: ARG001  # whoever listens there has migrated the database
    database_url: str,
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setenv("PERSISTENCE_DATABASE_URL", database_url)
    from chat.agent import get_reply  # noqa: PLC0415  # importable from here on
    from chat.app import app  # noqa: PLC0415  # importable from here on

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://chat") as client,
    ):
        person = await sign_up(client, "Quick")

        async def rival(_: Sequence[Any]) -> dict[str, str]:
            app.dependency_overrides.clear()
            (await person.say("Me first.")).raise_for_status()
            return {"role": "assistant", "content": "Too late."}

        app.dependency_overrides[get_reply] = lambda: rival
        response = await person.say("Me second.")
        messages = await person.get(f"/threads/{person.thread_id}/messages")

    assert response.status_code == 409
    assert response.json()["error"] == "StateConflict"
    assert "Too late." not in [message["message"]["content"] for message in messages["items"]]


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("history", [migrate.alembic_ini(), EXAMPLE / "alembic.ini"], ids=["ours", "the application's"])
def test_each_history_finds_nothing_to_do(database_url: str, history: Path) -> None:
    assert "No new upgrade operations detected." in alembic(database_url, history, "check")


async def test_the_foreign_key_to_users_belongs_to_the_applications_history(
    make_database: Callable[[], Awaitable[str]],
) -> None:
    url, history = await make_database(), EXAMPLE / "alembic.ini"
    await migrate.upgrade(PersistenceSettings(database_url=url, user_id_type="bigint"))
    alembic(url, history, "upgrade", "head")

    async with connected(url) as connection:
        await connection.execute("ALTER TABLE threads DROP CONSTRAINT fk_threads_user_id_users")
        missing = alembic(url, history, "check")
        await connection.execute(
            "ALTER TABLE threads ADD CONSTRAINT fk_threads_user_id_users FOREIGN KEY (user_id) REFERENCES users"
        )
        alembic(url, history, "downgrade", "base")
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")

    assert re.findall(r"\('(\w+)', .*?name='(\w+)'", missing) == [("add_fk", "fk_threads_user_id_users")]
    assert {row["tablename"] for row in rows} == {
        *("threads", "messages", "states", "persistence_config", "persistence_jobs", "cache_outbox"),
        *("graph_checkpoints", "graph_values", "tool_results", "state_streams", "state_chunks", "items"),
        *("conversation_imports", "schema_migrations", "alembic_version"),
    }


def alembic(url: str, ini: Path, *command: str) -> str:
    """Run the ``alembic`` command, as somebody in a terminal does; return what it said."""
    environment = {**os.environ, "PERSISTENCE_DATABASE_URL": url, "PERSISTENCE_USER_ID_TYPE": "bigint"}
    line = [sys.executable, "-m", "alembic", "-c", ini, *command]
    ran = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


@pytest.mark.slow
def test_without_an_address_it_brings_its_own_servers_and_stops_them(tmp_path: Path) -> None:
    with served(EXAMPLE / "run.py", tmp_path, PERSISTENCE_EMBEDDED_DIR=str(tmp_path / "servers")) as address:
        health = httpx.get(f"{address}/readyz").json()
        running = list(tmp_path.rglob("postmaster.pid"))

    assert (health["database"], health["cache"]) == ("up", "up")
    assert len(running) == 1
    assert list(tmp_path.rglob("postmaster.pid")) == []
