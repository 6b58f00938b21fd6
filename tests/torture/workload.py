"""What every client does: calls of the public API in a random mix, each of them recorded."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

from sqlalchemy import text

from agent_persistence import NewMessage, Persistence
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from torture.calls import Caller, RolledBackError
from torture.history import AGENT, FORM, STREAM, exact, message_of, state_of, stream_of
from torture.proxy import is_commit

Store = Persistence[str, str]
SHARED = {f"shared-{number}": f"owner-{number % 2}" for number in range(6)}
"""Threads that all processes write and read, and their owners."""
LEAST_OWN_THREADS, MOST_OWN_THREADS = 3, 20
BESIDE = {f"beside-{number}": "owner-0" for number in range(3)}
"""Threads whose states are saved in degraded mode as well."""
UNCACHED = {f"uncached-{number}": "owner-1" for number in range(3)}
"""Threads whose states are saved and read by stores without a cache only: these saves commit by themselves."""
FORMS = ("", "", "", FORM + AGENT, "~300", "~310", FORM + STREAM)
"""Small states, those of an agent, such that are stored as the difference from the one before, and streams."""
COPIED = 205
"""So many messages in one call are written by COPY."""
PAGE_LIMIT = 10
KEPT = 15


class Workload:
    """The calls of one process."""

    def __init__(self, store: Store, caller: Caller, random: Random, threads: dict[str, str] = SHARED) -> None:
        self._threads = threads
        self._store = store
        self._caller = caller
        self._recorder = caller.recorder
        self._random = random
        self._own: list[str] = []
        self._deleted: deque[str] = deque(maxlen=5)
        self._versions: dict[str, int] = {}
        self._cursors: dict[str, tuple[str, int]] = {}
        self._messages: deque[tuple[str, str]] = deque(maxlen=30)

    async def step(self) -> None:
        """Do one thing."""
        [act] = self._random.choices(list(MIX), list(MIX.values()))
        await act(self)

    async def step_uncached(self) -> None:
        """Do one thing of what a store without a cache does in its own way."""
        [act] = self._random.choices(list(UNCACHED_MIX), list(UNCACHED_MIX.values()))
        await act(self)

    async def create(self) -> None:
        if len(self._own) >= MOST_OWN_THREADS:
            return await self.delete()
        thread, owner = self._caller.name("thread"), f"owner-of-{self._recorder.process}"
        made = await self._caller.call(
            "create", lambda: self._store.threads.create(thread_id=thread, user_id=owner), _nothing, thread=thread
        )
        if made is not None and await self._put(thread, owner):
            self._own.append(thread)
        return None

    async def delete(self) -> None:
        if len(self._own) < LEAST_OWN_THREADS:
            return
        thread = self._own.pop(self._random.randrange(len(self._own)))
        self._deleted.append(thread)
        owner = self._owner(thread)
        there_was_one = await self._caller.call(
            "delete", lambda: self._store.threads.delete(thread, user_id=owner), _nothing, thread=thread
        )
        if there_was_one is False:
            self._recorder.write("wrong", text=f"the first to delete {thread} was told that there was no such thread")

    async def append(self, thread: str | None = None) -> None:
        thread, owner = (thread, self._owner(thread)) if thread else self._pick()
        token = self._caller.name("message")
        await self._caller.call(
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
        token = self._caller.name("message")

        async def append(edit: str = "") -> Any:
            message = message_of(token, edit)
            return await self._store.messages.append(thread, message, message_id=token, user_id=owner)

        described = _describe_messages([token])
        first = await self._caller.call("append", append, described, thread=thread, tokens=[token], message_id=token)
        if first is None:
            return
        if self._random.random() < 0.3:
            await self._caller.call("repeat", append, described, thread=thread, tokens=[token])
        elif self._random.random() < 0.2:
            await self._caller.call("conflict", lambda: append("other"), _nothing, thread=thread, message=token)
        # From now on others may edit or delete it, so that an append under its id would be another call.
        self._messages.append((thread, token))

    async def append_many(self) -> None:
        thread, owner = self._pick()
        tokens = [self._caller.name("message") for _ in range(self._random.randint(2, 5))]
        has_ids = self._random.random() < 0.5
        batch = [NewMessage(message=message_of(token), message_id=token if has_ids else None) for token in tokens]
        await self._caller.call(
            "append_many",
            lambda: self._store.messages.append_many(thread, batch, user_id=owner),
            _describe_messages(tokens),
            thread=thread, tokens=tokens, has_ids=has_ids,
        )  # fmt: skip

    async def copy(self) -> None:
        """Append so many messages that COPY writes them, to a thread that is seldom read."""
        thread = self._random.choice(self._own or [*SHARED])
        owner = self._owner(thread)
        tokens = [self._caller.name("message") for _ in range(COPIED)]
        batch = [message_of(token) for token in tokens]
        await self._caller.call(
            "append_many",
            lambda: self._store.messages.append_many(thread, batch, user_id=owner),
            _describe_messages(tokens),
            thread=thread, tokens=tokens, copied=True,
        )  # fmt: skip

    async def edit(self) -> None:
        if self._messages:
            thread, token = self._random.choice(self._messages)
            edit = self._caller.name("edit")
            await self._caller.call(
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
            await self._caller.call(
                "remove",
                lambda: self._store.messages.delete(thread, token, user_id=self._owner(thread)),
                lambda existed: {"existed": existed},
                thread=thread, message=token,
            )  # fmt: skip

    async def unit(self) -> None:
        """Write two messages and two states in one unit of work: by ``begin`` or ``run``, or rolled back."""
        thread, owner = self._pick()
        form = self._random.choice(["begin", "run", "rollback"])
        messages = [self._caller.name("message") for _ in range(2)]
        states = [self._caller.name("state") + self._random.choice(["", "~305"]) for _ in range(2)]

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

        await self._caller.call(
            "unit",
            (lambda: self._store.run(work, user_id=owner)) if form == "run" else begun,
            lambda done: done,
            thread=thread, tokens=[messages[0], states[0], messages[1], states[1]], form=form,
        )  # fmt: skip

    async def record_tool_result(self) -> None:
        thread, owner = self._pick()
        tool_call, result = f"call-{self._random.randrange(6)}", self._caller.name("result")
        await self._caller.call(
            "tool",
            lambda: self._store.tool_results.record(thread, tool_call, result, user_id=owner),
            lambda recorded: {"recorded": recorded},
            thread=thread, tool_call=tool_call, result=result,
        )  # fmt: skip

    async def prune(self) -> None:
        thread, owner = self._pick()
        await self._caller.call(
            "prune",
            lambda: self._store.states.prune(thread, keep_last=KEPT, user_id=owner),
            lambda count: {"count": count},
            thread=thread, keep=KEPT,
        )  # fmt: skip

    async def purge(self) -> None:
        await self._caller.call(
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
        state = await self._caller.call(
            "get", lambda: self._store.states.get(thread, user_id=owner), _describe_state, thread=thread
        )
        if state is not None:
            self._versions[thread] = state.version

    async def save(self, threads: dict[str, str] = SHARED) -> None:
        """Save a state by a checkpointer, whose rows are those of ``states``."""
        thread, owner = self._random.choice(list(threads.items()))
        token = self._caller.name("state") + self._random.choice([FORM + AGENT, "~300"])
        expected = self._versions.get(thread) if self._random.random() < 0.5 else None
        checkpointer = PostgreSQLCheckpointer(persistence=self._store, user_id=owner)
        saved = await self._caller.call(
            "put",
            lambda: checkpointer.save_state(thread, state_of(token), expected_version=expected),
            lambda checkpoint: {"version": checkpoint.version, "token": token},
            thread=thread, tokens=[token], expected=expected, checkpointer=True,
        )  # fmt: skip
        if saved is not None:
            self._versions[thread] = saved.version

    async def save_beside(self) -> None:
        await self.save(BESIDE)

    async def load(self) -> None:
        """Load a state by a checkpointer."""
        thread, owner = self._random.choice(list(SHARED.items()))
        checkpointer = PostgreSQLCheckpointer(persistence=self._store, user_id=owner)
        found = await self._caller.call(
            "load", lambda: checkpointer.load_state(thread), describe_checkpoint, thread=thread
        )
        if found is not None:
            self._versions[thread] = found.version

    async def look_around(self) -> None:
        """Ask for the owners of all threads, in a unit of work of one owner: policies leave no other."""
        if not self._store.settings.row_level_security:
            return
        thread, owner = self._pick()

        async def ask(uow: Any) -> list[str]:
            await uow.threads.get(thread)  # it names the owner
            return list(await uow.session.scalars(text("SELECT DISTINCT user_id FROM threads")))

        await self._caller.call(
            "foreign_rows",
            lambda: self._store.run(ask, user_id=owner),
            lambda owners: {"found": any(one != owner for one in owners), "owners": len(owners)},
            thread=thread, form="run",
        )  # fmt: skip

    async def page(self) -> None:
        thread, owner = self._pick()
        await self._caller.call(
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
        page = await self._caller.call(
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

        await self._caller.call("stream", read, lambda found: {"intact": all(found), "read": len(found)}, thread=thread)

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
        await self._caller.call(
            kind, read, lambda found: {"found": found is not None and getattr(found, "items", True) != ()},
            thread=thread, stranger=stranger,
        )  # fmt: skip

    async def append_foreign(self) -> None:
        thread, _ = self._pick()
        token = self._caller.name("message")
        await self._caller.call(
            "foreign_append",
            lambda: self._store.messages.append(thread, message_of(token), user_id="a-stranger"),
            lambda _: {"found": True},
            thread=thread, tokens=[token],
        )  # fmt: skip

    async def _put(self, thread: str, owner: str, expected: int | None = None) -> bool:
        token = self._caller.name("state") + self._random.choice(FORMS)
        saved = await self._caller.call(
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

    def _pick(self) -> tuple[str, str]:
        threads = self._own if self._own and self._random.random() < 0.2 else list(self._threads)
        thread = self._random.choice(threads)
        return thread, self._owner(thread)

    def _owner(self, thread: str) -> str:
        return self._threads.get(thread, f"owner-of-{self._recorder.process}")


MIX: dict[Callable[[Workload], Awaitable[None]], float] = {
    Workload.get: 45,
    Workload.put: 9,
    Workload.put_over: 5,
    Workload.append: 7,
    Workload.append_with_id: 8,
    Workload.append_many: 4,
    Workload.append_to_deleted: 1.5,
    Workload.copy: 0.3,
    Workload.edit: 2,
    Workload.remove: 0.7,
    Workload.unit: 4,
    Workload.record_tool_result: 2.5,
    Workload.save: 2,
    Workload.save_beside: 1,
    Workload.load: 3,
    Workload.look_around: 2,
    Workload.page: 6,
    Workload.follow: 3,
    Workload.read_stream: 2,
    Workload.prune: 0.7,
    Workload.purge: 0.1,
    Workload.read_foreign: 6,
    Workload.append_foreign: 1,
    Workload.create: 3,
    Workload.delete: 2,
}
UNCACHED_MIX: dict[Callable[[Workload], Awaitable[None]], float] = {
    Workload.put: 8,
    Workload.get: 6,
    Workload.put_over: 1,
    Workload.prune: 0.5,
}


def commits(sent: bytes) -> bool:
    """Whether a request is a COMMIT, or a save that commits by itself."""
    return is_commit(sent) or (b"uncached-" in sent and b'"token"' in sent)


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


def describe_checkpoint(found: Any) -> dict[str, Any]:
    """Describe what a checkpointer loaded: of a streamed state it has no more than the version."""
    if found is None or found.state is None:
        return {"version": found.version if found else 0, "token": None, "intact": True}
    token = found.state["token"]
    return {"version": found.version, "token": token, "intact": exact(found.state) == exact(state_of(token))}


def _describe_state(state: Any) -> dict[str, Any]:
    if state is None:
        return {"version": 0, "token": None, "intact": True}
    token = state.meta.get("token") or (state.data or {}).get("token")
    found = state.data if state.stream is None else {"token": token, "stream": state.stream.sha256}
    return {"version": state.version, "token": token, "intact": bool(token) and exact(found) == exact(state_of(token))}


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]
