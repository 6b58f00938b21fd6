"""The public API beside a model of dicts: what each call must give."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from agent_persistence.errors import (
    IdempotencyConflictError,
    MessageNotFoundError,
    StateConflictError,
    ThreadExistsError,
    ThreadNotFoundError,
)
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage
from agent_persistence.settings import PersistenceSettings

OWNERS = ("ann", "bob")
owners = st.sampled_from(OWNERS)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
numbers = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer"])},
    optional={
        "content": st.none() | texts | st.lists(st.fixed_dictionaries({"text": texts}), max_size=2),
        "name": texts,
    },
)


State = tuple[int, Any]
"""A version and what was saved as it."""


class UndoneError(Exception):
    """Raised inside a unit of work, so that it is rolled back."""


@dataclass
class ModelThread:
    owner: str
    name: str | None
    archived: bool = False
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """One store, two owners, and the model of what it must hold."""

    settings: ClassVar[PersistenceSettings]
    runs: ClassVar[int] = 0

    thread_ids = Bundle("thread_ids")
    message_ids = Bundle("message_ids")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model: dict[str, ModelThread] = {}
        self.ids = 0
        StoreMachine.runs += 1
        # Owners of this run's own: the database is shared by all runs.
        self.user = {owner: f"{owner}-{self.settings.cache_namespace}-{StoreMachine.runs}" for owner in OWNERS}

    @initialize()
    def open(self) -> None:
        self.store: Persistence[str, str] = self.runner.run(self.make())

    async def make(self) -> Persistence[str, str]:
        return Persistence(self.settings)

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.aclose())
        self.runner.close()

    def new_id(self) -> str:
        self.ids += 1
        return f"{self.user['ann']}-{self.ids}"

    def own(self, thread_id: str, owner: str) -> ModelThread | None:
        thread = self.model.get(thread_id)
        return thread if thread is not None and thread.owner == owner else None

    @rule(target=thread_ids, owner=owners, name=st.none() | texts)
    def create_thread(self, owner: str, name: str | None) -> str:
        thread_id = self.new_id()
        record = self.run(self.store.threads.create(user_id=self.user[owner], thread_id=thread_id, name=name))
        assert (record.thread_id, record.name, record.user_id) == (thread_id, name, self.user[owner])
        self.model[thread_id] = ModelThread(owner, name)
        return thread_id

    @rule(thread_id=thread_ids, owner=owners)
    def create_again(self, thread_id: str, owner: str) -> None:
        if thread_id in self.model:
            with pytest.raises(ThreadExistsError):
                self.run(self.store.threads.create(user_id=self.user[owner], thread_id=thread_id))

    @rule(thread_id=thread_ids, owner=owners, name=texts)
    def rename(self, thread_id: str, owner: str, name: str) -> None:
        thread = self.own(thread_id, owner)
        call = self.store.threads.update(thread_id, user_id=self.user[owner], name=name)
        if thread is None:
            with pytest.raises(ThreadNotFoundError):
                self.run(call)
        else:
            assert self.run(call).name == name
            thread.name = name

    @rule(thread_id=thread_ids, owner=owners, archive=st.booleans())
    def archive(self, thread_id: str, owner: str, archive: bool) -> None:
        thread = self.own(thread_id, owner)
        threads = self.store.threads
        call = (threads.archive if archive else threads.unarchive)(thread_id, user_id=self.user[owner])
        if thread is None:
            with pytest.raises(ThreadNotFoundError):
                self.run(call)
        else:
            assert self.run(call).archived is archive
            thread.archived = archive

    @rule(thread_id=thread_ids, owner=owners)
    def delete_thread(self, thread_id: str, owner: str) -> None:
        existed = self.own(thread_id, owner) is not None
        assert self.run(self.store.threads.delete(thread_id, user_id=self.user[owner])) is existed
        if existed:
            del self.model[thread_id]

    @rule(target=message_ids, thread_id=thread_ids, owner=owners, batch=st.lists(messages, min_size=1, max_size=3))
    def append(self, thread_id: str, owner: str, batch: list[dict[str, Any]]) -> Any:
        thread = self.own(thread_id, owner)
        new = [NewMessage(message=message, message_id=self.new_id()) for message in batch]
        call = self.store.messages.append_many(thread_id, new, user_id=self.user[owner])
        if thread is None:
            with pytest.raises(ThreadNotFoundError):
                self.run(call)
            return multiple()
        records = self.run(call)
        assert [record.message for record in records] == batch
        assert [record.seq for record in records] == sorted(record.seq for record in records)
        thread.messages |= {item.message_id: message for item, message in zip(new, batch, strict=True)}  # type: ignore[misc]  # all have ids
        return multiple(*((thread_id, item.message_id) for item in new))

    @rule(where=message_ids, owner=owners, message=messages)
    def append_again(self, where: tuple[str, str], owner: str, message: dict[str, Any]) -> None:
        thread_id, message_id = where
        thread = self.own(thread_id, owner)
        if thread is None or message_id not in thread.messages:
            return
        batch = [
            NewMessage(message=message, message_id=self.new_id()),
            NewMessage(message=message, message_id=message_id),
        ]
        call = self.store.messages.append_many(thread_id, batch, user_id=self.user[owner])
        if thread.messages[message_id] != message:
            with pytest.raises(IdempotencyConflictError):
                self.run(call)
        else:
            self.run(call)
            thread.messages[str(batch[0].message_id)] = message

    @rule(where=message_ids, owner=owners, message=messages)
    def update_message(self, where: tuple[str, str], owner: str, message: dict[str, Any]) -> None:
        thread_id, message_id = where
        thread = self.own(thread_id, owner)
        call = self.store.messages.update(thread_id, message_id, user_id=self.user[owner], message=message)
        if thread is None or message_id not in thread.messages:
            with pytest.raises(MessageNotFoundError):
                self.run(call)
        else:
            assert self.run(call).message == message
            thread.messages[message_id] = message

    @rule(where=consumes(message_ids), owner=owners)
    def delete_message(self, where: tuple[str, str], owner: str) -> None:
        thread_id, message_id = where
        thread = self.own(thread_id, owner)
        existed = thread is not None and message_id in thread.messages
        assert self.run(self.store.messages.delete(thread_id, message_id, user_id=self.user[owner])) is existed
        if thread is not None and existed:
            del thread.messages[message_id]

    @rule(thread_id=thread_ids, owner=owners, data=values)
    def put_state(self, thread_id: str, owner: str, data: Any) -> None:
        thread = self.own(thread_id, owner)
        call = self.store.states.put(thread_id, data, user_id=self.user[owner])
        if thread is None:
            with pytest.raises(ThreadNotFoundError):
                self.run(call)
        else:
            thread.states.append((self.run(call).version, data))

    @rule(thread_id=thread_ids, owner=owners, data=values, stale=st.booleans())
    def put_state_over_a_version(self, thread_id: str, owner: str, data: Any, stale: bool) -> None:
        thread = self.own(thread_id, owner)
        if thread is None:
            return
        latest = thread.states[-1][0] if thread.states else 0
        expected = latest + 1 if stale else latest
        call = self.store.states.put(thread_id, data, user_id=self.user[owner], expected_version=expected)
        if stale:
            with pytest.raises(StateConflictError):
                self.run(call)
        else:
            thread.states.append((self.run(call).version, data))

    @rule(thread_id=thread_ids, owner=owners, keep=st.integers(1, 3))
    def prune(self, thread_id: str, owner: str, keep: int) -> None:
        thread = self.own(thread_id, owner)
        if thread is None:
            return
        deleted = self.run(self.store.states.prune(thread_id, user_id=self.user[owner], keep_last=keep))
        assert deleted == max(0, len(thread.states) - keep)
        thread.states = thread.states[-keep:]

    @rule(thread_id=thread_ids, owner=owners)
    def clear(self, thread_id: str, owner: str) -> None:
        thread = self.own(thread_id, owner)
        if thread is not None:
            assert self.run(self.store.states.clear(thread_id, user_id=self.user[owner])) == len(thread.states)
            thread.states.clear()

    @rule(
        thread_id=thread_ids, owner=owners, data=values, message=messages, outcome=st.sampled_from(["kept", "undone"])
    )
    def unit_of_work(self, thread_id: str, owner: str, data: Any, message: dict[str, Any], outcome: str) -> None:
        thread = self.own(thread_id, owner)
        if thread is None:
            return
        after, message_id = copy.deepcopy(thread), self.new_id()

        async def work(uow: UnitOfWork[str, str]) -> None:
            await uow.messages.append(thread_id, message, message_id=message_id)
            state = await uow.states.put(thread_id, data)
            assert (await uow.states.require(thread_id)).data == data
            after.messages[message_id] = message
            after.states.append((state.version, data))
            if outcome == "undone":
                raise UndoneError

        try:
            self.run(self.in_unit_of_work(owner, work))
        except UndoneError:
            return
        self.model[thread_id] = after

    async def in_unit_of_work(self, owner: str, work: Callable[..., Coroutine[Any, Any, None]]) -> None:
        async with self.store.begin(user_id=self.user[owner]) as uow:
            await work(uow)

    @rule(thread_id=thread_ids, owner=owners, repeat=st.integers(1, 2))
    def read_state(self, thread_id: str, owner: str, repeat: int) -> None:
        allowed = self.allowed(thread_id, owner)
        for _ in range(repeat):
            state = self.run(self.store.states.get(thread_id, user_id=self.user[owner]))
            found = state and (state.version, state.data)
            assert found in allowed
            assert state is None or repr(state.data) == repr_sorted_like(state.data, allowed[allowed.index(found)])

    def latest(self, thread_id: str, owner: str) -> State | None:
        """The state that the owner must be shown."""
        thread = self.own(thread_id, owner)
        return thread.states[-1] if thread and thread.states else None

    def allowed(self, thread_id: str, owner: str) -> list[State | None]:
        """The states that the owner may be shown."""
        return [self.latest(thread_id, owner)]

    @rule(thread_id=thread_ids, owner=owners)
    def read_versions(self, thread_id: str, owner: str) -> None:
        thread = self.own(thread_id, owner)
        page = self.run(self.store.states.page(thread_id, user_id=self.user[owner], limit=1000))
        assert [(state.version, state.data) for state in page][::-1] == (thread.states if thread else [])

    @rule(thread_id=thread_ids, owner=owners, limit=st.integers(1, 4), forward=st.booleans())
    def read_messages(self, thread_id: str, owner: str, limit: int, forward: bool) -> None:
        thread = self.own(thread_id, owner)
        read = self.run(self.read_all(thread_id, self.user[owner], limit, forward=forward))
        assert read == (list(thread.messages.items()) if thread else [])

    async def read_all(self, thread_id: str, user_id: str, limit: int, *, forward: bool) -> list[tuple[str, Any]]:
        pages: list[list[tuple[str, Any]]] = []
        page = await self.store.messages.page(thread_id, user_id=user_id, limit=limit)
        if not forward:
            while True:
                pages.insert(0, [(record.message_id, record.message) for record in page])
                if page.before is None:
                    return [item for items in pages for item in items]
                page = await self.store.messages.page(thread_id, user_id=user_id, limit=limit, before=page.before)
        while page.before is not None:
            page = await self.store.messages.page(thread_id, user_id=user_id, limit=limit, before=page.before)
        while page.items:
            pages.append([(record.message_id, record.message) for record in page])
            page = await self.store.messages.page(thread_id, user_id=user_id, limit=limit, after=page.after)
        return [item for items in pages for item in items]

    @invariant()
    def lists_hold_what_the_model_holds(self) -> None:
        if not hasattr(self, "store"):
            return
        for owner in OWNERS:
            for archived in (False, True):
                page = self.run(self.store.threads.page(user_id=self.user[owner], limit=1000, archived=archived))
                expected = {
                    thread_id: thread.name
                    for thread_id, thread in self.model.items()
                    if thread.owner == owner and thread.archived is archived
                }
                assert {record.thread_id: record.name for record in page} == expected


def repr_sorted_like(data: Any, expected: State | None) -> str:
    """The text of the expected data with its keys in the order that the database gave: types and signs must agree."""

    def reorder(like: Any, value: Any) -> Any:
        if isinstance(like, dict):
            return {key: reorder(like[key], value[key]) for key in like}
        if isinstance(like, list):
            return [reorder(*pair) for pair in zip(like, value, strict=True)]
        return value

    return repr(reorder(data, expected[1])) if expected else "None"
