"""States that are streamed in and out: whole or not there, whoever fails, and never in memory as a whole."""

from __future__ import annotations

import asyncio
import signal
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from integration.repository_testing import until_somebody_waits_for_a_lock
from sqlalchemy import text

from agent_persistence.concurrency.shielding import drain
from agent_persistence.encoding.chunks import CHUNK_BYTES
from agent_persistence.errors import (
    CheckpointingDisabledError,
    CorruptRowError,
    InvalidInputError,
    StateConflictError,
    StatementTimeoutError,
    StateNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, StateStream
from agent_persistence.repositories.states import streams as streamed_states
from agent_persistence.repositories.states.streams import sweep_abandoned
from agent_persistence.settings import PersistenceSettings

Store = Persistence[Any, Any]
SettingsFor = Callable[..., Awaitable[PersistenceSettings]]

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 100)  # two and a half chunks
WRITER = """
import asyncio, sys
from agent_persistence import Persistence, PersistenceSettings

async def source():
    yield bytes(4_500_000)
    print("on its way", flush=True)
    await asyncio.Event().wait()

async def main(url, thread_id):
    async with Persistence(PersistenceSettings(_env_file=None, database_url=url)) as store:
        await store.states.put_stream(thread_id, source(), user_id="ann")

asyncio.run(main(*sys.argv[1:]))
"""


async def source(content: bytes = CONTENT, piece: int = 100_000) -> AsyncIterator[bytes]:
    for place in range(0, len(content), piece):
        yield content[place : place + piece]


async def read(store: Store, thread_id: Any, user_id: Any, version: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.states.open_stream(thread_id, user_id=user_id, version=version)])


async def read_into(got: bytearray, store: Store, thread_id: Any, user_id: Any) -> None:
    async for piece in store.states.open_stream(thread_id, user_id=user_id):
        got += piece


async def a_thread(store: Store, user_id: Any) -> Any:
    return (await store.threads.create(user_id=user_id)).thread_id


async def rows_of(store: Store, thread_id: Any) -> tuple[int, int]:
    """How many streams and chunks there are of a thread."""
    async with store.engine.connect() as connection:
        query = (
            "SELECT count(DISTINCT stream_id), count(place) FROM state_streams "
            "LEFT JOIN state_chunks USING (stream_id) WHERE thread_id = :thread_id"
        )
        streams, chunks = (await connection.execute(text(query), {"thread_id": thread_id})).one()
        return streams, chunks


async def change(store: Store, statement: str, **values: Any) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(text(statement), values)


class Gate:
    """A source that stops in the middle until it is let go."""

    def __init__(self, content: bytes = 3 * CONTENT) -> None:  # the first chunk is written when there are three
        self.content = content
        self.is_under_way = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        middle = len(self.content) // 2
        yield self.content[:middle]
        self.is_under_way.set()
        await self.go_on.wait()
        yield self.content[middle:]


# --- in and out ---


async def test_what_was_streamed_in_comes_out(any_persistence: Store, any_user: Any) -> None:
    thread_id = await a_thread(any_persistence, any_user)

    saved = await any_persistence.states.put_stream(thread_id, source(), user_id=any_user, meta={"step": 7})

    assert await read(any_persistence, thread_id, any_user) == CONTENT
    assert await any_persistence.states.get(thread_id, user_id=any_user) == saved
    assert await any_persistence.states.get_version(thread_id, saved.version, user_id=any_user) == saved
    assert (await any_persistence.states.page(thread_id, user_id=any_user)).items == (saved,)
    assert (saved.data, saved.meta) == (None, {"step": 7})
    assert saved.stream is not None
    assert (saved.stream.size, saved.stream.chunks) == (len(CONTENT), 3)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
@pytest.mark.parametrize("piece", [70_001, CHUNK_BYTES, 3 * CHUNK_BYTES])
async def test_pieces_of_any_size_make_the_same_state(persistence: Store, user_id: str, size: int, piece: int) -> None:
    thread_id = await a_thread(persistence, user_id)
    content = CONTENT[:size]

    saved = await persistence.states.put_stream(thread_id, source(content, piece), user_id=user_id)

    assert await read(persistence, thread_id, user_id) == content
    assert saved.stream is not None
    assert saved.stream.chunks == -(-size // CHUNK_BYTES)


async def test_chunks_are_kept_compressed(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)

    await persistence.states.put_stream(thread_id, source(), user_id=user_id)

    async with persistence.engine.connect() as connection:
        query = "SELECT sum(length(data)) FROM state_chunks JOIN state_streams USING (stream_id) WHERE thread_id = :id"
        stored = (await connection.execute(text(query), {"id": thread_id})).scalar_one()
    assert stored < len(CONTENT) / 20


async def test_a_state_that_was_not_streamed_in_is_read_as_json(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    await persistence.states.put(thread_id, {"step": 1}, user_id=user_id)

    assert await read(persistence, thread_id, user_id) == b'{"step":1}'


async def test_a_unit_of_work_streams_into_its_own_transaction(persistence: Store, user_id: str) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        thread = await uow.threads.create()
        saved = await uow.states.put_stream(thread.thread_id, source())
        within = [piece async for piece in uow.states.open_stream(thread.thread_id)]
        outside = await persistence.states.get(thread.thread_id, user_id=user_id)

    assert b"".join(within) == CONTENT
    assert outside is None
    assert await persistence.states.get(thread.thread_id, user_id=user_id) == saved
    assert await read(persistence, thread.thread_id, user_id) == CONTENT


async def test_versions_of_both_kinds_stand_in_one_history(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    first = await persistence.states.put(thread_id, {"step": 1}, user_id=user_id)
    second = await persistence.states.put_stream(thread_id, source(), user_id=user_id, expected_version=first.version)
    third = await persistence.states.put(thread_id, {"step": 3}, user_id=user_id, expected_version=second.version)

    history = await persistence.states.page(thread_id, user_id=user_id)

    assert history.items == (third, second, first)
    assert await read(persistence, thread_id, user_id, second.version) == CONTENT


async def test_administration_streams_for_anybody(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)

    await persistence.states.put_stream(thread_id, source(), user_id=ANY_USER)

    assert await read(persistence, thread_id, user_id) == CONTENT
    assert await read(persistence, thread_id, ANY_USER) == CONTENT


# --- refused ---


async def test_nothing_is_asked_of_the_source_for_a_thread_of_somebody_else(
    persistence: Store, user_id: str, new_ids: Any
) -> None:
    thread_id, asked = await a_thread(persistence, user_id), []

    async def never() -> AsyncIterator[bytes]:
        asked.append(True)
        yield b""

    with pytest.raises(ThreadNotFoundError):
        await persistence.states.put_stream(thread_id, never(), user_id=new_ids.user())
    assert asked == []


async def test_a_state_of_somebody_else_cannot_be_read(persistence: Store, user_id: str, new_ids: Any) -> None:
    thread_id = await a_thread(persistence, user_id)
    saved = await persistence.states.put_stream(thread_id, source(), user_id=user_id)

    for version in (None, saved.version):
        with pytest.raises(StateNotFoundError):
            await read(persistence, thread_id, new_ids.user(), version)


async def test_a_thread_that_changes_hands_is_not_read_on(persistence: Store, user_id: str, new_ids: Any) -> None:
    thread_id = await a_thread(persistence, user_id)
    await persistence.states.put_stream(thread_id, source(), user_id=user_id)
    pieces = persistence.states.open_stream(thread_id, user_id=user_id)
    await anext(pieces)

    await change(
        persistence, "UPDATE threads SET user_id = :new WHERE thread_id = :id", id=thread_id, new=new_ids.user()
    )

    with pytest.raises(StateNotFoundError):
        await anext(pieces)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"source": [b"a"]}, "source"),
        ({"source": b"a"}, "source"),
        ({"meta": [1]}, "meta"),
        ({"expected_version": -1}, "expected_version"),
    ],
)
async def test_bad_input_is_refused_by_name(
    persistence: Store, user_id: str, values: dict[str, Any], field: str
) -> None:
    thread_id = await a_thread(persistence, user_id)

    with pytest.raises(InvalidInputError) as refused:
        await persistence.states.put_stream(thread_id, **({"source": source()} | values), user_id=user_id)

    assert refused.value.field == field


async def test_a_source_of_text_is_refused_and_leaves_nothing(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)

    async def texts() -> AsyncIterator[Any]:
        yield CONTENT
        yield "text"

    async with persistence.begin(user_id=user_id) as uow:
        with pytest.raises(InvalidInputError, match="source: must give bytes, not str"):
            await uow.states.put_stream(thread_id, texts())

    assert await rows_of(persistence, thread_id) == (0, 0)


async def test_checkpointing_that_is_off_refuses_streams(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(enable_checkpointing=False)) as store:
        thread_id = await a_thread(store, user_id)

        with pytest.raises(CheckpointingDisabledError):
            await store.states.put_stream(thread_id, source(), user_id=user_id)


async def test_another_version_than_expected_saves_nothing(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    saved = await persistence.states.put(thread_id, 1, user_id=user_id)

    async with persistence.begin(user_id=user_id) as uow:
        with pytest.raises(StateConflictError):
            await uow.states.put_stream(thread_id, source(), expected_version=0)

    assert await persistence.states.get(thread_id, user_id=user_id, fresh=True) == saved
    assert await rows_of(persistence, thread_id) == (0, 0)


# --- in the middle ---


async def test_nobody_sees_a_state_before_it_is_whole(persistence: Store, user_id: str) -> None:
    thread_id, gate = await a_thread(persistence, user_id), Gate()
    before = await persistence.states.put(thread_id, 1, user_id=user_id)

    writing = asyncio.create_task(persistence.states.put_stream(thread_id, gate, user_id=user_id))
    await gate.is_under_way.wait()
    found = await persistence.states.get(thread_id, user_id=user_id, fresh=True)
    # The thread is not locked meanwhile: others go on, and their versions come first.
    between = await asyncio.wait_for(persistence.states.put(thread_id, 2, user_id=user_id), timeout=5)
    gate.go_on.set()
    saved = await writing

    assert found == before
    assert before.version < between.version < saved.version
    assert await read(persistence, thread_id, user_id) == gate.content


async def test_two_writers_at_once_save_two_whole_states(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    contents = [b"a" * 3_000_000, b"b" * 2_000_000]
    gates = [Gate(content) for content in contents]

    writing = [asyncio.create_task(persistence.states.put_stream(thread_id, gate, user_id=user_id)) for gate in gates]
    for gate in gates:
        await gate.is_under_way.wait()
    for gate in gates:
        gate.go_on.set()
    saved = await asyncio.gather(*writing)

    assert [await read(persistence, thread_id, user_id, state.version) for state in saved] == contents
    latest = await persistence.states.require(thread_id, user_id=user_id)
    assert latest.version == max(state.version for state in saved)


async def test_of_two_writers_over_one_version_one_is_refused(persistence: Store, user_id: str) -> None:
    thread_id, gate = await a_thread(persistence, user_id), Gate()
    writing = asyncio.create_task(persistence.states.put_stream(thread_id, gate, user_id=user_id, expected_version=0))
    await gate.is_under_way.wait()

    saved = await persistence.states.put_stream(thread_id, source(b"first"), user_id=user_id, expected_version=0)
    gate.go_on.set()

    with pytest.raises(StateConflictError):
        await writing
    assert await persistence.states.get(thread_id, user_id=user_id) == saved
    await until_only(persistence, thread_id, streams=1, chunks=1)


async def until_only(store: Store, thread_id: Any, *, streams: int, chunks: int) -> None:
    """What nobody waits for is cleaned up in a moment."""
    async with asyncio.timeout(10):
        while await rows_of(store, thread_id) != (streams, chunks):  # noqa: ASYNC110 - it is done in the background
            await asyncio.sleep(0.01)


async def test_a_caller_who_is_cancelled_leaves_nothing(persistence: Store, user_id: str) -> None:
    thread_id, gate = await a_thread(persistence, user_id), Gate()
    writing = asyncio.create_task(persistence.states.put_stream(thread_id, gate, user_id=user_id))
    await gate.is_under_way.wait()
    assert (await rows_of(persistence, thread_id))[1] > 0

    writing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await writing
    await until_only(persistence, thread_id, streams=0, chunks=0)
    assert await persistence.states.get(thread_id, user_id=user_id) is None


@pytest.mark.parametrize("steps", [1, 3, 10])
async def test_a_caller_who_is_cancelled_at_once_leaves_nothing(persistence: Store, user_id: str, steps: int) -> None:
    thread_id = await a_thread(persistence, user_id)
    writing = asyncio.create_task(persistence.states.put_stream(thread_id, source(), user_id=user_id))
    for _ in range(steps):
        await asyncio.sleep(0)

    writing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await writing
    await drain(10)
    assert await rows_of(persistence, thread_id) == (0, 0)


async def test_a_unit_of_work_goes_on_without_a_stream_that_took_too_long(persistence: Store, user_id: str) -> None:
    gate = Gate()

    async with persistence.begin(user_id=user_id) as uow:
        thread_id = (await uow.threads.create()).thread_id
        writing = asyncio.create_task(uow.states.put_stream(thread_id, gate))
        await gate.is_under_way.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        saved = await uow.states.put(thread_id, 1)

    assert await persistence.states.get(thread_id, user_id=user_id) == saved
    assert await rows_of(persistence, thread_id) == (0, 0)


@pytest.mark.parametrize("content", [CONTENT, b""], ids=["found out in the middle", "found out at the end"])
async def test_a_thread_that_is_deleted_meanwhile_is_not_found(
    persistence: Store, user_id: str, content: bytes
) -> None:
    thread_id, gate = await a_thread(persistence, user_id), Gate(content)
    writing = asyncio.create_task(persistence.states.put_stream(thread_id, gate, user_id=user_id))
    await gate.is_under_way.wait()

    await persistence.threads.delete(thread_id, user_id=user_id)
    gate.go_on.set()

    with pytest.raises(ThreadNotFoundError):
        await writing


async def test_a_source_that_fails_leaves_nothing(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)

    async def broken() -> AsyncIterator[bytes]:
        yield CONTENT
        raise LookupError("the agent's own")

    with pytest.raises(LookupError, match="the agent's own"):
        await persistence.states.put_stream(thread_id, broken(), user_id=user_id)

    await until_only(persistence, thread_id, streams=0, chunks=0)
    assert await persistence.states.get(thread_id, user_id=user_id) is None


async def test_a_writer_that_is_killed_leaves_what_nobody_sees_and_a_purge_sweeps(make_database: Any) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database(), auto_migrate=True)
    async with Persistence[Any, Any](settings) as store:
        thread_id = await a_thread(store, "ann")
        assert settings.database_url is not None
        writer = await asyncio.create_subprocess_exec(
            *[sys.executable, "-c", WRITER, settings.database_url.get_secret_value(), thread_id],
            stdout=asyncio.subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert await writer.stdout.readline() == b"on its way\n"
        writer.send_signal(signal.SIGKILL)
        await writer.wait()

        assert await store.states.get(thread_id, user_id="ann") is None
        await store.purge(keep_last=1)
        kept = await rows_of(store, thread_id)
        await change(store, "UPDATE state_streams SET created_at = now() - interval '25 hours'")
        await store.purge(keep_last=1)

        assert kept == (1, 2)
        assert await rows_of(store, thread_id) == (0, 0)


async def test_what_became_a_state_is_not_discarded_by_a_caller_who_does_not_know(
    persistence: Store, user_id: str
) -> None:
    thread_id = await a_thread(persistence, user_id)
    upload = persistence.states._upload(  # noqa: SLF001 - what put_stream does, step by step
        thread_id, source(), user_id
    )
    await upload.begin()
    await upload.receive()
    await upload.publish()

    await upload.discard()

    assert await read(persistence, thread_id, user_id) == CONTENT


@pytest.mark.parametrize("piece", [b"", CONTENT], ids=["found out at the end", "found out in the middle"])
async def test_a_stream_that_was_swept_meanwhile_becomes_no_state(
    persistence: Store, user_id: str, piece: bytes
) -> None:
    thread_id = await a_thread(persistence, user_id)

    async def slow() -> AsyncIterator[bytes]:
        yield piece
        await change(persistence, "DELETE FROM state_streams WHERE thread_id = :id AND state_id IS NULL", id=thread_id)
        yield piece

    with pytest.raises(StatementTimeoutError, match="longer than a day"):
        await persistence.states.put_stream(thread_id, slow(), user_id=user_id)
    assert await persistence.states.get(thread_id, user_id=user_id) is None


async def test_a_chunk_that_is_written_again_is_kept_once(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    upload = persistence.states._upload(  # noqa: SLF001 - what put_stream does, step by step
        thread_id, source(), user_id
    )
    run = upload._run  # noqa: SLF001 - as after the reply to the first attempt was lost

    async def run_twice(work: Any) -> Any:
        await run(work)
        return await run(work)

    await upload.begin()
    upload._run = run_twice  # noqa: SLF001
    await upload.receive()
    upload._run = run  # noqa: SLF001
    await upload.publish()

    assert await rows_of(persistence, thread_id) == (1, 3)
    assert await read(persistence, thread_id, user_id) == CONTENT


async def test_a_chunk_that_is_written_while_its_stream_is_swept_is_told_of_the_sweep(
    persistence: Store, user_id: str
) -> None:
    thread_id = await a_thread(persistence, user_id)
    upload = persistence.states._upload(  # noqa: SLF001 - what put_stream does, step by step
        thread_id, source(), user_id
    )
    await upload.begin()
    async with persistence.engine.begin() as sweep:
        await sweep.execute(text("DELETE FROM state_streams WHERE thread_id = :id"), {"id": thread_id})
        receiving = asyncio.create_task(upload.receive())
        await until_somebody_waits_for_a_lock(persistence)

    with pytest.raises(StatementTimeoutError, match="longer than a day"):
        await receiving


async def test_a_sweep_passes_over_a_stream_that_another_transaction_has_locked(
    persistence: Store, user_id: str
) -> None:
    locked, free = [await a_thread(persistence, user_id) for _ in range(2)]
    for one in (locked, free):
        age = "now() - interval '25 hours'"
        await change(persistence, f"INSERT INTO state_streams (thread_id, created_at) VALUES (:id, {age})", id=one)

    async with persistence.engine.begin() as other, asyncio.timeout(2):
        await other.execute(text("SELECT FROM state_streams WHERE thread_id = :id FOR KEY SHARE"), {"id": locked})
        await persistence._transactions.maintain(sweep_abandoned)  # noqa: SLF001 - as a purge does

    assert [(await rows_of(persistence, one))[0] for one in (locked, free)] == [1, 0]


async def test_abandoned_streams_are_swept_by_their_size(make_database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database(), auto_migrate=True)
    monkeypatch.setattr(streamed_states, "CHUNKS_A_BATCH", 5)
    async with Persistence[Any, Any](settings) as store:
        thread_id = await a_thread(store, "ann")
        for _ in range(5):
            upload = store.states._upload(  # noqa: SLF001 - what put_stream does, step by step
                thread_id, source(CONTENT[: 2 * CHUNK_BYTES]), "ann"
            )
            await upload.begin()
            await upload.receive()
        await change(store, "UPDATE state_streams SET created_at = now() - interval '25 hours'")

        swept = [await store._transactions.maintain(sweep_abandoned) for _ in range(4)]  # noqa: SLF001 - as a purge does

        assert swept == [2, 2, 1, 0]
        assert await rows_of(store, thread_id) == (0, 0)


async def test_a_unit_of_work_that_is_rolled_back_takes_its_chunks_with_it(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)

    async def work(uow: Any) -> None:
        await uow.states.put_stream(thread_id, source())
        raise LookupError

    with pytest.raises(LookupError):
        await persistence.run(work, user_id=user_id)

    assert await persistence.states.get(thread_id, user_id=user_id) is None
    assert await rows_of(persistence, thread_id) == (0, 0)


# --- readers ---


@pytest.mark.parametrize("way", ["prune", "clear", "delete"])
async def test_a_reader_whose_version_is_deleted_is_told_so(persistence: Store, user_id: str, way: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    saved = await persistence.states.put_stream(thread_id, source(), user_id=user_id)
    await persistence.states.put(thread_id, 1, user_id=user_id)
    pieces = persistence.states.open_stream(thread_id, user_id=user_id, version=saved.version)
    first = await anext(pieces)

    if way == "prune":
        assert await persistence.states.prune(thread_id, user_id=user_id, keep_last=1) == 1
    elif way == "clear":
        assert await persistence.states.clear(thread_id, user_id=user_id) == 2
    else:
        assert await persistence.threads.delete(thread_id, user_id=user_id)

    assert len(first) == CHUNK_BYTES
    with pytest.raises(StateNotFoundError) as lost:
        await anext(pieces)
    assert (lost.value.thread_id, lost.value.version) == (thread_id, saved.version)
    assert await rows_of(persistence, thread_id) == (0, 0)


async def test_a_reader_goes_on_in_its_version_while_others_save_newer_ones(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    await persistence.states.put_stream(thread_id, source(), user_id=user_id)
    pieces = persistence.states.open_stream(thread_id, user_id=user_id)
    first = await anext(pieces)

    await persistence.states.put_stream(thread_id, source(b"newer"), user_id=user_id)

    assert first + b"".join([piece async for piece in pieces]) == CONTENT


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM state_chunks WHERE place = 2 AND {of_thread}",
        "UPDATE state_chunks SET data = 'rubbish' WHERE place = 2 AND {of_thread}",
        "UPDATE state_chunks SET data = :other WHERE place = 1 AND {of_thread}",
        "UPDATE state_chunks SET data = :bomb WHERE place = 1 AND {of_thread}",
        "UPDATE states SET state_data = '{{}}' WHERE thread_id = :id",
    ],
)
async def test_a_damaged_state_is_an_error_and_never_taken_for_whole(
    persistence: Store, user_id: str, damage: str
) -> None:
    thread_id = await a_thread(persistence, user_id)
    await persistence.states.put_stream(thread_id, source(), user_id=user_id)
    of_thread = "stream_id IN (SELECT stream_id FROM state_streams WHERE thread_id = :id)"
    others = {"other": zlib.compress(bytes(CHUNK_BYTES)), "bomb": zlib.compress(bytes(64 * CHUNK_BYTES))}
    values = {name: other for name, other in others.items() if f":{name}" in damage}
    await change(persistence, damage.format(of_thread=of_thread), id=thread_id, **values)

    got = bytearray()
    with pytest.raises(CorruptRowError):
        await read_into(got, persistence, thread_id, user_id)

    assert len(got) < len(CONTENT)


async def test_a_thread_without_a_state_has_none_to_read(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)

    with pytest.raises(StateNotFoundError):
        await read(persistence, thread_id, user_id)


# --- with everything else ---


async def test_the_cache_never_gives_out_what_a_stream_replaced(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    await persistence.states.put(thread_id, 1, user_id=user_id)
    assert (await persistence.states.require(thread_id, user_id=user_id)).data == 1

    saved = await persistence.states.put_stream(thread_id, source(), user_id=user_id)
    read_twice = [await persistence.states.require(thread_id, user_id=user_id) for _ in range(2)]
    newest = await persistence.states.put(thread_id, 2, user_id=user_id)

    assert read_twice == [saved, saved]
    assert await persistence.states.require(thread_id, user_id=user_id) == newest


async def test_a_limited_history_counts_streamed_states(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(max_checkpoint_history=2)) as store:
        thread_id = await a_thread(store, user_id)
        for content in (b"1", b"2", b"3"):
            await store.states.put_stream(thread_id, source(content), user_id=user_id)

        kept = [state.stream for state in await store.states.page(thread_id, user_id=user_id)]

        assert [stream.size if isinstance(stream, StateStream) else None for stream in kept] == [1, 1]
        assert await rows_of(store, thread_id) == (2, 2)


async def test_a_mapped_state_says_how_long_the_stream_is(persistence: Store, user_id: str) -> None:
    thread_id = await a_thread(persistence, user_id)
    saved = await persistence.states.put_stream(thread_id, source(), user_id=user_id)
    assert saved.stream is not None

    state = await persistence.entities.get_latest_state(thread_id, user_id=user_id)

    assert state is not None
    assert state.stream_id is not None
    words = {"bytes": len(CONTENT), "sha256": saved.stream.sha256, "chunks": 3, "encoding": "zlib"}
    assert state.state_data == words
