"""What every client does: calls of the public API in a random mix, each of them recorded."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from agent_persistence import NewMessage, Persistence, PersistenceError
from torture.history import FORM, STREAM, Recorder, exact, message_of, state_of, stream_of

T = TypeVar("T")
Store = Persistence[str, str]
SHARED = {f"shared-{number}": f"owner-{number % 2}" for number in range(6)}
"""Threads that all processes write and read, and their owners."""
LONGEST_WAIT_BEFORE_CANCELLING = 0.02
MOST_OWN_THREADS = 20
FORMS = ("", "", "", "", "~300", "~310", "~stream")
"""Small states, states that are stored as the difference from the one before, and streams."""
COPIED = 205
"""So many messages in one call are written by COPY."""
PAGE_LIMIT = 10
KEPT = 15


class RolledBackError(Exception):
    """Raised by the workload in a unit of work, which must leave nothing."""


class Workload:
    """The calls of one process.

    Attributes:
        cancels: how likely a call is to be cancelled while it runs.
    """

    def __init__(self, store: Store, recorder: Recorder, random: Random) -> None:
        self._store = store
        self._recorder = recorder
        self._random = random
        self._numbers = itertools.count()
        self._own: list[str] = []
        self._deleted: deque[str] = deque(maxlen=5)
        self._versions: dict[str, int] = {}
        self._cursors: dict[str, tuple[str, int]] = {}
        self._messages: deque[tuple[str, str]] = deque(maxlen=30)
        self.cancels = 0.0

    async def step(self) -> None:
        """Do one thing."""
        [act] = self._random.choices(list(MIX), list(MIX.values()))
        await act(self)

    async def create(self) -> None:
        if len(self._own) >= MOST_OWN_THREADS:
            return await self.delete()
        thread, owner = self._name("thread"), f"owner-of-{self._recorder.process}"
        made = await self._call(
            "create", lambda: self._store.threads.create(thread_id=thread, user_id=owner), _nothing, thread=thread
        )
        if made is not None and await self._put(thread, owner):
            self._own.append(thread)
        return None

    async def delete(self) -> None:
        if len(self._own) < MOST_OWN_THREADS // 4:
            return
        thread = self._own.pop(self._random.randrange(len(self._own)))
        self._deleted.append(thread)
        owner = self._owner(thread)
        there_was_one = await self._call(
            "delete", lambda: self._store.threads.delete(thread, user_id=owner), _nothing, thread=thread
        )
        if there_was_one is False:
            self._recorder.write("wrong", text=f"the first to delete {thread} was told that there was no such thread")

    async def append(self, thread: str | None = None) -> None:
        thread, owner = (thread, self._owner(thread)) if thread else self._pick()
        token = self._name("message")
        await self._call(
            "append",
            lambda: self._store.messages.append(thread, message_of(token), user_id=owner),
            _describe_messages([token]),
            thread=thread, tokens=[token],
        )  # fmt: skip

    async def append_to_deleted(self) -> None:
        if self._deleted:
            await self.append(self._random.choice(self._deleted))

    async def append_with_id(self) -> None:
        """Append, and now and then once more, as a client does that did not hear of its success."""
        thread, owner = self._pick()
        token = self._name("message")

        async def append(edit: str = "") -> Any:
            message = message_of(token, edit)
            return await self._store.messages.append(thread, message, message_id=token, user_id=owner)

        described = _describe_messages([token])
        first = await self._call("append", append, described, thread=thread, tokens=[token], message_id=token)
        if first is None:
            return
        if self._random.random() < 0.3:
            await self._call("repeat", append, described, thread=thread, tokens=[token])
        elif self._random.random() < 0.2:
            await self._call("conflict", lambda: append("other"), _nothing, thread=thread, message=token)
        # From now on others may edit or delete it, so that an append under its id would be another call.
        self._messages.append((thread, token))

    async def append_many(self) -> None:
        thread, owner = self._pick()
        tokens = [self._name("message") for _ in range(self._random.randint(2, 5))]
        has_ids = self._random.random() < 0.5
        batch = [NewMessage(message=message_of(token), message_id=token if has_ids else None) for token in tokens]
        await self._call(
            "append_many",
            lambda: self._store.messages.append_many(thread, batch, user_id=owner),
            _describe_messages(tokens),
            thread=thread, tokens=tokens, has_ids=has_ids,
        )  # fmt: skip

    async def copy(self) -> None:
        """Append so many messages that COPY writes them, to a thread that is seldom read."""
        thread = self._random.choice(self._own or [*SHARED])
        owner = self._owner(thread)
        tokens = [self._name("message") for _ in range(COPIED)]
        batch = [message_of(token) for token in tokens]
        await self._call(
            "append_many",
            lambda: self._store.messages.append_many(thread, batch, user_id=owner),
            _describe_messages(tokens),
            thread=thread, tokens=tokens, copied=True,
        )  # fmt: skip

    async def edit(self) -> None:
        if self._messages:
            thread, token = self._random.choice(self._messages)
            edit = self._name("edit")
            await self._call(
                "edit",
                lambda: self._store.messages.update(
                    thread, token, message=message_of(token, edit), user_id=self._owner(thread)
                ),
                lambda record: {"seqs": {token: record.seq}},
                thread=thread, message=token, edit=edit,
            )  # fmt: skip

    async def remove(self) -> None:
        if self._messages:
            thread, token = self._messages.popleft()
            await self._call(
                "remove",
                lambda: self._store.messages.delete(thread, token, user_id=self._owner(thread)),
                lambda existed: {"existed": existed},
                thread=thread, message=token,
            )  # fmt: skip

    async def unit(self) -> None:
        """Write two messages and two states in one unit of work: by ``begin`` or ``run``, or rolled back."""
        thread, owner = self._pick()
        form = self._random.choice(["begin", "run", "rollback"])
        messages = [self._name("message") for _ in range(2)]
        states = [self._name("state") + self._random.choice(["", "~305"]) for _ in range(2)]

        async def work(uow: Any) -> dict[str, Any]:
            seqs, versions = {}, {}
            for message, state in zip(messages, states, strict=True):
                seqs[message] = (await uow.messages.append(thread, message_of(message))).seq
                versions[state] = (await uow.states.put(thread, state_of(state), meta={"token": state})).version
            if form == "rollback":
                raise RolledBackError
            return {"seqs": seqs, "versions": versions}

        async def begun() -> dict[str, Any]:
            async with self._store.begin(user_id=owner) as uow:
                return await work(uow)

        await self._call(
            "unit",
            (lambda: self._store.run(work, user_id=owner)) if form == "run" else begun,
            lambda done: done,
            thread=thread, tokens=[messages[0], states[0], messages[1], states[1]], form=form,
        )  # fmt: skip

    async def record_tool_result(self) -> None:
        thread, owner = self._pick()
        tool_call, result = f"call-{self._random.randrange(6)}", self._name("result")
        await self._call(
            "tool",
            lambda: self._store.tool_results.record(thread, tool_call, result, user_id=owner),
            lambda recorded: {"recorded": recorded},
            thread=thread, tool_call=tool_call, result=result,
        )  # fmt: skip

    async def prune(self) -> None:
        thread, owner = self._pick()
        await self._call(
            "prune",
            lambda: self._store.states.prune(thread, keep_last=KEPT, user_id=owner),
            lambda count: {"count": count},
            thread=thread, keep=KEPT,
        )  # fmt: skip

    async def purge(self) -> None:
        await self._call(
            "purge",
            lambda: self._store.purge(keep_last=KEPT),
            lambda count: {"count": count},
            thread="", keep=KEPT,
        )  # fmt: skip

    async def put(self) -> None:
        await self._put(*self._pick())

    async def put_over(self) -> None:
        thread, owner = self._pick()
        await self._put(thread, owner, self._versions.get(thread))

    async def get(self, thread: str | None = None) -> None:
        thread, owner = (thread, self._owner(thread)) if thread else self._pick()
        state = await self._call(
            "get", lambda: self._store.states.get(thread, user_id=owner), _describe_state, thread=thread
        )
        if state is not None:
            self._versions[thread] = state.version

    async def page(self) -> None:
        thread, owner = self._pick()
        await self._call(
            "page",
            lambda: self._store.messages.page(thread, user_id=owner, limit=PAGE_LIMIT),
            _describe_page,
            thread=thread, limit=PAGE_LIMIT,
        )  # fmt: skip

    async def follow(self) -> None:
        """Read on from where the last page of this thread ended."""
        thread, owner = self._pick()
        cursor, after = self._cursors.get(thread, (None, 0))
        limit = 100
        page = await self._call(
            "page",
            lambda: self._store.messages.page(thread, user_id=owner, limit=limit, after=cursor),
            _describe_page,
            thread=thread, limit=limit, **({"after": after} if cursor else {}),
        )  # fmt: skip
        if page is not None and page.after is not None:
            self._cursors[thread] = (page.after, max((message.seq for message in page), default=after))

    async def read_stream(self) -> None:
        thread, owner = self._pick()
        described: list[Any] = []

        async def read() -> list[Any]:
            state = await self._store.states.get(thread, user_id=owner)
            if state is not None and state.stream is not None:
                chunks = self._store.states.open_stream(thread, user_id=owner, version=state.version)
                digest = hashlib.sha256(b"".join([chunk async for chunk in chunks])).hexdigest()
                described.append(digest == state_of(state.meta["token"])["stream"])
            return described

        await self._call("stream", read, lambda found: {"intact": all(found), "read": len(found)}, thread=thread)

    async def read_foreign(self) -> None:
        """Read a thread of somebody else's, which must look like one that is not there."""
        thread, _ = self._pick()
        stranger = self._random.choice(["a-stranger", "owner-0" if self._owner(thread) != "owner-0" else "owner-1"])
        kind, read = self._random.choice(
            [
                ("foreign_get", lambda: self._store.states.get(thread, user_id=stranger)),
                ("foreign_page", lambda: self._store.messages.page(thread, user_id=stranger)),
                ("foreign_thread", lambda: self._store.threads.get(thread, user_id=stranger)),
            ]
        )
        await self._call(
            kind, read, lambda found: {"found": found is not None and getattr(found, "items", True) != ()},
            thread=thread, stranger=stranger,
        )  # fmt: skip

    async def append_foreign(self) -> None:
        thread, _ = self._pick()
        token = self._name("message")
        await self._call(
            "foreign_append",
            lambda: self._store.messages.append(thread, message_of(token), user_id="a-stranger"),
            lambda _: {"found": True},
            thread=thread, tokens=[token],
        )  # fmt: skip

    async def _put(self, thread: str, owner: str, expected: int | None = None) -> bool:
        token = self._name("state") + self._random.choice(FORMS)
        saved = await self._call(
            "put",
            lambda: self._save(thread, token, owner, expected),
            lambda record: {"version": record.version, "token": token},
            thread=thread, tokens=[token], expected=expected,
        )  # fmt: skip
        if saved is not None:
            self._versions[thread] = saved.version
        return saved is not None

    async def _save(self, thread: str, token: str, owner: str, expected: int | None) -> Any:
        states, meta = self._store.states, {"token": token}
        if not token.endswith(FORM + STREAM):
            return await states.put(thread, state_of(token), meta=meta, user_id=owner, expected_version=expected)
        pieces = _pieces(stream_of(token))
        return await states.put_stream(thread, pieces, meta=meta, user_id=owner, expected_version=expected)

    async def _call(
        self, kind: str, call: Callable[[], Awaitable[T]], describe: Callable[[T], dict[str, Any]], **arguments: Any
    ) -> T | None:
        """Record a call and its end; ``None`` unless it succeeded."""
        call_id = self._recorder.invoke(kind, **arguments)
        task = asyncio.ensure_future(call())
        if self._random.random() < self.cancels:
            await asyncio.wait([task], timeout=self._random.uniform(0, LONGEST_WAIT_BEFORE_CANCELLING))
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            self._recorder.write("return", call=call_id, outcome="cancelled")
            return None
        if error := task.exception():
            self._recorder.write("return", call=call_id, outcome="error", **describe_error(error))
            return None
        self._recorder.write("return", call=call_id, outcome="ok", **describe(task.result()))
        return task.result()

    def _pick(self) -> tuple[str, str]:
        threads = self._own if self._own and self._random.random() < 0.2 else list(SHARED)
        thread = self._random.choice(threads)
        return thread, self._owner(thread)

    def _owner(self, thread: str) -> str:
        return SHARED.get(thread, f"owner-of-{self._recorder.process}")

    def _name(self, kind: str) -> str:
        return f"{kind}-{self._recorder.process}-{next(self._numbers)}"


MIX: dict[Callable[[Workload], Awaitable[None]], float] = {
    Workload.get: 45,
    Workload.put: 9,
    Workload.put_over: 5,
    Workload.append: 7,
    Workload.append_with_id: 8,
    Workload.append_many: 4,
    Workload.append_to_deleted: 0.5,
    Workload.copy: 0.3,
    Workload.edit: 2,
    Workload.remove: 0.7,
    Workload.unit: 4,
    Workload.record_tool_result: 2.5,
    Workload.page: 6,
    Workload.follow: 3,
    Workload.read_stream: 2,
    Workload.prune: 0.7,
    Workload.purge: 0.1,
    Workload.read_foreign: 6,
    Workload.append_foreign: 1,
    Workload.create: 2,
    Workload.delete: 1,
}


def describe_error(error: BaseException) -> dict[str, Any]:
    """The error's class, what it says about the commit, and its cause: enough to find it in the source."""
    cause = error.__cause__
    return {
        "error": type(error).__name__,
        "committed": "no" if isinstance(error, RolledBackError) else getattr(error, "committed", "unknown"),
        "text": str(error)[:300],
        "cause": "" if cause is None else f"{type(cause).__name__}: {cause}"[:300],
        **({} if isinstance(error, PersistenceError | RolledBackError) else {"at": _where(error)}),
    }


def _where(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _describe_messages(tokens: list[str]) -> Callable[[Any], dict[str, Any]]:
    """Describe the records of messages, or one record."""

    def describe(records: Any) -> dict[str, Any]:
        several = records if isinstance(records, tuple) else (records,)
        return {"seqs": dict(zip(tokens, [record.seq for record in several], strict=True))}

    return describe


def _describe_page(page: Any) -> dict[str, Any]:
    return {"shown": [[message.seq, message.content] for message in page]}


def _describe_state(state: Any) -> dict[str, Any]:
    if state is None:
        return {"version": 0, "token": None, "intact": True}
    token = state.meta.get("token")
    found = state.data if state.stream is None else {"token": token, "stream": state.stream.sha256}
    return {"version": state.version, "token": token, "intact": bool(token) and exact(found) == exact(state_of(token))}


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]
