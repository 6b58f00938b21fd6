"""Reads LangGraph's tables a few checkpoints at a time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.database.driver_errors import translated
from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.compression import Blob
from agent_persistence.repositories.checkpoints.records import ChannelValue
from agent_persistence.transfer.langgraph.msgpack import items_of, numbers_only
from agent_persistence.transfer.source import connect_to_source

_SENDS: Final = "__pregel_tasks"
_SENDS_ARE_VALUES_SINCE: Final = 4  # the version of the checkpoint format that made pending sends a channel
_THREADS: Final = text(
    """
    SELECT DISTINCT thread_id FROM checkpoints WHERE CAST(:after AS text) IS NULL OR thread_id > :after
    ORDER BY 1 LIMIT 500
    """
)
# A run from a config that LangGraph made, such as that of a checkpoint in a history, has no keys of the application.
_LATEST: Final = text(
    """
    SELECT CAST(metadata AS text) FROM checkpoints WHERE thread_id = :thread_id
    ORDER BY metadata ->> CAST(:key AS text) IS NULL, checkpoint_id DESC LIMIT 1
    """
)
# The collation "C" is Python's order of text, in which parents come before their children. Pages by key, not by OFFSET,
# which would read all earlier checkpoints again.
_CHECKPOINTS: Final = text(
    """
    SELECT child.checkpoint_ns, child.checkpoint_id, child.parent_checkpoint_id AS parent_id,
      CAST(child.checkpoint AS text) AS checkpoint, CAST(child.metadata AS text) AS metadata,
      CAST(parent.checkpoint -> 'channel_versions' AS text) AS parent_versions
    FROM checkpoints AS child
    LEFT JOIN checkpoints AS parent ON parent.thread_id = child.thread_id
      AND parent.checkpoint_ns = child.checkpoint_ns AND parent.checkpoint_id = child.parent_checkpoint_id
    WHERE child.thread_id = :thread_id
      AND (CAST(:after_ns AS text) IS NULL
        OR (child.checkpoint_ns COLLATE "C", child.checkpoint_id COLLATE "C") > (:after_ns, :after_id))
    ORDER BY child.checkpoint_ns COLLATE "C", child.checkpoint_id COLLATE "C" LIMIT :limit
    """
)
_BLOBS: Final = text(
    """
    SELECT wanted.channel, blob.type, blob.blob
    FROM unnest(CAST(:channels AS text[]), CAST(:versions AS text[])) AS wanted (channel, version)
    JOIN checkpoint_blobs AS blob ON blob.thread_id = :thread_id AND blob.checkpoint_ns = :checkpoint_ns
      AND blob.channel = wanted.channel AND blob.version = wanted.version
    WHERE blob.type <> 'empty'
    """
)
_WRITES: Final = """
    SELECT checkpoint_ns, checkpoint_id, task_id, {task_path} AS task_path, idx, channel, type, blob
    FROM checkpoint_writes AS written
    WHERE thread_id = :thread_id AND {which}
    ORDER BY checkpoint_ns, checkpoint_id, {task_path}, task_id, idx
"""
_COLUMNS_OF_WRITES: Final = text("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('checkpoint_writes')")
_OF_A_CHECKPOINT: Final = "checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id"
_OF_NONE: Final = """NOT EXISTS (SELECT FROM checkpoints WHERE checkpoints.thread_id = written.thread_id
    AND checkpoints.checkpoint_ns = written.checkpoint_ns AND checkpoints.checkpoint_id = written.checkpoint_id)"""


@frozen
class SourceWrite:
    """A row of ``checkpoint_writes``."""

    checkpoint_ns: str
    checkpoint_id: str
    task_id: str
    task_path: str
    idx: int
    channel: str
    value: ChannelValue = field(repr=False)


@frozen
class SourceCheckpoint:
    """A row of ``checkpoints`` with the values that it does not share with its parent.

    Attributes:
        changed: the values of channels whose version is not the parent's.
        versions: the versions of all channels.
        writes: the writes of tasks that started from it.
        saved_at: its time, if it has one that can be read.
    """

    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    metadata: Mapping[str, Any] = field(repr=False)
    body: Blob = field(repr=False)
    changed: Mapping[str, ChannelValue | None] = field(repr=False)
    versions: Mapping[str, Any] = field(repr=False)
    writes: Sequence[SourceWrite] = field(repr=False)
    saved_at: datetime | None


class Tables:
    """The tables ``checkpoints``, ``checkpoint_blobs`` and ``checkpoint_writes`` of one database."""

    def __init__(self, connection: AsyncConnection, *, has_task_path: bool) -> None:
        self._connection = connection
        task_path = "task_path" if has_task_path else "''"
        self._writes_of_checkpoint = text(_WRITES.format(task_path=task_path, which=_OF_A_CHECKPOINT))
        self._writes_of_none = text(_WRITES.format(task_path=task_path, which=_OF_NONE))

    async def threads(self) -> AsyncIterator[str]:
        """Yield the ids of all threads."""
        after = None  # not "", which is an id that the tables permit
        while rows := await self._rows(_THREADS, after=after):
            for row in rows:
                yield row.thread_id
            after = rows[-1].thread_id

    async def latest_metadata(self, thread_id: str, *, key: str | None = None) -> dict[str, Any]:
        """Return the metadata of a thread's latest checkpoint: of those that have ``key``, if any does.

        Raises:
            InvalidInputError: the thread was deleted since ``threads`` yielded it.
        """
        rows = await self._rows(_LATEST, thread_id=thread_id, key=key)
        if not rows:
            raise InvalidInputError("thread_id", "was deleted from the source during the import")
        return _object(rows[0][0], "metadata")

    async def checkpoints(self, thread_id: str, *, at_once: int) -> AsyncIterator[list[SourceCheckpoint]]:
        """Yield a thread's checkpoints in lists of ``at_once``, parents before their children."""
        position: dict[str, str | None] = {"after_ns": None, "after_id": None}
        while rows := await self._rows(_CHECKPOINTS, thread_id=thread_id, limit=at_once, **position):
            yield [await self._checkpoint(thread_id, row) for row in rows]
            position = {"after_ns": rows[-1].checkpoint_ns, "after_id": rows[-1].checkpoint_id}

    async def other_writes(self, thread_id: str) -> list[SourceWrite]:
        """Return the writes of tasks at checkpoints that do not exist."""
        return _read_writes(await self._rows(self._writes_of_none, thread_id=thread_id))

    async def _checkpoint(self, thread_id: str, row: Row[Any]) -> SourceCheckpoint:
        here = {"thread_id": thread_id, "checkpoint_ns": row.checkpoint_ns}
        checkpoint = _object(row.checkpoint, "checkpoint")
        inline = _checked(checkpoint.pop("channel_values", None) or {}, "checkpoint.channel_values")
        versions = _checked(checkpoint.get("channel_versions"), "checkpoint.channel_versions")
        before = {} if row.parent_versions is None else _object(row.parent_versions, "checkpoint.channel_versions")
        # A value whose version is the parent's is not fetched: it was imported with the parent.
        new = {name: version for name, version in versions.items() if before.get(name) != version}
        blobs = await self._rows(
            _BLOBS, **here, channels=list(new), versions=[_as_text(version) for version in new.values()]
        )
        changed: dict[str, ChannelValue | None] = {name: _inline(inline, name) for name in new}
        changed |= {blob.channel: _value(blob.type, blob.blob) for blob in blobs}
        if _format_of(checkpoint) < _SENDS_ARE_VALUES_SINCE and row.parent_id is not None:
            await self._move_sends(here, row.parent_id, versions, changed)
        checkpoint.pop("id", None)
        return SourceCheckpoint(
            checkpoint_ns=row.checkpoint_ns,
            checkpoint_id=row.checkpoint_id,
            parent_id=row.parent_id,
            metadata=_object(row.metadata, "metadata"),
            body=("json", json.dumps(checkpoint).encode()),
            changed=changed,
            versions=versions,
            writes=_read_writes(await self._rows(self._writes_of_checkpoint, **here, checkpoint_id=row.checkpoint_id)),
            saved_at=_time_of(checkpoint),
        )

    async def _move_sends(
        self,
        here: Mapping[str, str],
        parent_id: str,
        versions: dict[str, Any],
        changed: dict[str, ChannelValue | None],
    ) -> None:
        """Make a channel of the parent's pending sends, as newer versions of LangGraph expect."""
        written = _read_writes(await self._rows(self._writes_of_checkpoint, **here, checkpoint_id=parent_id))
        sends = [write.value for write in written if write.channel == _SENDS and not isinstance(write.value, list)]
        if sends:
            if len({isinstance(version, str) for version in versions.values()}) > 1:
                raise InvalidInputError(
                    "checkpoint.channel_versions", "has both texts and numbers, which have no order"
                )
            versions[_SENDS] = max(versions.values(), default=1)
            changed[_SENDS] = sends

    async def _rows(self, statement: TextClause, **values: Any) -> Sequence[Row[Any]]:
        with translated():
            return (await self._connection.execute(statement, values)).all()


@asynccontextmanager
async def open_tables(url: str) -> AsyncIterator[Tables]:
    """Connect to a database with LangGraph's tables, only to read.

    Args:
        url: a URL of libpq; ``?options=-csearch_path%3D...`` names a schema.

    Raises:
        SettingsError: the URL is not valid.
        InvalidInputError: the database does not have the tables.
        UnavailableError: the database cannot be reached.
    """
    # No transaction: an import of hours would keep the source from removing dead rows.
    async with connect_to_source(DatabaseUrl.parse(url, "--from"), isolation_level="AUTOCOMMIT") as connection:
        with translated():
            columns = (await connection.execute(_COLUMNS_OF_WRITES)).scalars().all()
        if not columns:
            raise InvalidInputError("--from", "names a database without the tables checkpoints and checkpoint_writes")
        # The column came with a later version of LangGraph's tables.
        yield Tables(connection, has_task_path="task_path" in columns)


def _object(text_of_json: str, field: str) -> dict[str, Any]:
    try:
        found = decode_json(text_of_json)
    except ValueError as error:
        raise InvalidInputError(field, "holds a number or a depth that Python cannot read") from error
    return _checked(found, field)


def _checked(found: Any, field: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise InvalidInputError(field, "is not a JSON object, as LangGraph writes it")
    return found


def _format_of(checkpoint: Mapping[str, Any]) -> float:
    version = checkpoint.get("v")
    if version is None:
        return 1
    if isinstance(version, bool) or not isinstance(version, int | float):
        raise InvalidInputError("checkpoint.v", "is not a number, as LangGraph writes it")
    return version


def _time_of(checkpoint: Mapping[str, Any]) -> datetime | None:
    try:
        time = datetime.fromisoformat(checkpoint["ts"])
    except (KeyError, TypeError, ValueError):
        return None
    return time if time.tzinfo is not None else None


def _as_text(version: Any) -> str:
    """Return a version as ``checkpoint_blobs`` has it."""
    return version if isinstance(version, str) else json.dumps(version)


def _inline(values: Mapping[str, Any], name: str) -> Blob | None:
    """Return a value that is stored in the checkpoint itself; ``None`` if it is not."""
    if name not in values:
        return None
    return ("null", b"") if values[name] is None else ("json", json.dumps(values[name]).encode())


def _value(kind: str | None, content: bytes | None) -> ChannelValue:
    """Return a serialised value; a list as its items, as ``PersistenceSaver`` stores it."""
    content = content or b""
    # The same cut as for a graph that runs, so that the items are found again by the thread's next save; only a long
    # list of short items is stored once more then, in pieces.
    if kind == "msgpack" and (items := items_of(content)) is not None and not numbers_only(items):
        return [("msgpack", item) for item in items]
    return kind or "msgpack", content


def _read_writes(rows: Iterable[Row[Any]]) -> list[SourceWrite]:
    return [
        SourceWrite(
            row.checkpoint_ns,
            row.checkpoint_id,
            row.task_id,
            row.task_path,
            row.idx,
            row.channel,
            _value(row.type, row.blob),
        )
        for row in rows
    ]
