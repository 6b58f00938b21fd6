"""States streamed in and out, with a few chunks in memory.

The chunks are written first, where no reader sees them. One short step at the end makes them a state: it locks the
thread and draws the version like every other save.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from sqlalchemy import ColumnElement, Integer, LargeBinary, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or

from agent_persistence.concurrency.offload import in_thread
from agent_persistence.concurrency.shielding import start
from agent_persistence.encoding.chunks import ENCODING, Tally, chunked, pack, unpack
from agent_persistence.encoding.exact_json import EncodedJSON, encode_json
from agent_persistence.errors import (
    CheckpointingDisabledError,
    CorruptRowError,
    InvalidInputError,
    PersistenceError,
    StatementTimeoutError,
    StateNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import ExactJSON, Models
from agent_persistence.records import StateRecord, StateStream, TouchedState
from agent_persistence.repositories.locks import locked_thread, owner_of, touched_thread
from agent_persistence.repositories.numbering import is_latest
from agent_persistence.repositories.rows import json_object
from agent_persistence.repositories.states.repository import StateRepository, expect_version, keep_newest
from agent_persistence.repositories.states.retention import within
from agent_persistence.repositories.states.stream_statements import read_chunk
from agent_persistence.sessions.commit_evidence import row_evidence
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_version

T = TypeVar("T")

ABANDONED_AFTER: Final = timedelta(days=1)
"""A stream that is not a state by then counts as abandoned."""
CHUNKS_A_BATCH: Final = 1000
"""How many are swept in one transaction, unless one stream has more."""
_SWEPT_AT_ONCE: Final = 100
_AT_ONCE: Final = 2
"""How many chunks are compressed, or decompressed, at once."""


class Run(Protocol):
    """Runs work on a scope: in the transaction of a unit of work, or each time in a new one, with retries."""

    def __call__(self, work: Callable[[Scope[Any, Any]], Awaitable[T]], /) -> Awaitable[T]:
        """Run the work, and return its result."""
        ...


@frozen
class NewStream(Generic[IdT]):
    """The checked arguments of ``put_stream``."""

    thread_id: IdT
    source: AsyncIterable[bytes]
    meta: dict[str, Any]
    encoded_meta: EncodedJSON
    expected_version: int | None


def prepare_stream(
    scope: Scope[IdT, Any],
    thread_id: IdT,
    source: AsyncIterable[bytes],
    meta: Mapping[str, Any] | None,
    expected_version: int | None,
) -> NewStream[IdT]:
    """Check the arguments of ``put_stream`` before any SQL runs.

    Raises:
        InvalidInputError: one cannot be stored, or ``source`` is not an asynchronous iterable.
        CheckpointingDisabledError: the settings refuse states.
    """
    if not scope.options.save_states:
        raise CheckpointingDisabledError
    if not hasattr(source, "__aiter__"):
        raise InvalidInputError("source", f"must be an asynchronous iterable of bytes, not {type(source).__name__}")
    checked_meta: dict[str, Any] = scope.clean(json_object(meta, "meta"), "meta")
    expected = None if expected_version is None else check_version(expected_version, "expected_version")
    return NewStream(scope.thread_id(thread_id), source, checked_meta, scope.encoded(checked_meta, "meta"), expected)


class Upload(Generic[IdT]):
    """A state that is being streamed in: ``begin``, ``receive``, then ``publish`` or ``discard``."""

    def __init__(self, run: Run, new: NewStream[IdT]) -> None:
        self._run = run
        self._new = new
        self._tally = Tally()
        self._stream_id = self._written = 0

    async def begin(self) -> None:
        """Insert the row to which the chunks refer.

        Raises:
            ThreadNotFoundError: the thread does not exist.
        """
        self._stream_id = await self._run(self._begin)

    async def receive(self) -> None:
        """Write the chunks in their order, each while the next ones are compressed.

        Raises:
            InvalidInputError: the source yields something that is not bytes.
            ThreadNotFoundError: the thread was deleted.
            StatementTimeoutError: the stream took longer than a day.
        """
        waiting: deque[asyncio.Task[bytes]] = deque()
        async with aclosing(chunked(self._new.source, "source")) as chunks:
            async for chunk in chunks:
                await in_thread(self._tally.count, chunk)
                # In threads, two at once: compressing takes twice as long as writing, and would hold up the event loop.
                waiting.append(start(in_thread(pack, chunk)))
                if len(waiting) > _AT_ONCE:
                    await self._keep(waiting.popleft())
        for packing in waiting:
            await self._keep(packing)

    async def publish(self) -> StateRecord[IdT]:
        """Make the chunks the thread's latest state, and return its record.

        Raises:
            ThreadNotFoundError: the thread was deleted.
            StateConflictError: ``expected_version`` is not the latest version.
            StatementTimeoutError: the stream took longer than a day.
        """
        return await self._run(self._publish)

    async def discard(self) -> None:
        """Delete the chunks, unless they are a state."""
        if self._stream_id:
            await self._run(self._discard)

    async def _begin(self, scope: Scope[Any, Any]) -> int:
        streams, thread = scope.models.side_tables.streamed.streams, scope.threads
        thread_id = self._new.thread_id
        owned = select(thread.c.thread_id).where(scope.thread_of(thread_id))
        made = insert(streams).from_select(["thread_id"], owned).returning(streams.c.stream_id)
        stream_id: int | None = (await scope.execute(made)).scalar_one_or_none()
        if stream_id is None:
            raise ThreadNotFoundError(thread_id)
        return stream_id

    async def _keep(self, packing: asyncio.Task[bytes]) -> None:
        # A transaction for each chunk: while the source is waited for, no transaction is open and no lock is held.
        await self._run(partial(self._write, self._written, await packing))
        self._written += 1

    async def _write(self, index: int, packed: bytes, scope: Scope[Any, Any]) -> None:
        streams, chunks = scope.models.side_tables.streamed
        # Locked, so that the stream is not swept before the chunk's foreign key is checked.
        lock = select(streams.c.stream_id).where(self._unclaimed(scope)).with_for_update(read=True, key_share=True)
        stream = lock.cte("stream")
        values = literal(index, Integer).label("place"), literal(packed, LargeBinary).label("data")
        statement = insert_or(chunks).from_select(["stream_id", "place", "data"], select(stream.c.stream_id, *values))
        # The chunk is stored already where the reply to the first attempt was lost.
        again = statement.on_conflict_do_update(
            index_elements=[chunks.c.stream_id, chunks.c.place], set_={"place": statement.excluded.place}
        )
        if (await scope.execute(again.returning(chunks.c.place))).scalar_one_or_none() is None:
            raise await self._lost(scope)

    async def _publish(self, scope: Scope[Any, Any]) -> StateRecord[IdT]:
        new, stream, states = self._new, self._tally.stream, scope.states
        if new.expected_version is not None:
            await expect_version(scope, new.thread_id, new.expected_version)
        # The version is drawn here and not in begin, so that it follows the order of commits however long the upload
        # took.
        locked = locked_thread(scope, new.thread_id)
        columns = {"state_data": _description(stream), "meta": new.encoded_meta}
        values = [literal(json, ExactJSON()).label(name) for name, json in columns.items()]
        statement = (
            insert(states)
            .from_select(
                ["thread_id", *columns, "stream_id"],
                select(locked.c.thread_id, *values, literal(self._stream_id)),
                include_defaults=False,
            )
            .add_cte(locked, touched_thread(scope, locked))
            .returning(
                *[states.c[name] for name in ("thread_id", "state_id", "created_at", "updated_at")],
                is_latest(states, "state_id"),
                owner_of(locked),
            )
        )
        rows = await scope.write(statement, row_evidence(states, "thread_id", "state_id", time="created_at"))
        if not rows:
            raise ThreadNotFoundError(new.thread_id)
        [row] = rows
        await self._claim(scope, row.state_id)
        scope.recent.saved.add("stream", stream.size)
        scope.touch(TouchedState(new.thread_id, row.owner))
        await keep_newest(scope, new.thread_id)
        return StateRecord(new.thread_id, row.state_id, None, new.meta, row.created_at, row.updated_at, stream)

    async def _claim(self, scope: Scope[Any, Any], version: int) -> None:
        """Refer from the chunks' stream to its state."""
        streams = scope.models.side_tables.streamed.streams
        claimed = update(streams).where(self._unclaimed(scope)).values(state_id=version).returning(streams.c.stream_id)
        if (await scope.execute(claimed)).scalar_one_or_none() is None:
            raise await self._lost(scope)

    async def _lost(self, scope: Scope[Any, Any]) -> PersistenceError:
        """Return the error that explains why the stream does not exist any more."""
        thread = scope.threads
        found = select(thread.c.thread_id).where(scope.thread_of(self._new.thread_id))
        if (await scope.execute(found)).scalar_one_or_none() is None:
            return ThreadNotFoundError(self._new.thread_id)
        return StatementTimeoutError("the stream took longer than a day, and its first chunks were swept")

    async def _discard(self, scope: Scope[Any, Any]) -> None:
        await scope.execute(delete(scope.models.side_tables.streamed.streams).where(self._unclaimed(scope)))

    def _unclaimed(self, scope: Scope[Any, Any]) -> ColumnElement[bool]:
        streams = scope.models.side_tables.streamed.streams
        return (streams.c.stream_id == self._stream_id) & streams.c.state_id.is_(None)


async def read_stream(run: Run, thread_id: Any, version: int | None) -> AsyncGenerator[bytes, None]:
    """Yield a state as bytes, a chunk at a time; the last one after size and digest were compared.

    Raises:
        StateNotFoundError: there is no such state, or it was deleted during the read.
        CorruptRowError: the bytes are not those that were saved.
    """
    state = await run(partial(_find, thread_id, version))
    if state.stream is None:
        yield encode_json(state.data, "data")
        return
    tally, waiting = Tally(), deque[asyncio.Task[bytes]]()
    for index in range(state.stream.chunks):
        # While the caller works with a chunk, the next is decompressed, but none is read: no connection is held.
        waiting.append(start(in_thread(unpack, await run(partial(_read_chunk, state, index)))))
        if len(waiting) == _AT_ONCE:
            yield await _checked(state, tally, waiting.popleft())
    for unpacking in waiting:
        yield await _checked(state, tally, unpacking)


class StreamedStates(StateRepository[IdT, UserIdT], Generic[IdT, UserIdT]):
    """The states of one owner's threads, also those that are too large for memory."""

    async def put_stream(
        self,
        thread_id: IdT,
        source: AsyncIterable[bytes],
        *,
        meta: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Save a stream as the thread's latest state, with a few megabytes in memory.

        All chunks belong to this transaction, so the stream must end within ``PERSISTENCE_TRANSACTION_TIMEOUT``;
        ``persistence.states.put_stream`` has no such limit.

        Args:
            thread_id: the thread.
            source: yields the state in pieces of any size.
            meta: a JSON object.
            expected_version: publish only if this is still the latest version (0: the thread has no state yet).

        Returns:
            A record without ``data``; its ``stream`` has size and digest.

        Raises:
            InvalidInputError: an argument cannot be stored.
            ThreadNotFoundError: the thread does not exist.
            StateConflictError: ``expected_version`` is not the latest version.
            CheckpointingDisabledError: the settings refuse states.
        """
        upload = Upload(self._here, prepare_stream(self._scope, thread_id, source, meta, expected_version))
        await upload.begin()
        try:
            await upload.receive()
            return await upload.publish()
        except (Exception, asyncio.CancelledError):  # the host may use the unit of work after a timeout
            with suppress(PersistenceError):  # in a failed transaction the chunks are rolled back
                await upload.discard()
            raise

    def open_stream(self, thread_id: IdT, *, version: int | None = None) -> AsyncGenerator[bytes, None]:
        """Read a state as bytes, in chunks: those of ``put_stream``, or the JSON of a state that ``put`` saved.

        Args:
            thread_id: the thread.
            version: the latest if left out.

        Raises:
            StateNotFoundError: (when iterated) there is no such state, or it was deleted during the read.
            CorruptRowError: (when iterated) the bytes are not those that were saved; the last chunk is withheld.
        """
        return read_stream(self._here, thread_id, version)

    async def _here(self, work: Callable[[Scope[Any, Any]], Awaitable[T]], /) -> T:
        return await work(self._scope)


async def sweep_abandoned(scope: Scope[Any, Any]) -> int:
    """Delete a batch of abandoned streams; return their number."""
    streams, chunks = scope.models.side_tables.streamed
    last = select(func.max(chunks.c.place)).where(chunks.c.stream_id == streams.c.stream_id).scalar_subquery()
    oldest = (
        select(streams.c.stream_id, (func.coalesce(last, -1) + 1).label("size"))
        .where(is_abandoned(scope.models))
        .order_by(streams.c.stream_id)
        .limit(_SWEPT_AT_ONCE)
        .with_for_update(of=streams, skip_locked=True)
    )
    batch = [row.stream_id for row in within((await scope.execute(oldest)).all(), CHUNKS_A_BATCH)]
    if batch:
        await scope.execute(delete(streams).where(streams.c.stream_id.in_(batch)))
    return len(batch)


def is_abandoned(models: Models[Any, Any]) -> ColumnElement[bool]:
    """Return the condition that a stream was begun long ago and is no state."""
    streams = models.side_tables.streamed.streams
    return streams.c.state_id.is_(None) & (streams.c.created_at < func.now() - ABANDONED_AFTER)


def _description(stream: StateStream) -> EncodedJSON:
    """Return the value of the state's ``state_data``: a description of the stream."""
    words = {"bytes": stream.size, "sha256": stream.sha256, "chunks": stream.chunks, "encoding": ENCODING}
    return EncodedJSON(encode_json(words, "data"))


async def _find(thread_id: Any, version: int | None, scope: Scope[Any, Any]) -> StateRecord[Any]:
    states = StateRepository(scope)
    found = await (states.get(thread_id) if version is None else states.get_version(thread_id, version))
    if found is None:
        raise StateNotFoundError(thread_id, version)
    return found


async def _checked(state: StateRecord[Any], tally: Tally, unpacking: asyncio.Task[bytes]) -> bytes:
    """Return the next chunk; the last one only if size and digest are those that were saved."""
    index = tally.chunks
    try:
        chunk = await unpacking
    except zlib.error as error:
        raise _damaged(state, index) from error
    await in_thread(tally.count, chunk)
    # The last chunk is withheld on a mismatch, so a reader that got to the end has read the saved bytes.
    saved = state.stream
    if saved is not None and tally.chunks == saved.chunks and tally.stream != saved:
        raise _damaged(state, index)
    return chunk


async def _read_chunk(state: StateRecord[Any], index: int, scope: Scope[Any, Any]) -> bytes:
    rows = await scope.fetch(
        read_chunk(scope.models, of_any_user=scope.is_any_user),
        thread_id=state.thread_id,
        owner=scope.owner,
        version=state.version,
        place=index,
    )
    if not rows:
        raise StateNotFoundError(state.thread_id, state.version)
    data: bytes | None = rows[0].data
    if data is None:
        raise _damaged(state, index)
    return data


def _damaged(state: StateRecord[Any], index: int) -> CorruptRowError:
    return CorruptRowError("state_chunks", (state.thread_id, state.version, index), "data")
