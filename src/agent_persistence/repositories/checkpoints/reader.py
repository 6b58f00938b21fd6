"""Reading checkpoints, with all that they refer to, in two statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Row, literal, select, tuple_

from agent_persistence.concurrency.offload import offload
from agent_persistence.encoding.exact_json import UNDECODABLE
from agent_persistence.errors import CorruptRowError
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.checkpoints.loaded_rows import GoneError, Shelf
from agent_persistence.repositories.checkpoints.packing import unpack_blob
from agent_persistence.repositories.checkpoints.records import (
    ChannelHistory,
    CheckpointQuery,
    CheckpointRecord,
    PendingWrite,
)
from agent_persistence.repositories.checkpoints.refs import (
    Handed,
    History,
    ListRef,
    Ref,
    Refs,
    WholeRef,
    read_refs,
)
from agent_persistence.repositories.checkpoints.statements import read_values
from agent_persistence.sessions.scope import Query, Scope

Home = tuple[Any, str]
"""A thread and a namespace."""
Rows = tuple[Home, str | None, int, int]
"""Rows of a channel, or whatever their channel is, from one number to another."""

_READS: Final = 5  # that something is deleted between both statements again and again is not to be expected
_ANCESTORS_AT_ONCE: Final = 200


class CheckpointReader:
    """Reads what belongs to one owner."""

    def __init__(self, scope: Scope[Any, Any]) -> None:
        self._scope = scope
        self._checkpoint = scope.models.side_tables.graph.checkpoints

    async def latest(
        self, query: CheckpointQuery, *, limit: int, after: CheckpointRecord | None = None
    ) -> list[CheckpointRecord]:
        """Return checkpoints, the latest first; ``after`` leads on.

        Raises:
            CorruptRowError: one of them cannot be read.
        """
        statement = self._select(query).limit(limit)
        if after is not None:
            position = (after.checkpoint_id, after.thread_id, after.checkpoint_ns)
            columns = self._order()
            literals = [literal(one, column.type) for one, column in zip(position, columns, strict=True)]
            statement = statement.where(tuple_(*columns) < tuple_(*literals))
        for _ in range(_READS):
            rows = (await self._scope.execute(statement)).all()
            refs = [read_refs(row.refs) for row in rows]
            shelves = await self._shelves(
                [
                    ((row.thread_id, row.checkpoint_ns), one.channels.items())
                    for row, one in zip(rows, refs, strict=True)
                ],
                [(row.thread_id, row.checkpoint_ns, row.checkpoint_id) for row in rows],
            )
            try:
                return await offload(partial(_records, rows, refs, shelves), size=sum(map(len, shelves.values())))
            except GoneError:
                continue
        raise CorruptRowError("graph_checkpoints", query.thread_id, "refs")

    async def history(self, query: CheckpointQuery, channels: Sequence[str]) -> dict[str, ChannelHistory]:
        """Return what was written to channels on the way to a checkpoint, since each had a value."""
        for _ in range(_READS):
            try:
                return await self._history(query, channels)
            except GoneError:
                continue
        raise CorruptRowError("graph_checkpoints", query.thread_id, "refs")

    async def walk(self, query: CheckpointQuery, channels: Sequence[str]) -> Walk:
        """Follow a checkpoint's ancestors until each of the channels has a value."""
        walk = Walk(channels)
        rows = (await self._scope.execute(self._select(query).limit(1))).all()
        if not rows:
            return walk
        [target] = rows
        walk.begin(read_refs(target.refs))
        parent = target.parent_id
        while parent is not None and walk.open:
            chain = await self._ancestors((target.thread_id, target.checkpoint_ns), parent)
            parent = None
            for row in chain:
                if not walk.step(row.checkpoint_id, read_refs(row.refs)):
                    return walk
                parent = row.parent_id
        return walk

    async def resolve(self, home: Home, walk: Walk) -> Shelf:
        """Read what was found on the way."""
        thread_id, namespace = home
        shelves = await self._shelves(
            [(home, walk.references())],
            [(thread_id, namespace, checkpoint_id) for checkpoint_id in walk.passed],
            walk.channels,
        )
        return shelves[home]

    async def referred(self, home: Home, channel: str, ref: Ref) -> Shelf:
        """Read what one reference needs."""
        return (await self._shelves([(home, [(channel, ref)])], []))[home]

    async def written(self, home: Home, checkpoint_id: str, channels: Sequence[str] | None = None) -> Shelf:
        """Read what tasks have written at a checkpoint, to some channels or to all."""
        return (await self._shelves([], [(*home, checkpoint_id)], channels))[home]

    async def _history(self, query: CheckpointQuery, channels: Sequence[str]) -> dict[str, ChannelHistory]:
        walk = await self.walk(query, channels)
        shelf = await self.resolve((query.thread_id, query.checkpoint_ns or ""), walk)
        return await offload(partial(_histories, walk, shelf), size=len(shelf))

    async def _ancestors(self, home: Home, checkpoint_id: str) -> Sequence[Row[Any]]:
        """A checkpoint and those before it, on the way of the parents, so many as are read at once."""
        checkpoint = self._checkpoint
        thread_id, namespace = home
        here = (checkpoint.c.thread_id == thread_id) & (checkpoint.c.checkpoint_ns == namespace)
        chosen = [checkpoint.c.checkpoint_id, checkpoint.c.parent_id, checkpoint.c.refs]
        first = (
            select(*chosen, literal(1).label("depth"))
            .join(self._scope.threads, self._scope.threads.c.thread_id == checkpoint.c.thread_id)
            .where(here, checkpoint.c.checkpoint_id == checkpoint_id, self._scope.owns())
        )
        chain = first.cte("chain", recursive=True)
        following = (
            select(*chosen, chain.c.depth + 1)
            .join(chain, checkpoint.c.checkpoint_id == chain.c.parent_id)
            .where(here, chain.c.depth < _ANCESTORS_AT_ONCE)
        )
        chain = chain.union_all(following)
        return (await self._scope.execute(select(chain).order_by(chain.c.depth))).all()

    def _order(self) -> list[Any]:
        columns = self._checkpoint.c
        return [columns.checkpoint_id, columns.thread_id, columns.checkpoint_ns]

    def _select(self, query: CheckpointQuery) -> Query:
        checkpoint, thread = self._checkpoint, self._scope.threads
        statement = (
            select(*checkpoint.c, thread.c.user_id)
            .join(thread, thread.c.thread_id == checkpoint.c.thread_id)
            .where(self._scope.owns())
            .order_by(*[column.desc() for column in self._order()])
        )
        for name in ("thread_id", "checkpoint_ns", "checkpoint_id"):
            if (wanted := getattr(query, name)) is not None:
                statement = statement.where(checkpoint.c[name] == wanted)
        if query.before is not None:
            statement = statement.where(checkpoint.c.checkpoint_id < query.before)
        if query.metadata:
            encoded = literal(self._scope.encoded(dict(query.metadata), "filter"), checkpoint.c.metadata.type)
            statement = statement.where(checkpoint.c.metadata.bool_op("@>")(encoded))
        return statement

    async def _shelves(
        self,
        references: Iterable[tuple[Home, Iterable[tuple[str, Ref]]]],
        pending: Sequence[tuple[Any, str, str]],
        written_to: Sequence[str] | None = None,
    ) -> defaultdict[Home, Shelf]:
        shelves: defaultdict[Home, Shelf] = defaultdict(Shelf)
        await self._fill(shelves, merged_spans(references), pending, written_to)
        missing = [(home, None, base, base) for home, shelf in shelves.items() for base in shelf.missing()]
        await self._fill(shelves, missing, (), None)
        return shelves

    async def _fill(
        self,
        shelves: defaultdict[Home, Shelf],
        spans: Sequence[Rows],
        pending: Sequence[tuple[Any, str, str]],
        written_to: Sequence[str] | None,
    ) -> None:
        if not spans and not pending:
            return
        scope = self._scope
        rows = await scope.fetch(
            read_values(scope.models, of_any_user=scope.owner is ANY_USER),
            owner=scope.owner,
            span_thread_id=[home[0] for home, *_ in spans],
            span_checkpoint_ns=[home[1] for home, *_ in spans],
            span_channel=[channel for _, channel, *_ in spans],
            span_first_no=[first for *_, first, _ in spans],
            span_last_no=[last for *_, last in spans],
            pending_thread_id=[thread_id for thread_id, *_ in pending],
            pending_checkpoint_ns=[namespace for _, namespace, _ in pending],
            pending_checkpoint_id=[checkpoint_id for *_, checkpoint_id in pending],
            written_to=None if written_to is None else list(written_to),
        )
        for row in sorted(rows, key=lambda row: int(row.value_no)):
            shelves[row.thread_id, row.checkpoint_ns].put(row)


class Walk:
    """The way from a checkpoint to where its channels had values."""

    def __init__(self, channels: Sequence[str]) -> None:
        self.channels = channels
        self.open = set(channels)
        self.seeds: dict[str, Ref] = {}
        self.passed: list[str] = []
        self._known: set[str] = set()
        self._passed_by: dict[str, int] = {}
        self._histories: dict[str, History] = {}

    def begin(self, refs: Refs) -> None:
        """Start at a checkpoint, whose own values do not count, but what it has of ancestors that are gone."""
        for channel in list(self.open):
            self._inherit(channel, refs)

    def step(self, checkpoint_id: str, refs: Refs) -> bool:
        """Come by the next ancestor: what tasks wrote there is on the way, for channels that are still open.

        Returns:
            Whether to go on: channels are open, and the way is no circle, as where a checkpoint is its own parent.
        """
        if checkpoint_id in self._known:
            return False
        self._known.add(checkpoint_id)
        self.passed.append(checkpoint_id)
        for channel in list(self.open):
            self._passed_by[channel] = len(self.passed)
            if channel in refs.channels:
                self.seeds[channel] = refs.channels[channel]
                self.open.discard(channel)
            else:
                self._inherit(channel, refs)
        return bool(self.open)

    def handed(self, channel: str) -> Sequence[Handed]:
        """Writes of ancestors that are gone."""
        history = self._histories.get(channel)
        return history.writes if history is not None else ()

    def writes(self, channel: str, shelf: Shelf) -> list[PendingWrite]:
        """Writes of the ancestors, the oldest first."""
        return [
            write
            for checkpoint_id in reversed(self.passed[: self._passed_by.get(channel, 0)])
            for write in shelf.pending(checkpoint_id)
            if write.channel == channel
        ]

    def history(self, channel: str, shelf: Shelf) -> History:
        """All that was found for a channel, by references that need no ancestor."""
        passed = reversed(self.passed[: self._passed_by.get(channel, 0)])
        written = [handed for checkpoint_id in passed for handed in shelf.handed(checkpoint_id, channel)]
        return History(self.seeds.get(channel), [*self.handed(channel), *written])

    def references(self) -> list[tuple[str, Ref]]:
        """All references on the way."""
        handed = [(channel, one.ref) for channel in self._histories for one in self.handed(channel)]
        return [*self.seeds.items(), *handed]

    def _inherit(self, channel: str, refs: Refs) -> None:
        if channel in refs.history:
            history = refs.history[channel]
            self._histories[channel] = history
            if history.seed is not None:
                self.seeds[channel] = history.seed
            self.open.discard(channel)


def merged_spans(references: Iterable[tuple[Home, Iterable[tuple[str, Ref]]]]) -> list[Rows]:
    """The rows that are referred to: for each thread, namespace and channel, numbers from one to another."""
    found: defaultdict[tuple[Home, str], set[tuple[int, int]]] = defaultdict(set)
    for home, refs in references:
        for channel, ref in refs:
            if isinstance(ref, WholeRef):
                found[home, channel].add((ref.place[0], ref.place[0]))
            elif isinstance(ref, ListRef):
                found[home, channel].update((span.first[0], span.last[0]) for span in ref.spans)
    return [(home, channel, first, last) for (home, channel), spans in found.items() for first, last in _merged(spans)]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def _records(rows: Sequence[Row[Any]], refs: Sequence[Refs], shelves: Mapping[Home, Shelf]) -> list[CheckpointRecord]:
    return [_record(row, one, shelves[row.thread_id, row.checkpoint_ns]) for row, one in zip(rows, refs, strict=True)]


def _histories(walk: Walk, shelf: Shelf) -> dict[str, ChannelHistory]:
    return {
        channel: ChannelHistory(
            None if (seed := walk.seeds.get(channel)) is None else shelf.read(channel, seed),
            [
                *[(handed.task_id, shelf.read(channel, handed.ref)) for handed in walk.handed(channel)],
                *[(write.task_id, write.value) for write in walk.writes(channel, shelf)],
            ],
        )
        for channel in walk.channels
    }


def _record(row: Any, refs: Refs, shelf: Shelf) -> CheckpointRecord:
    if row.metadata is UNDECODABLE:
        raise CorruptRowError("graph_checkpoints", (row.thread_id, row.checkpoint_ns, row.checkpoint_id), "metadata")
    return CheckpointRecord(
        thread_id=row.thread_id,
        user_id=row.user_id,
        checkpoint_ns=row.checkpoint_ns,
        checkpoint_id=row.checkpoint_id,
        parent_id=row.parent_id,
        metadata=row.metadata,
        exact_metadata=None if row.exact_metadata is None else unpack_blob(row.exact_metadata),
        body=unpack_blob(row.body),
        channels={channel: shelf.read(channel, ref) for channel, ref in refs.channels.items()},
        writes=shelf.pending(row.checkpoint_id),
    )
