"""Bad inputs: each must give the right rows or an ``InvalidInputError``, never another error or a row too many."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

from agent_persistence import InvalidInputError, NewMessage
from agent_persistence.errors import CommitUnknownError, StatementTimeoutError, UnavailableError
from torture.calls import describe_error
from torture.history import Recorder
from torture.workload import Store

OWNER = "owner-of-odd-names"
THREAD = "odd-names"
TEXTS = (
    "100%", "100 percent", "a_b", "aXb", "c\\d", "c\\\\d", "cd", "it's", '"quoted"', "'; DROP TABLE threads; --", "%",
    "_", "\\", "ünïcödé", "ÜNÏCÖDÉ", "日本語", "😀 smile", "tab\there", "line\nbreak", "$$", "$1", "{}",
    "x" * 200, "/*",
)  # fmt: skip
PIECES = (
    "%", "_", "\\", "'", '"', "''", "--", ";", "/*", "*/", "$1", "$$", ":p", "{", "}", "0", "a", "A", "b", "C", "d",
    "ü", "Ü", "ï", "日", "😀", "\u0301", "\u202e", "\ufeff", "\u2028", "\t", "\n", "\r", "\x1b", "\x7f", "ß", "İ", "Σ",
    " ", "100", "it", "DROP", " OR 1=1", "e", "x", "\\%", "\\_", "\\'", "E'", "U&'", "~", "^", "[", "]", "(", ")", "|",
    "?",
)  # fmt: skip
UNSTORABLE = ("\0", "\ud800", "\udfff")


class Hostile:
    """Sends bad inputs and counts what became of them.

    Attributes:
        counts: tried, searches among them, refused and wrong.
    """

    def __init__(self, store: Store, recorder: Recorder, random: Random) -> None:
        self._store = store
        self._recorder = recorder
        self._random = random
        self.counts = {"tried": 0, "searches": 0, "refused": 0, "wrong": 0}

    async def search(self) -> None:
        """Search for a hostile text, in messages or in the names of threads."""
        wanted = self._text()
        self.counts["searches"] += 1
        expected = sorted(text for text in TEXTS if fold(wanted) in fold(text))
        if self._random.random() < 0.5:
            found = self._store.messages.page(THREAD, user_id=OWNER, search=wanted, limit=100)
            await self._try(f"search {wanted!r}", found, lambda page: sorted(m.content for m in page) == expected)
        else:
            threads = self._store.threads.page(user_id=OWNER, search=wanted, limit=100)
            await self._try(f"names {wanted!r}", threads, lambda page: sorted(t.name for t in page) == expected)

    async def argument(self) -> None:
        """Pass something impossible as another argument."""
        name, call = self._random.choice(list(ARGUMENTS.items()))
        bad = self._random.choice(BAD[name])
        await self._try(f"{name} {str(bad)[:50]!r}", call(self._store, bad), _is_own)

    async def cursor(self) -> None:
        """Forge a cursor."""
        bad = self._cursor()
        calls = (
            self._store.messages.page(THREAD, user_id=OWNER, before=bad),
            self._store.messages.page(THREAD, user_id=OWNER, after=bad),
            self._store.threads.page(user_id=OWNER, after=bad),
            self._store.states.page(THREAD, user_id=OWNER, after=bad),
        )
        for call in calls:
            await self._try(f"cursor {bad[:50]!r}", call, _is_own)

    async def _try(self, what: str, call: Awaitable[Any], is_right: Callable[[Any], bool]) -> None:
        self.counts["tried"] += 1
        start = time.monotonic_ns()
        try:
            answer = await call
        except InvalidInputError:
            self.counts["refused"] += 1
        except (UnavailableError, CommitUnknownError, StatementTimeoutError) as error:
            # A fault came between; the input was not judged.
            self._recorder.write("error", kind=what, start=start, **describe_error(error))
        except Exception as error:  # noqa: BLE001 - any other is what is looked for
            self._wrong(f"{what} raised {type(error).__name__}: {error}")
        else:
            if not is_right(answer):
                self._wrong(f"{what} gave other rows than it should")

    def _wrong(self, text: str) -> None:
        self.counts["wrong"] += 1
        self._recorder.write("wrong", text=text[:300])

    def _text(self) -> str:
        pieces = self._random.choices(PIECES, k=self._random.randint(1, 6))
        if self._random.random() < 0.02:
            pieces.append(self._random.choice(UNSTORABLE))
        if self._random.random() < 0.3:
            text = self._random.choice(TEXTS)
            start = self._random.randrange(len(text))
            pieces = [text[start : start + self._random.randint(1, 8)]]
        return "".join(pieces)

    def _cursor(self) -> str:
        listing = self._random.choice(["messages", "threads", "states", "", 1, None])
        position = self._random.choice(POSITIONS)
        text = json.dumps([listing, *position]) if self._random.random() < 0.8 else self._text()
        encoded = base64.urlsafe_b64encode(text.encode(errors="replace")).decode()
        return encoded if self._random.random() < 0.8 else encoded[: self._random.randint(0, len(encoded))]


def fold(text: str) -> str:
    """Lower case as PostgreSQL's builtin locale has it: one character for one."""
    return "".join("i" if one == "İ" else one.lower() for one in text)


def _is_own(answer: Any) -> bool:
    """Whether it holds nothing that belongs to another thread or another owner."""
    rows = getattr(answer, "items", None) or ()
    return all(getattr(row, "user_id", OWNER) == OWNER and _thread_is_own(row) for row in rows)


def _thread_is_own(row: Any) -> bool:
    return hasattr(row, "user_id") or row.thread_id == THREAD


def _nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


HUGE = 2**63
POSITIONS: tuple[tuple[Any, ...], ...] = (
    (), (0,), (-1,), (HUGE,), (10**400,), (1.5,), (math.nan,), (math.inf,), (None,), ("1",), ("'; --",), (True,),
    (HUGE, "t"), (10**30, "t"), (0, "\0"), (0, "\ud800"), (None, "no such thread"), ([],), ({},), (0, 0, 0),
    (0, "x" * 5000),
)  # fmt: skip
BAD_IDS = ("", "\0", "x" * 256, "\ud800", "a\nb", "a:b", "%", "'; --", 1, None, True, b"x", 1.5, HUGE)
BAD: dict[str, Sequence[Any]] = {
    "thread_id": BAD_IDS,
    "user_id": ("", "\0", "x" * 256, "\ud800", 1, None, True, b"x"),
    "message_id": ("", "\0", "x" * 256, "\ud800", 1, True, b"x"),
    "limit": (0, -1, 1001, HUGE, 10**400, True, 1.5, "5", None, math.nan),
    "version": (-1, HUGE, 10**400, True, 1.5, "1", math.inf),
    "state": (math.nan, math.inf, "\0", "\ud800", {"\0": 1}, {1: 1}, (1,), {1, 2}, b"x", object(), HUGE,
        _nested(500)),
    "message": ({}, {"role": None}, {"role": 1}, {"role": "user", "content": "\0"}, {"role": "user", "x": math.nan},
        None, 7),
    "name": ("\0", "\ud800", "x" * 256, 1, b"x"),
    "meta": ({"a": math.nan}, {"\0": 1}, {1: 1}, [], "x", {"a": {"b": object()}}, {"a": HUGE}),
}  # fmt: skip
# Into a thread that does not exist: what is not refused finds nothing, and writes nothing.
NOWHERE = "nowhere"
ARGUMENTS: dict[str, Callable[[Store, Any], Awaitable[Any]]] = {
    "thread_id": lambda store, bad: store.states.get(bad, user_id="nobody at all"),
    "user_id": lambda store, bad: store.states.get(NOWHERE, user_id=bad),
    "message_id": lambda store, bad: store.messages.get(NOWHERE, bad, user_id=OWNER),
    "limit": lambda store, bad: store.messages.page(THREAD, user_id=OWNER, limit=bad),
    "version": lambda store, bad: store.states.get_version(THREAD, bad, user_id=OWNER),
    "state": lambda store, bad: store.states.put(NOWHERE, bad, user_id=OWNER),
    "message": lambda store, bad: store.messages.append(NOWHERE, bad, user_id=OWNER),
    "name": lambda store, bad: store.threads.create(name=bad, user_id=OWNER),
    "meta": lambda store, bad: store.threads.page(meta=bad, user_id=OWNER),
}


async def prepare(store: Store) -> None:
    """Make the thread whose messages, and the threads whose names, are searched."""
    await store.threads.create(thread_id=THREAD, user_id=OWNER)
    await store.messages.append_many(
        THREAD, [NewMessage(message={"role": "user", "content": text}) for text in TEXTS], user_id=OWNER
    )
    for text in TEXTS:
        await store.threads.create(name=text, user_id=OWNER)
