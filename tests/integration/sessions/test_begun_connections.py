"""Statements of a session of the host go straight to the driver, once its transaction or savepoint has begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from agent_persistence.errors import SchemaError, UnavailableError
from agent_persistence.persistence import Persistence
from agent_persistence.sessions.begun_connection import BegunConnection

Store = Persistence[Any, Any]
HELLO = {"role": "user", "content": "hello"}


@pytest_asyncio.fixture
async def session(persistence: Store) -> AsyncIterator[AsyncSession]:
    """A session as a host has it, on an engine of its own."""
    engine = create_async_engine(persistence.engine.url)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest_asyncio.fixture
async def thread_id(persistence: Store, user_id: str) -> Any:
    return (await persistence.threads.create(user_id=user_id)).thread_id


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that went straight to the driver."""
    texts: list[str] = []
    fetch = BegunConnection.fetch

    async def note(self: BegunConnection, text: str, arguments: Any) -> Any:
        texts.append(text)
        return await fetch(self, text, arguments)

    monkeypatch.setattr(BegunConnection, "fetch", note)
    return texts


async def test_only_the_first_statement_of_a_transaction_passes_through_sqlalchemy(
    persistence: Store, user_id: str, thread_id: Any, session: AsyncSession, direct: list[str]
) -> None:
    uow = persistence.bind(session, user_id=user_id)
    for step in range(2):
        await uow.messages.append(thread_id, HELLO)
        assert len(direct) == 2 * step
        await uow.messages.append(thread_id, HELLO)
        await uow.states.put(thread_id, step)
        assert len(direct) == 2 * step + 2
        await session.commit()

    assert len(await persistence.messages.page(thread_id, user_id=user_id)) == 4
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == 1


async def test_a_rollback_and_a_savepoint_of_the_host_take_back_what_went_to_the_driver(
    persistence: Store, user_id: str, thread_id: Any, session: AsyncSession, direct: list[str]
) -> None:
    uow = persistence.bind(session, user_id=user_id)
    await uow.messages.append(thread_id, HELLO)
    await uow.states.put(thread_id, "kept")
    savepoint = await session.begin_nested()
    await uow.states.put(thread_id, "undone by the savepoint")
    await uow.messages.append(thread_id, HELLO)
    await savepoint.rollback()
    await uow.states.put(thread_id, "kept, too")
    await session.commit()
    await uow.messages.append(thread_id, HELLO)
    await uow.states.put(thread_id, "rolled back")
    await session.rollback()

    states = [state.data for state in await persistence.states.page(thread_id, user_id=user_id)]
    assert states == ["kept, too", "kept"]
    assert len(await persistence.messages.page(thread_id, user_id=user_id)) == 1
    assert direct


async def test_listeners_of_the_host_s_engine_see_every_statement(
    persistence: Store, user_id: str, thread_id: Any, session: AsyncSession, direct: list[str]
) -> None:
    told: list[str] = []
    engine = session.get_bind().engine
    event.listen(engine, "before_cursor_execute", lambda *of: told.append(of[2]))
    uow = persistence.bind(session, user_id=user_id)
    for _ in range(3):
        await uow.messages.append(thread_id, HELLO)

    assert len([statement for statement in told if "INSERT INTO" in statement]) == 3
    assert direct == []


async def test_a_listener_on_the_connection_alone_sees_every_statement_too(
    persistence: Store, user_id: str, thread_id: Any, session: AsyncSession, direct: list[str]
) -> None:
    told: list[str] = []
    uow = persistence.bind(session, user_id=user_id)
    await uow.messages.append(thread_id, HELLO)
    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", lambda *of: told.append(of[2]))
    await uow.messages.append(thread_id, HELLO)

    assert len([statement for statement in told if "INSERT INTO" in statement]) == 1
    assert direct == []


async def test_a_schema_that_is_translated_in_the_middle_of_a_transaction_is_translated(
    persistence: Store, user_id: str, thread_id: Any, session: AsyncSession, direct: list[str]
) -> None:
    uow = persistence.bind(session, user_id=user_id)
    await uow.messages.append(thread_id, HELLO)
    await (await session.connection()).execution_options(schema_translate_map={None: "nowhere"})
    with pytest.raises(SchemaError):
        await uow.messages.append(thread_id, HELLO)

    assert direct == []


async def test_after_a_lost_connection_the_session_can_be_rolled_back_and_used_again(
    persistence: Store, user_id: str, thread_id: Any, session: AsyncSession, direct: list[str]
) -> None:
    uow = persistence.bind(session, user_id=user_id)
    await uow.messages.append(thread_id, HELLO)
    pid = await session.scalar(text("SELECT pg_backend_pid()"))
    async with persistence.engine.connect() as connection:
        await connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    with pytest.raises(UnavailableError):
        await uow.messages.append(thread_id, HELLO)
    await session.rollback()  # raises nothing, as after any statement that meets a lost connection
    await uow.messages.append(thread_id, HELLO)
    await session.commit()

    assert len(direct) == 1
    assert len(await persistence.messages.page(thread_id, user_id=user_id)) == 1


async def test_after_a_cancelled_statement_the_session_can_be_rolled_back_and_used_again(
    persistence: Store, user_id: str, thread_id: Any, session: AsyncSession, direct: list[str]
) -> None:
    uow = persistence.bind(session, user_id=user_id)
    other = (await persistence.threads.create(user_id=user_id)).thread_id
    await uow.messages.append(other, HELLO)
    async with persistence.begin(user_id=user_id) as holder:
        await holder.states.touch(thread_id)
        waiting = asyncio.create_task(uow.messages.append(thread_id, HELLO))
        async with persistence.engine.connect() as connection:
            while not (await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one():
                await connection.rollback()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await session.rollback()
    await uow.messages.append(thread_id, HELLO)
    await session.commit()

    assert len(direct) == 1
    assert len(await persistence.messages.page(thread_id, user_id=user_id)) == 1
    assert len(await persistence.messages.page(other, user_id=user_id)) == 0
