"""The one-call operations: the repositories' own, each in a unit of work of its own."""

import inspect
from typing import Any

import pytest
from integration.repository_testing import HELLO, counted_statements, run_sql

from agent_persistence.errors import IdempotencyConflictError, InvalidInputError, ThreadNotFoundError
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.operations.one_call import OneCallMessages, OneCallStates, OneCallThreads, OneCallToolResults
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewMessage
from agent_persistence.repositories import MessageRepository, ThreadRepository, ToolResultRepository
from agent_persistence.repositories.messages.append import COPIED_FROM

PAIRS = [
    (OneCallThreads, ThreadRepository),
    (OneCallMessages, MessageRepository),
    (OneCallStates, CachedStates),
    (OneCallToolResults, ToolResultRepository),
]
METHODS = [
    pytest.param(facade, repository, name, id=f"{facade.__name__}.{name}")
    for facade, repository in PAIRS
    for name, _ in inspect.getmembers(repository, inspect.isfunction)
    if not name.startswith("_")
    and (repository, name) != (ThreadRepository, "lock")  # it lasts as long as a transaction
]


@pytest.mark.parametrize(("facade", "repository", "name"), METHODS)
def test_a_call_takes_what_the_repository_takes_and_the_owner(facade: type, repository: type, name: str) -> None:
    ours = dict(inspect.signature(getattr(facade, name)).parameters)
    theirs = dict(inspect.signature(getattr(repository, name)).parameters)
    owner = ours.pop("user_id")
    theirs.pop("user_id", None)  # only an administrator's create names an owner

    assert (owner.kind, owner.default) == (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty)
    assert {name: (one.kind, one.default) for name, one in ours.items()} == {
        name: (one.kind, one.default) for name, one in theirs.items()
    }
    assert (
        inspect.signature(getattr(facade, name)).return_annotation
        == inspect.signature(getattr(repository, name)).return_annotation
    )


async def test_a_write_is_committed_when_the_call_returns(persistence: Persistence[str, str], user_id: str) -> None:
    async def stored(table: str, columns: str) -> list[tuple[Any, ...]]:
        rows = await run_sql(persistence, f"SELECT {columns} FROM {table} WHERE thread_id = :id", id=thread_id)
        return [tuple(row) for row in rows]

    thread_id = (await persistence.threads.create(user_id=user_id, name="a", meta={"x": 1})).thread_id
    assert await stored("threads", "thread_name, meta::text, user_id") == [("a", '{"x": 1}', user_id)]

    await persistence.threads.update(thread_id, user_id=user_id, name="b", meta={})
    assert await stored("threads", "thread_name, meta::text") == [("b", "{}")]
    await persistence.threads.archive(thread_id, user_id=user_id)
    assert await stored("threads", "archived_at IS NULL") == [(False,)]
    await persistence.threads.unarchive(thread_id, user_id=user_id)
    assert await stored("threads", "archived_at IS NULL") == [(True,)]

    await persistence.messages.append(thread_id, HELLO, user_id=user_id, message_id="m")
    assert await stored("messages", "message_id, content") == [("m", "hello")]
    await persistence.messages.update(
        thread_id,
        "m",
        user_id=user_id,
        message={"role": "tool", "content": "bye"},
        total_tokens=3,
        usages={"a": 1},
        meta={"b": 2},
    )
    assert await stored("messages", "role::text, content, total_tokens, usages::text, meta::text") == [
        ("tool", "bye", 3, '{"a": 1}', '{"b": 2}')
    ]
    await persistence.messages.delete(thread_id, "m", user_id=user_id)
    assert await stored("messages", "1") == []
    await persistence.messages.append_many(thread_id, [HELLO, HELLO], user_id=user_id)
    assert await stored("messages", "content") == [("hello",), ("hello",)]

    state = await persistence.states.put(thread_id, [1], user_id=user_id, meta={"n": 1})
    assert await stored("states", "state_id, state_data::text, meta::text") == [(state.version, "[1]", '{"n": 1}')]
    last = await persistence.states.put(thread_id, [2], user_id=user_id, expected_version=state.version)
    await persistence.states.prune(thread_id, user_id=user_id, keep_last=1)
    assert await stored("states", "state_id") == [(last.version,)]
    await persistence.states.clear(thread_id, user_id=user_id)
    assert await stored("states", "1") == []

    await persistence.threads.delete(thread_id, user_id=user_id)
    assert await stored("threads", "1") == []


async def test_a_call_that_fails_leaves_nothing(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    made = await persistence.messages.append(thread_id, HELLO, message_id="taken", user_id=user_id)
    batch = [HELLO, NewMessage(message={"role": "user", "content": "other"}, message_id="taken")]

    with pytest.raises(IdempotencyConflictError):
        await persistence.messages.append_many(thread_id, batch, user_id=user_id)

    assert (await persistence.messages.page(thread_id, user_id=user_id)).items == (made,)


async def test_a_read_is_one_statement(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    made = await persistence.messages.append(thread_id, HELLO, user_id=user_id)
    state = await persistence.states.put(thread_id, 1, user_id=user_id)
    owner = {"user_id": user_id}
    reads = [
        lambda: persistence.threads.get(thread_id, **owner),
        lambda: persistence.threads.require(thread_id, **owner),
        lambda: persistence.threads.page(**owner),
        lambda: persistence.messages.get(thread_id, made.message_id, **owner),
        lambda: persistence.messages.require(thread_id, made.message_id, **owner),
        lambda: persistence.messages.page(thread_id, **owner),
        lambda: persistence.states.get(thread_id, fresh=True, **owner),
        lambda: persistence.states.get_version(thread_id, state.version, **owner),
        lambda: persistence.states.page(thread_id, **owner),
    ]

    for read in reads:
        async with counted_statements(persistence) as statements:
            await read()
        assert len(statements) == 1


async def test_appending_is_one_statement_however_many_messages(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    texts = set()
    for count in (2, 3, COPIED_FROM - 1):
        async with counted_statements(persistence) as statements:
            await persistence.messages.append_many(thread_id, [HELLO] * count, user_id=user_id)
        assert len(statements) == 1
        texts |= set(statements)

    assert len(texts) == 1  # and one text: it is prepared once


async def test_a_thread_of_everybody_cannot_be_made_in_one_call(persistence: Persistence[str, str]) -> None:
    owner: Any = ANY_USER

    with pytest.raises(InvalidInputError, match="^user_id: "):
        await persistence.threads.create(user_id=owner)


async def test_an_error_of_the_repository_passes_unchanged(persistence: Persistence[str, str], user_id: str) -> None:
    with pytest.raises(ThreadNotFoundError) as caught:
        await persistence.threads.require("absent", user_id=user_id)

    assert caught.value.thread_id == "absent"
    assert caught.value.__cause__ is None
