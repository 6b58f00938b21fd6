"""The example is run as its README says, and asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.embedded import EmbeddedServers
from served import served

EXAMPLE = Path(__file__).parents[2] / "examples" / "langgraph_fastapi"
SCRIPT = EXAMPLE / "serve.py"
ABSENT = "01a1fc1a-0000-7000-8000-000000000000"


class Event(NamedTuple):
    """A server-sent event, and when it came."""

    kind: str
    data: Any
    at: float


class Tab:
    """A browser tab of a user, on one thread."""

    def __init__(self, client: httpx.AsyncClient, user_id: str, thread_id: str) -> None:
        self._client = client
        self._headers = {"X-User-Id": user_id}
        self.thread_id = thread_id

    async def ask(self, method: str, path: str, **json: Any) -> httpx.Response:
        url = f"/threads/{self.thread_id}{path}"
        return await self._client.request(method, url, headers=self._headers, json=json or None)

    async def get(self, path: str) -> Any:
        return (await self.ask("GET", path)).raise_for_status().json()

    async def stream(self, path: str, **body: Any) -> AsyncIterator[Event]:
        url = f"/threads/{self.thread_id}/runs{path}"
        async with self._client.stream("POST", url, headers=self._headers, json=body) as response:
            response.raise_for_status()
            kind = ""
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield Event(kind, json.loads(value), time.monotonic())

    async def run(self, path: str = "", **json: Any) -> list[Event]:
        return [event async for event in self.stream(path, **json)]

    async def said(self, **query: str) -> list[tuple[str, str]]:
        page = (
            await self._client.get(f"/threads/{self.thread_id}/messages", headers=self._headers, params=query)
        ).json()
        return [(one["role"], one["text"]) for one in page["messages"]]


loads = json.loads


def text_of(events: list[Event]) -> str:
    return "".join(event.data["text"] for event in events if event.kind == "token")


@pytest_asyncio.fixture(scope="module")
async def database_url(make_database: Callable[[], Awaitable[str]]) -> str:
    return await make_database()


@pytest.fixture(scope="module")
def environment(servers: EmbeddedServers, database_url: str) -> dict[str, str]:
    return {"PERSISTENCE_DATABASE_URL": database_url, "PERSISTENCE_REDIS_URL": servers.redis_url}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[str]:
    with served(SCRIPT, tmp_path_factory.mktemp("elsewhere"), **environment) as address:
        yield address


@pytest_asyncio.fixture
async def client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address) as client:
        yield client


async def open_tab(client: httpx.AsyncClient, user_id: str) -> Tab:
    created = await client.post("/threads", headers={"X-User-Id": user_id}, json={})
    return Tab(client, user_id, created.raise_for_status().json()["thread_id"])


@pytest_asyncio.fixture
async def ada(client: httpx.AsyncClient, user_id: str) -> Tab:
    return await open_tab(client, user_id)


async def test_an_answer_arrives_word_by_word_and_is_in_the_history(ada: Tab) -> None:
    events = await ada.run(content="hello there")

    tokens = [event for event in events if event.kind == "token"]
    assert events[-1].kind == "done"
    assert len(tokens) > 4
    assert events[-1].at - tokens[0].at > 0.1  # not all at the end
    assert text_of(events).endswith("you said 'hello there'.")
    assert await ada.said() == [("user", "hello there"), ("assistant", text_of(events))]


async def test_the_sidebar_has_titles_and_only_the_users_threads(client: httpx.AsyncClient, ada: Tab) -> None:
    await ada.run(content="Where is my order?")
    untitled = await open_tab(client, "somebody else")

    sidebar = (await client.get("/threads", headers=ada._headers)).json()  # noqa: SLF001  # ours

    assert [(one["thread_id"], one["name"]) for one in sidebar["items"]] == [(ada.thread_id, "Where is my order?")]
    assert untitled.thread_id not in str(sidebar)


async def test_an_answer_again_is_a_branch_beside_the_first_one(ada: Tab) -> None:
    first = text_of(await ada.run(content="hello"))
    [question, _] = (await ada.get("/messages"))["messages"]

    second = text_of(await ada.run("/regenerate", message_id=question["message_id"]))

    [_, answer] = (await ada.get("/messages"))["messages"]
    assert first != second
    assert (answer["text"], answer["branch"], len(answer["branches"])) == (second, 1, 2)
    assert await ada.said(last=answer["branches"][0]) == [("user", "hello"), ("assistant", first)]


async def test_a_question_can_be_edited_also_the_first_one(ada: Tab) -> None:
    first = text_of(await ada.run(content="hello"))
    second = text_of(await ada.run(content="and then?"))
    [hello, _, question, _] = (await ada.get("/messages"))["messages"]

    edited = text_of(await ada.run("/regenerate", message_id=question["message_id"], content="and now?"))
    after_second = await ada.said()
    other = text_of(await ada.run("/regenerate", message_id=hello["message_id"], content="goodbye"))

    assert after_second == [("user", "hello"), ("assistant", first), ("user", "and now?"), ("assistant", edited)]
    assert await ada.said() == [("user", "goodbye"), ("assistant", other)]
    [goodbye, _] = (await ada.get("/messages"))["messages"]
    assert (goodbye["branch"], len(goodbye["branches"])) == (1, 2)
    assert await ada.said(last=goodbye["branches"][0]) == after_second
    assert second != edited


async def test_an_older_branch_can_be_continued(ada: Tab) -> None:
    first = text_of(await ada.run(content="hello"))
    [question, answer] = (await ada.get("/messages"))["messages"]
    await ada.run("/regenerate", message_id=question["message_id"])

    third = text_of(await ada.run(content="and then?", after=answer["message_id"]))

    assert await ada.said() == [
        ("user", "hello"),
        ("assistant", first),
        ("user", "and then?"),
        ("assistant", third),
    ]


async def test_a_run_that_asks_is_resumed_with_the_decision(ada: Tab) -> None:
    asked = await ada.run(content="A refund, please.")
    waiting = await ada.get("/pauses")
    decided = await ada.run("/resume", value=True)

    assert [event.kind for event in asked] == ["interrupt", "done"]
    assert [(one["interrupt_id"], one["value"]) for one in waiting] == [
        (asked[0].data["interrupt_id"], {"question": "May I refund for 'A refund, please.'?"})
    ]
    assert text_of(decided) == "It is refunded."
    assert await ada.get("/pauses") == []
    again = await ada.ask("POST", "/runs/resume", value=True)
    assert again.status_code == 409


async def test_a_new_message_does_not_drop_an_open_question(ada: Tab) -> None:
    await ada.run(content="A refund, please.")

    refused = await ada.ask("POST", "/runs", content="And where is my order?")
    unfinished = await ada.ask("POST", "/runs/continue")

    assert (refused.status_code, unfinished.status_code) == (409, 409)
    assert len(await ada.get("/pauses")) == 1
    assert text_of(await ada.run("/resume", value=True)) == "It is refunded."


async def test_a_decision_can_be_asked_for_again(ada: Tab) -> None:
    await ada.run(content="A refund, please.")
    await ada.run("/resume", value=True)
    [question, _] = (await ada.get("/messages"))["messages"]

    asked = await ada.run("/regenerate", message_id=question["message_id"])
    await ada.run("/resume", value=False)

    [_, answer] = (await ada.get("/messages"))["messages"]
    assert [event.kind for event in asked] == ["interrupt", "done"]
    assert (answer["text"], answer["branch"]) == ("I am sorry, no.", 1)


@pytest.mark.slow
async def test_a_run_that_asks_is_resumed_after_a_restart(
    tmp_path: Path, environment: dict[str, str], user_id: str
) -> None:
    with served(SCRIPT, tmp_path, **environment) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            tab = await open_tab(client, user_id)
            await tab.run(content="A refund, please.")

    with served(SCRIPT, tmp_path, **environment) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            tab = Tab(client, user_id, tab.thread_id)
            waiting = await tab.get("/pauses")
            events = await tab.run("/resume", value=False)

    assert len(waiting) == 1
    assert text_of(events) == "I am sorry, no."


@pytest.mark.parametrize(
    ("method", "path", "json"),
    [
        ("POST", "/runs", {"content": "Let me in."}),
        ("POST", "/runs/resume", {"value": True}),
        ("POST", "/runs/continue", {}),
        ("POST", "/runs/regenerate", {"message_id": "any"}),
        ("GET", "/messages", {}),
        ("GET", "/pauses", {}),
        ("PUT", "/name", {"name": "Mine"}),
        ("DELETE", "", {}),
    ],
)
async def test_somebody_elses_thread_is_refused_before_the_first_token(
    client: httpx.AsyncClient, ada: Tab, method: str, path: str, json: dict[str, Any]
) -> None:
    of_ada = await Tab(client, "bob", ada.thread_id).ask(method, path, **json)
    absent = await Tab(client, "bob", ABSENT).ask(method, path, **json)

    assert of_ada.status_code == 404
    assert of_ada.headers["content-type"] == "application/problem+json"
    assert of_ada.text.replace(ada.thread_id, ABSENT) == absent.text
    assert await ada.said() == []


async def test_of_two_tabs_at_once_the_second_is_refused_before_the_first_token(ada: Tab) -> None:
    first, second = await asyncio.gather(
        ada.ask("POST", "/runs", content="one"), ada.ask("POST", "/runs", content="two")
    )

    answered, refused = sorted([first, second], key=lambda response: response.status_code)
    assert (answered.status_code, refused.status_code) == (200, 409)
    assert refused.json()["error"] == "RunInProgressError"
    assert len(await ada.said()) == 2
    assert (await ada.ask("POST", "/runs", content="three")).status_code == 200


async def test_a_client_that_goes_away_leaves_its_message_and_the_thread_free(ada: Tab) -> None:
    await ada.run(content="before")
    async with aclosing(ada.stream("", content="Answer me.")) as events:  # type: ignore[type-var]
        await anext(events)

    message = (await ada.get("/messages"))["messages"][-1]
    rest = text_of(await _when_free(ada, "/continue"))
    again = text_of(await _when_free(ada, "/regenerate", message_id=message["message_id"]))

    assert [text for role, text in await ada.said() if role == "user"] == ["before", "Answer me."]
    assert rest.endswith("you said 'Answer me.'.")
    assert again.endswith("you said 'Answer me.'.")
    assert (await ada.ask("POST", "/runs/continue")).status_code == 409


async def _when_free(tab: Tab, path: str, **json: Any) -> list[Event]:
    """Run as soon as the server has seen that the client went away."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(httpx.HTTPStatusError):
                return await tab.run(path, **json)
            await asyncio.sleep(0.02)


async def test_an_error_in_a_stream_is_an_event(ada: Tab) -> None:
    events = []
    async for event in ada.stream("", content="hello"):
        if not events:
            await ada.ask("DELETE", "")
        events.append(event)

    assert (events[0].kind, events[-1].kind) == ("token", "error")
    assert (events[-1].data["status"], events[-1].data["error"]) == (404, "ThreadNotFoundError")


async def test_a_message_that_is_not_there_cannot_be_answered_again(ada: Tab) -> None:
    response = await ada.ask("POST", "/runs/regenerate", message_id="absent")

    assert response.status_code == 404
    assert response.json()["error"] == "MessageNotFoundError"


async def test_a_conversation_does_not_go_back_to_a_checkpoint_that_was_purged(ada: Tab, database_url: str) -> None:
    await ada.run(content="one")
    await ada.run(content="two")
    [question, answer, *_] = (await ada.get("/messages"))["messages"]
    async with Persistence[str, str](PersistenceSettings(_env_file=None, database_url=database_url)) as persistence:
        await persistence.purge(keep_last=1)

    again = await ada.ask("POST", "/runs/regenerate", message_id=question["message_id"])
    beside = await ada.ask("POST", "/runs", content="three", after=answer["message_id"])

    assert (again.status_code, beside.status_code) == (410, 410)


async def test_langgraph_dev_finds_what_its_file_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], ada: Tab, user_id: str
) -> None:
    for name, value in {**environment, "STUDIO_USER_ID": user_id}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    named = json.loads((EXAMPLE / "langgraph.json").read_text(encoding="utf-8"))
    graph_module, graph_name = named["graphs"]["agent"].split(":")
    saver_path, saver_name = named["checkpointer"]["path"].split(":")
    graph = getattr(importlib.import_module(graph_module), graph_name)
    open_saver = getattr(importlib.import_module(f"assistant.{Path(saver_path).stem}"), saver_name)

    async with open_saver() as saver:
        graph.checkpointer = saver  # as the server does
        await graph.ainvoke({"messages": [("user", "hello")]}, {"configurable": {"thread_id": ada.thread_id}})

    assert [text for _, text in await ada.said()] == ["hello", "Answer 1: you said 'hello'."]


async def test_the_page_is_served(client: httpx.AsyncClient) -> None:
    response = await client.get("/")

    assert response.status_code == 200
    assert "/runs/regenerate" in response.text


@pytest.mark.slow
async def test_an_answer_is_stopped_from_another_tab(ada: Tab, client: httpx.AsyncClient) -> None:
    stranger, elsewhere = Tab(client, "nobody", ada.thread_id), ada
    answer = ada.stream("", content="a long question " * 20)
    first = await anext(answer)

    refused = await stranger.ask("POST", "/runs/stop")
    asked = await elsewhere.ask("POST", "/runs/stop")
    events = [first] + [event async for event in answer]

    assert (refused.status_code, asked.status_code) == (404, 202)
    assert events[-1].kind == "stopped"
    assert [role for role, _ in await ada.said()] == ["user"]
    assert (await ada.run("/continue"))[-1].kind == "done"


@pytest.mark.slow
async def test_a_stop_that_came_too_late_does_not_stop_the_next_answer(ada: Tab) -> None:
    await ada.ask("POST", "/runs/stop")

    events = await ada.run(content="a question that takes longer than a second to answer " * 6)

    assert events[-1].kind == "done"
    assert events[-1].at - events[0].at > 1
