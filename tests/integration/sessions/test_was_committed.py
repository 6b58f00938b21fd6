"""What the database says afterwards of a transaction whose COMMIT was not confirmed: the truth, in every case."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from hardening.hardening_servers import Store, ask, crash, migrated_settings, proven
from sqlalchemy import text
from torture.servers import PostgreSQL

from agent_persistence.errors import IdempotencyConflictError, UnavailableError
from agent_persistence.records import NewMessage
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS, CommitEvidence, evidence_of

USER = "ada"
HELLO = {"role": "user", "content": "hello"}


@pytest_asyncio.fixture(scope="module")
async def shared_store(postgresql: PostgreSQL) -> AsyncIterator[Store]:
    async with Store(await migrated_settings(postgresql)) as store:
        yield store


@pytest_asyncio.fixture
async def store(shared_store: Store) -> Store:
    """A store whose connections work, whatever the last test did to the server."""
    await shared_store.engine.dispose()
    return shared_store


async def restart(_store: Store, server: PostgreSQL) -> None:
    await crash(server)


async def kill_a_backend(store: Store, server: PostgreSQL) -> None:
    """The first process of the server lives on, so it has not started anew; all others crash."""
    witness = await server.connect()
    async with store.engine.connect() as victim:
        os.kill((await victim.execute(text("SELECT pg_backend_pid()"))).scalar_one(), signal.SIGKILL)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await witness.execute("SELECT pg_sleep(10)")
        await victim.invalidate()
    await server.answers()


MARKS = [mark.name for mark in TRANSACTION_MARKS]
CRASHES = [restart, kill_a_backend]
Crash = Callable[[Store, PostgreSQL], Awaitable[None]]


async def committed(store: Store) -> CommitEvidence:
    async with store.begin(user_id=USER) as uow:
        await uow.threads.create()
        return proven(uow)


async def use_up_numbers(store: Store, last: str) -> None:
    """Commit transactions until this number is one of them; it must not have been another's."""
    async with store.engine.connect() as connection:
        number = 0
        while number < int(last):
            number = int((await connection.execute(text("SELECT pg_current_xact_id()::text"))).scalar_one())
            await connection.commit()
    assert number == int(last), "the server remembered the number, so nobody else was given it"


async def test_before_its_first_write_a_transaction_has_no_proof(store: Store) -> None:
    async with store.begin(user_id=USER) as uow:
        await uow.threads.page()

        assert evidence_of(uow.session.sync_session) is None


async def test_what_was_committed_is_committed_even_if_its_row_is_gone_again(store: Store) -> None:
    proof = await committed(store)
    for thread in await store.threads.page(user_id=USER):
        await store.threads.delete(thread.thread_id, user_id=USER)

    assert await ask(store, proof) is True


async def test_what_was_rolled_back_is_not_even_if_another_wrote_the_same_row(store: Store) -> None:
    thread = await store.threads.create(user_id=USER, name="before")
    async with store.begin(user_id=USER) as uow:
        await uow.threads.delete(thread.thread_id)
        proof = proven(uow)
        await uow.session.rollback()
    await store.threads.delete(thread.thread_id, user_id=USER)

    assert await ask(store, proof) is False


async def test_what_is_under_way_is_to_be_asked_for_again_until_it_is_over(store: Store) -> None:
    async with store.begin(user_id=USER) as uow:
        await uow.threads.create()
        proof = proven(uow)

        with pytest.raises(UnavailableError, match="still in progress"):
            await ask(store, proof)

    assert await ask(store, proof) is True


async def test_a_number_that_no_transaction_had_yet_was_not_committed(store: Store) -> None:
    proof = await committed(store)
    number = int(proof.marks.transaction_id) + 10**6
    ahead = SimpleNamespace(**{**{name: getattr(proof.marks, name) for name in MARKS}, "transaction_id": str(number)})

    assert await ask(store, replace(proof, marks=ahead)) is False


@pytest.mark.parametrize("crash_by", CRASHES)
async def test_after_a_crash_the_row_of_what_was_committed_shows_it(
    store: Store, postgresql: PostgreSQL, crash_by: Crash
) -> None:
    proof = await committed(store)

    await crash_by(store, postgresql)
    await store.engine.dispose()

    assert await ask(store, proof) is True


@pytest.mark.parametrize("crash_by", CRASHES)
async def test_after_a_crash_the_number_of_another_s_commit_proves_nothing(
    store: Store, postgresql: PostgreSQL, crash_by: Crash
) -> None:
    proofs: list[CommitEvidence] = []

    async def work() -> None:
        async with store.begin(user_id=USER) as uow:
            await uow.threads.create()
            proofs.append(proven(uow))
            await crash_by(store, postgresql)

    with pytest.raises(UnavailableError):
        await work()
    [proof] = proofs
    await store.engine.dispose()
    await use_up_numbers(store, proof.marks.transaction_id)

    assert await ask(store, proof) is False


# --- after a crash: work of which not every row is left ---


async def append_two_and_delete_the_last(uow: Any, thread_id: str) -> None:
    await uow.messages.append(thread_id, HELLO)
    scratch = await uow.messages.append(thread_id, HELLO)
    await uow.messages.delete(thread_id, scratch.message_id)


async def append_two_and_delete_the_first(uow: Any, thread_id: str) -> None:
    scratch = await uow.messages.append(thread_id, HELLO)
    await uow.messages.append(thread_id, HELLO)
    await uow.messages.delete(thread_id, scratch.message_id)


async def rename_and_have_a_batch_taken_back(uow: Any, thread_id: str) -> None:
    other = NewMessage(message={"role": "user", "content": "something else"}, message_id="there")
    await uow.threads.update(thread_id, name="renamed")
    with pytest.raises(IdempotencyConflictError):
        await uow.messages.append_many(thread_id, [NewMessage(message=HELLO, message_id="new"), other])


async def rename_and_undo_a_savepoint(uow: Any, thread_id: str) -> None:
    await uow.threads.update(thread_id, name="renamed")
    async with uow.session.begin_nested() as savepoint:
        await uow.messages.append(thread_id, HELLO)
        await uow.messages.delete(thread_id, "there")
        await savepoint.rollback()


async def delete_a_message(uow: Any, thread_id: str) -> None:
    await uow.messages.delete(thread_id, "there")


async def put_and_clear(uow: Any, thread_id: str) -> None:
    await uow.messages.delete(thread_id, "there")
    await uow.states.put(thread_id, 1)
    await uow.states.clear(thread_id)


async def undo_all_of_it(uow: Any, thread_id: str) -> None:
    async with uow.session.begin_nested() as savepoint:
        await uow.threads.update(thread_id, name="renamed")
        await savepoint.rollback()


async def undo_the_deletion_of_what_it_wrote(uow: Any, thread_id: str) -> None:
    mine = await uow.messages.append(thread_id, HELLO)
    async with uow.session.begin_nested() as savepoint:
        await uow.messages.delete(thread_id, mine.message_id)
        await savepoint.rollback()


SHOWN = [
    append_two_and_delete_the_last,
    append_two_and_delete_the_first,
    rename_and_have_a_batch_taken_back,
    rename_and_undo_a_savepoint,
    delete_a_message,
]
NOT_SHOWN = [put_and_clear, undo_all_of_it, undo_the_deletion_of_what_it_wrote]
Work = Callable[[Any, str], Awaitable[None]]


@pytest_asyncio.fixture
async def thread_id(store: Store) -> str:
    """A thread with one message."""
    thread = await store.threads.create(user_id=USER)
    await store.messages.append(thread.thread_id, HELLO, message_id="there", user_id=USER)
    return str(thread.thread_id)


async def proof_of_what_was_committed_before_a_crash(
    work: Work, store: Store, postgresql: PostgreSQL, thread_id: str
) -> CommitEvidence:
    async with store.begin(user_id=USER) as uow:
        await work(uow, thread_id)
        proof = proven(uow)
    await crash(postgresql)
    await store.engine.dispose()
    return proof


async def proof_of_what_a_crash_undid(
    work: Work, store: Store, postgresql: PostgreSQL, thread_id: str
) -> CommitEvidence:
    """The number of the transaction is another's by now, which was committed."""
    proofs: list[CommitEvidence] = []

    async def work_until_the_crash() -> None:
        async with store.begin(user_id=USER) as uow:
            await work(uow, thread_id)
            proofs.append(proven(uow))
            await crash(postgresql)

    with pytest.raises(UnavailableError):
        await work_until_the_crash()
    await store.engine.dispose()
    await use_up_numbers(store, proofs[0].marks.transaction_id)
    return proofs[0]


@pytest.mark.parametrize("work", SHOWN)
async def test_after_a_crash_a_row_that_is_left_shows_what_was_committed(
    work: Work, store: Store, postgresql: PostgreSQL, thread_id: str
) -> None:
    proof = await proof_of_what_was_committed_before_a_crash(work, store, postgresql, thread_id)

    assert await ask(store, proof) is True


@pytest.mark.parametrize("work", SHOWN)
async def test_after_a_crash_a_row_that_is_missing_shows_what_was_not_committed(
    work: Work, store: Store, postgresql: PostgreSQL, thread_id: str
) -> None:
    proof = await proof_of_what_a_crash_undid(work, store, postgresql, thread_id)

    assert await ask(store, proof) is False


@pytest.mark.parametrize("work", NOT_SHOWN)
@pytest.mark.parametrize("stage", [proof_of_what_was_committed_before_a_crash, proof_of_what_a_crash_undid])
async def test_after_a_crash_nothing_is_said_of_work_that_left_no_row(
    stage: Callable[..., Awaitable[CommitEvidence]], work: Work, store: Store, postgresql: PostgreSQL, thread_id: str
) -> None:
    proof = await stage(work, store, postgresql, thread_id)

    assert await ask(store, proof) is None
