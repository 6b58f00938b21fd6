"""Lists of sessions while others write."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agent_persistence.integrations.claude_transcripts import threads_of
from agent_persistence.records import Page, ThreadRecord

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def thread(name: str) -> ThreadRecord[str, str]:
    meta = {"claude": {"project": "shop", "session": name, "subpath": None, "mtime": 1}}
    return ThreadRecord(name, "ada", None, meta, None, NOW, NOW)


class List:
    """A list of threads in pages of two, the most recently active first."""

    def __init__(self, names: str, becomes_active: str = "") -> None:
        self.names = list(names)
        self.becomes_active = becomes_active
        self.pages = 0

    async def page(self, *, after: str | None, **_: Any) -> Page[ThreadRecord[str, str]]:
        begin = 0 if after is None else self.names.index(after) + 1
        shown = self.names[begin : begin + 2]
        is_last = begin + 2 >= len(self.names)
        if self.becomes_active:  # between this page and the next one
            self.names.remove(self.becomes_active)
            self.names.insert(0, self.becomes_active)
            self.becomes_active = ""
        self.pages += 1
        return Page(tuple(map(thread, shown)), after=None if is_last else shown[-1])


async def test_a_session_that_becomes_active_while_the_list_is_read_is_not_missed() -> None:
    threads = List("abcdef", becomes_active="e")

    assert {one.thread_id for one in await threads_of(threads.page, project="shop")} == set("abcdef")


async def test_a_list_of_one_page_is_read_once() -> None:
    for names in ("", "a", "ab"):
        threads = List(names)

        assert [one.thread_id for one in await threads_of(threads.page, project="shop")] == list(names)
        assert threads.pages == 1
