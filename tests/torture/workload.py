"""What every client does: calls of the public API in a random mix, each of them recorded."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from agent_persistence import NewMessage, Persistence
from torture.history import Recorder, message_of, state_of

T = TypeVar("T")
Store = Persistence[str, str]
SHARED = {f"shared-{number}": f"owner-{number % 2}" for number in range(6)}
"""Threads that all processes write and read, and their owners."""
LONGEST_WAIT_BEFORE_CANCELLING = 0.02
MOST_OWN_THREADS = 20


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
        self._versions: dict[str, int] = {}
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
        owner = self._owner(thread)
        there_was_one = await self._call(
            "delete", lambda: self._store.threads.delete(thread, user_id=owner), _nothing, thread=thread
        )
        if there_was_one is False:
            self._recorder.write("wrong", text=f"the first to delete {thread} was told that there was no such thread")

    async def append(self) -> None:
        thread, owner = self._pick()
        token = self._name("message")
        await self._call(
            "append",
            lambda: self._store.messages.append(thread, message_of(token), user_id=owner),
            lambda record: {"seq": record.seq},
            thread=thread, tokens=[token],
        )  # fmt: skip

    async def append_with_id(self) -> None:
        """Append, and now and then once more, as a client does that did not hear of its success."""
        thread, owner = self._pick()
        token = self._name("message")

        async def append() -> Any:
            return await self._store.messages.append(thread, message_of(token), message_id=token, user_id=owner)

        first = await self._call(
            "append", append, lambda record: {"seq": record.seq}, thread=thread, tokens=[token], message_id=token
        )
        if first is None or self._random.random() < 0.7:
            return
        again = await self._call("repeat", append, lambda record: {"seq": record.seq}, thread=thread, tokens=[token])
        if again is not None and again.seq != first.seq:
            self._recorder.write("wrong", text=f"{token} was repeated: seq {first.seq} became {again.seq}")

    async def append_many(self) -> None:
        thread, owner = self._pick()
        tokens = [self._name("message") for _ in range(self._random.randint(2, 5))]
        has_ids = self._random.random() < 0.5
        batch = [NewMessage(message=message_of(token), message_id=token if has_ids else None) for token in tokens]
        await self._call(
            "append_many",
            lambda: self._store.messages.append_many(thread, batch, user_id=owner),
            lambda records: {"seqs": [record.seq for record in records]},
            thread=thread, tokens=tokens, has_ids=has_ids,
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
            lambda: self._store.messages.page(thread, user_id=owner, limit=10),
            lambda page: {"shown": [message.content for message in page]},
            thread=thread,
        )

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
        token = self._name("state")
        saved = await self._call(
            "put",
            lambda: self._store.states.put(thread, state_of(token), user_id=owner, expected_version=expected),
            _describe_state,
            thread=thread, tokens=[token], expected=expected,
        )  # fmt: skip
        if saved is not None:
            self._versions[thread] = saved.version
        return saved is not None

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


MIX: dict[Callable[[Workload], Awaitable[None]], int] = {
    Workload.get: 50,
    Workload.put: 10,
    Workload.put_over: 5,
    Workload.append: 7,
    Workload.append_with_id: 7,
    Workload.append_many: 4,
    Workload.page: 7,
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
        "committed": getattr(error, "committed", "unknown"),
        "text": str(error)[:300],
        "cause": "" if cause is None else f"{type(cause).__name__}: {cause}"[:300],
    }


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _describe_state(state: Any) -> dict[str, Any]:
    if state is None:
        return {"version": 0, "token": None, "intact": True}
    token = state.data.get("token") if isinstance(state.data, dict) else None
    return {"version": state.version, "token": token, "intact": token is not None and state.data == state_of(token)}
