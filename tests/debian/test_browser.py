"""The page of an example in Chromium, by its DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples.served import served

from agent_persistence.embedded import EmbeddedServers

websockets = pytest.importorskip("websockets.asyncio.client")  # comes with LangGraph's SDK

pytestmark = [pytest.mark.needs_apt, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "examples" / "langgraph_fastapi" / "serve.py"
CHROMIUM = shutil.which("chromium")
PATIENCE = 30.0


class Page:
    """A tab of the browser."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def evaluate(self, script: str) -> Any:
        number = next(self._numbers)
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        await self._socket.send(json.dumps({"id": number, "method": "Runtime.evaluate", "params": asked}))
        while (answer := json.loads(await self._socket.recv())).get("id") != number:
            pass  # an event
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true; what the page does then has no event that reaches us."""
        async with asyncio.timeout(PATIENCE):
            while not await self.evaluate(f"!!({script})"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def say(self, text: str) -> None:
        await self.evaluate(f"document.querySelector('#content').value = {json.dumps(text)}; form.requestSubmit()")


@asynccontextmanager
async def browser(folder: Path, address: str) -> AsyncIterator[Page]:
    """Open an address in a browser without a window."""
    assert CHROMIUM is not None
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *options, f"--user-data-dir={folder}", address, stdout=DEVNULL, stderr=PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while not (found := re.search(rb"ws://([\d.:]+)/", await process.stderr.readline())):
                pass
        async with httpx.AsyncClient(base_url=f"http://{found[1].decode()}") as client:
            tabs = [tab for tab in (await client.get("/json")).json() if tab["type"] == "page"]
        async with websockets.connect(tabs[0]["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")
async def test_the_page_of_the_langgraph_example_works_in_a_browser(
    tmp_path: Path, servers: EmbeddedServers, make_database: Callable[[], Awaitable[str]]
) -> None:
    environment = {"PERSISTENCE_DATABASE_URL": await make_database(), "PERSISTENCE_REDIS_URL": servers.redis_url}
    with served(SCRIPT, tmp_path, **environment) as address:
        async with browser(tmp_path / "profile", address) as page:
            await page.until("document.readyState === 'complete' && document.querySelector('#form')?.onsubmit")
            await page.say("hello there")
            # The answer by tokens at first, then the history, whose lines of the user have buttons.
            await page.until("messages.innerText.includes(\"you said 'hello there'.\")")
            await page.until("messages.querySelector('.user button') !== null")
            await page.until("threads.innerText.includes('hello there')")

            await page.say("a refund, please")
            await page.until("[...messages.querySelectorAll('button')].some((one) => one.textContent === 'Yes')")
            await page.evaluate(
                "[...messages.querySelectorAll('button')].find((one) => one.textContent === 'Yes').click()"
            )
            await page.until("document.querySelectorAll('#messages .assistant').length === 2")

            await page.say("a long question " * 20)
            await page.until("messages.lastChild.textContent.includes('Answer')")
            await page.evaluate("document.querySelector('#stop').click()")
            await page.until("[...messages.querySelectorAll('button')].some((one) => one.textContent === 'Continue')")
