"""Reads checkpoints in two statements: one for the checkpoints, one for the values that they refer to.

One statement reads a checkpoint whose references are known before, as those are that this process saved or read itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import Row, literal, select, tuple_

from agent_persistence.concurrency.offload import offload
from agent_persistence.encoding.exact_json import UNDECODABLE
from agent_persistence.errors import CorruptRowError
from agent_persistence.frozen import frozen
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.checkpoints.compression import decompress_blob
from agent_persistence.repositories.checkpoints.known_graphs import NOTHING, KnownNamespace, Likely, ReadNamespace
from agent_persistence.repositories.checkpoints.loaded_rows import GoneError, LoadedRows
from agent_persistence.repositories.checkpoints.read_statements import read_checkpoint, read_values
from agent_persistence.repositories.checkpoints.records import ChannelHistory, CheckpointQuery, CheckpointRecord
from agent_persistence.repositories.checkpoints.refs import (
    NO_REFS,
    History,
    InheritedWrite,
    ListRef,
    Ref,
    Refs,
    WholeRef,
    last_number,
    read_refs,
)
from agent_persistence.sessions.scope import Query, Scope

Namespace = tuple[Any, str]
"""A thread id and a namespace of the thread."""
_ATTEMPTS: Final = 5  # a read fails only if rows are deleted between its two statements each time
_ANCESTORS_AT_ONCE: Final = 200
_MOST_NO: Final = 2**63 - 1  # of a BIGINT


@frozen
class RowRange:
    """The rows of a channel (``None``: of all channels) between two numbers, which are included.

    Attributes:
        is_whole: whether they come with their contents.
    """

    namespace: Namespace
    channel: str | None
    first: int
    last: int
    is_whole: bool = True


class CheckpointReader:
    """Reads checkpoints of one owner's threads."""

    def __init__(self, scope: Scope[Any, Any]) -> None:
        self._scope = scope
        self._checkpoint = scope.models.side_tables.graph.checkpoints

    async def latest(
        self, query: CheckpointQuery, *, limit: int, after: CheckpointRecord | None = None
    ) -> list[CheckpointRecord]:
        """Return checkpoints, the latest first.

        Args:
            query: selects the checkpoints.
            limit: the maximum number of checkpoints.
            after: the last checkpoint of the page before.

        Raises:
            CorruptRowError: a checkpoint cannot be read.
        """
        statement = self._page(query, limit, after)
        # Two statements see two snapshots: if a row was deleted in between, both are read again. A lock on the thread
        # would make each read wait for saves.
        for _ in range(_ATTEMPTS):
            rows = (await self._scope.execute(statement)).all()
            refs = [read_refs(row.refs) for row in rows]
            loaded = await self._load(
                [(_namespace(row), one.channels.items()) for row, one in zip(rows, refs, strict=True)],
                [(row.thread_id, row.checkpoint_ns, row.checkpoint_id) for row in rows],
            )
            try:
                return await offload(sum(map(len, loaded.values())), _records, rows, refs, loaded)
            except GoneError:
                continue
        raise CorruptRowError("graph_checkpoints", query.thread_id, "refs")

    async def one(self, query: CheckpointQuery, likely: Likely | None) -> ReadNamespace | None:
        """Read a checkpoint of a namespace, as each run of a graph begins; ``None`` if there is no such thread.

        Args:
            query: names the thread, the namespace, and perhaps the checkpoint.
            likely: what was known of the namespace before, of which only what changed since is read. Values that this
                does not lead to cost a second statement.

        Raises:
            CorruptRowError: the checkpoint cannot be read.
        """
        if likely is not None and likely.known.contents is None:
            likely = None
        for _ in range(_ATTEMPTS):
            head, refs, rows = await self._one(query, likely)
            if head is None:
                return None
            try:
                record = None if head.checkpoint_id is None else await offload(len(rows), _record, head, refs, rows)
            except GoneError:
                likely = None
                continue
            known = likely.known if likely is not None and head.is_unchanged else _known(head, refs, rows)
            return ReadNamespace(record, head.touched_at, known.keeping(rows.used))
        raise CorruptRowError("graph_checkpoints", query.thread_id, "refs")

    def _page(self, query: CheckpointQuery, limit: int, after: CheckpointRecord | None) -> Query:
        statement = self._select(query).limit(limit)
        if after is None:
            return statement
        position, columns = (after.checkpoint_id, after.thread_id, after.checkpoint_ns), self._order()
        literals = [literal(one, column.type) for one, column in zip(position, columns, strict=True)]
        return statement.where(tuple_(*columns) < tuple_(*literals))

    async def _one(self, query: CheckpointQuery, likely: Likely | None) -> tuple[Any | None, Refs, LoadedRows]:
        """Return a checkpoint's row, references and values, these from a second statement if nothing is known."""
        scope, namespace = self._scope, (query.thread_id, query.checkpoint_ns or "")
        known = NOTHING if likely is None else likely.known
        spans = _span_columns(ranges_to_follow(namespace, known.refs))
        rows = await scope.fetch(
            read_checkpoint(scope.models, of_any_user=scope.owner is ANY_USER, latest=query.checkpoint_id is None),
            owner=scope.owner,
            thread_id=query.thread_id,
            checkpoint_ns=query.checkpoint_ns,
            checkpoint_id=query.checkpoint_id,
            known_touched_at=None if likely is None else likely.touched_at,
            known_id=known.head,
            known_created_at=known.created_at,
            known_last_no=known.last_no,
            **{name: spans[name] for name in ("span_channel", "span_first_no", "span_last_no", "span_is_whole")},
        )
        head = next((row for row in rows if row.value_no is None), None)
        if head is None:
            return None, NO_REFS, LoadedRows()
        # In a database that was restored from a backup, rows may have numbers that others had before: what is known
        # holds if its checkpoint is still there.
        kept = known if head.is_unchanged or head.has_known else NOTHING
        loaded = defaultdict(LoadedRows, {namespace: LoadedRows(kept, is_unchanged=head.is_unchanged)})
        _add(loaded, [row for row in rows if row.value_no is not None])
        refs = known.refs
        if not head.is_unchanged:
            refs = NO_REFS if head.checkpoint_id is None else read_refs(head.refs)
        if likely is None:
            await self._load_ranges(loaded, ranges_from_first_on(namespace, refs), (), None)
        await self._load_bases(loaded)
        return head, refs, loaded[namespace]

    async def history(self, query: CheckpointQuery, channels: Sequence[str]) -> dict[str, ChannelHistory]:
        """Return the writes to channels at the ancestors of a checkpoint, since each channel had a value.

        Raises:
            CorruptRowError: the history cannot be read.
        """
        for _ in range(_ATTEMPTS):
            collector = await self.collect(query, channels)
            loaded = await self.load_history((query.thread_id, query.checkpoint_ns or ""), collector)
            try:
                return await offload(len(loaded), _histories, collector, loaded)
            except GoneError:
                continue
        raise CorruptRowError("graph_checkpoints", query.thread_id, "refs")

    async def collect(self, query: CheckpointQuery, channels: Sequence[str]) -> HistoryCollector:
        """Visit a checkpoint's ancestors until each of the channels has a value."""
        collector = HistoryCollector(channels)
        rows = (await self._scope.execute(self._select(query).limit(1))).all()
        if not rows:
            return collector
        [target] = rows
        collector.start(read_refs(target.refs))
        parent = target.parent_id
        while parent is not None and collector.open:
            # In one statement for 200 ancestors: one for each would be a round trip a step.
            ancestors = await self._ancestors(_namespace(target), parent)
            parent = None
            for row in ancestors:
                if not collector.visit(row.checkpoint_id, read_refs(row.refs)):
                    return collector
                parent = row.parent_id
        return collector

    async def load_history(self, namespace: Namespace, collector: HistoryCollector) -> LoadedRows:
        """Load the rows that a collected history consists of."""
        visited = [(*namespace, checkpoint_id) for checkpoint_id in collector.visited]
        return (await self._load([(namespace, collector.references())], visited, collector.channels))[namespace]

    async def load_value(self, namespace: Namespace, channel: str, ref: Ref) -> LoadedRows:
        """Load the rows that one reference needs."""
        return (await self._load([(namespace, [(channel, ref)])], []))[namespace]

    async def load_writes(self, namespace: Namespace, checkpoint_id: str, channels: Sequence[str]) -> LoadedRows:
        """Load the rows that tasks wrote to channels at a checkpoint."""
        return (await self._load([], [(*namespace, checkpoint_id)], channels))[namespace]

    async def _ancestors(self, namespace: Namespace, checkpoint_id: str) -> Sequence[Row[Any]]:
        """Return a checkpoint and its ancestors, the nearest first; 200 at most."""
        checkpoint = self._checkpoint
        here = (checkpoint.c.thread_id == namespace[0]) & (checkpoint.c.checkpoint_ns == namespace[1])
        chosen = [checkpoint.c.checkpoint_id, checkpoint.c.parent_id, checkpoint.c.refs]
        first = (
            select(*chosen, literal(1).label("depth"))
            .join(self._scope.threads, self._scope.threads.c.thread_id == checkpoint.c.thread_id)
            .where(here, checkpoint.c.checkpoint_id == checkpoint_id, self._scope.owns())
        )
        chain = first.cte("chain", recursive=True)
        # The depth also ends the recursion where a checkpoint is its own ancestor.
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

    async def _load(
        self,
        references: Iterable[tuple[Namespace, Iterable[tuple[str, Ref]]]],
        pending: Sequence[tuple[Any, str, str]],
        written_to: Sequence[str] | None = None,
    ) -> defaultdict[Namespace, LoadedRows]:
        loaded: defaultdict[Namespace, LoadedRows] = defaultdict(LoadedRows)
        await self._load_ranges(loaded, merged_ranges(references), pending, written_to)
        await self._load_bases(loaded)
        return loaded

    async def _load_bases(self, loaded: defaultdict[Namespace, LoadedRows]) -> None:
        # Only of rows that rest on several others, which an early version wrote; those are never deltas themselves.
        missing = [
            RowRange(namespace, None, base, base) for namespace, rows in loaded.items() for base in rows.missing_bases()
        ]
        await self._load_ranges(loaded, missing, (), None)

    async def _load_ranges(
        self,
        loaded: defaultdict[Namespace, LoadedRows],
        ranges: Sequence[RowRange],
        pending: Sequence[tuple[Any, str, str]],
        written_to: Sequence[str] | None,
    ) -> None:
        if not ranges and not pending:
            return
        scope = self._scope
        rows = await scope.fetch(
            read_values(scope.models, of_any_user=scope.owner is ANY_USER),
            owner=scope.owner,
            **_span_columns(ranges),
            pending_thread_id=[thread_id for thread_id, *_ in pending],
            pending_checkpoint_ns=[namespace for _, namespace, _ in pending],
            pending_checkpoint_id=[checkpoint_id for *_, checkpoint_id in pending],
            written_to=None if written_to is None else list(written_to),
        )
        _add(loaded, rows)


class HistoryCollector:
    """Collects the history of channels while the ancestors of a checkpoint are visited, the nearest first.

    Attributes:
        open: the channels for which no ancestor had a value yet.
        seeds: the values to which the writes are applied, by channel.
        visited: the ids of the visited ancestors.
    """

    def __init__(self, channels: Sequence[str]) -> None:
        self.channels = channels
        self.open = set(channels)
        self.seeds: dict[str, Ref] = {}
        self.visited: list[str] = []
        self._known: set[str] = set()
        self._visited_for: dict[str, int] = {}
        self._histories: dict[str, History] = {}

    def start(self, refs: Refs) -> None:
        """Start at the checkpoint itself: its values are no history, but it may hold that of deleted ancestors."""
        for channel in list(self.open):
            self._inherit(channel, refs)

    def visit(self, checkpoint_id: str, refs: Refs) -> bool:
        """Visit the next ancestor and note its writes for channels that are still open.

        Returns:
            Whether to continue: channels are open, and the ancestor was not visited before.
        """
        if checkpoint_id in self._known:
            return False
        self._known.add(checkpoint_id)
        self.visited.append(checkpoint_id)
        for channel in list(self.open):
            # Counted before the value is looked for: it is the value before the writes at this ancestor.
            self._visited_for[channel] = len(self.visited)
            if channel in refs.channels:
                self.seeds[channel] = refs.channels[channel]
                self.open.discard(channel)
            else:
                self._inherit(channel, refs)
        return bool(self.open)

    def inherited(self, channel: str) -> Sequence[InheritedWrite]:
        """Return the writes of deleted ancestors."""
        history = self._histories.get(channel)
        return history.writes if history is not None else ()

    def ancestors(self, channel: str) -> Iterable[str]:
        """Return the ids of the ancestors with writes to a channel, the oldest first."""
        return reversed(self.visited[: self._visited_for.get(channel, 0)])

    def history(self, channel: str, loaded: LoadedRows) -> History:
        """Return the whole history of a channel as references, which stay valid without the ancestors."""
        written = [write for one in self.ancestors(channel) for write in loaded.inherited(one, channel)]
        return History(self.seeds.get(channel), [*self.inherited(channel), *written])

    def references(self) -> list[tuple[str, Ref]]:
        """Return the references to seeds and to writes of deleted ancestors, with their channels."""
        inherited = [(channel, write.ref) for channel in self._histories for write in self.inherited(channel)]
        return [*self.seeds.items(), *inherited]

    def _inherit(self, channel: str, refs: Refs) -> None:
        if channel in refs.history:
            history = refs.history[channel]
            self._histories[channel] = history
            if history.seed is not None:
                self.seeds[channel] = history.seed
            self.open.discard(channel)


def merged_ranges(references: Iterable[tuple[Namespace, Iterable[tuple[str, Ref]]]]) -> list[RowRange]:
    """Return the ranges of rows that references need; ranges that touch are merged."""
    found: defaultdict[tuple[Namespace, str], set[tuple[int, int]]] = defaultdict(set)
    for namespace, refs in references:
        for channel, ref in refs:
            if isinstance(ref, WholeRef):
                found[namespace, channel].add((ref.position[0], ref.position[0]))
            elif isinstance(ref, ListRef):
                found[namespace, channel].update((span.first[0], span.last[0]) for span in ref.spans)
    return [RowRange(*key, first, last) for key, ranges in found.items() for first, last in _merged(ranges)]


def ranges_from_first_on(namespace: Namespace, refs: Refs) -> list[RowRange]:
    """Return the ranges of rows that references need, of each channel, and of those between and behind them.

    Those come without their contents: a save compares their fingerprints with what it saves.
    """
    found: list[RowRange] = []
    for channel, ref in refs.stored():
        needed = merged_ranges([(namespace, [(channel, ref)])])
        between = [(one.last + 1, following.first - 1) for one, following in pairwise(needed)]
        between.append((needed[-1].last + 1, _MOST_NO))
        found += [*needed, *(RowRange(namespace, channel, *one, is_whole=False) for one in between)]
    return found


def ranges_to_follow(namespace: Namespace, refs: Refs) -> list[RowRange]:
    """Return the ranges of rows of the channels of references whose contents are known, from the first row on.

    With their contents come only those behind the known ones, of lists: that is where another process lets them grow.
    """
    found: list[RowRange] = []
    last = last_number(refs, {})
    for channel, ref in refs.stored():
        is_list = isinstance(ref, ListRef)
        first = min(span.first[0] for span in ref.spans) if isinstance(ref, ListRef) else ref.position[0]
        found += [
            RowRange(namespace, channel, first, last, is_whole=False),
            RowRange(namespace, channel, last + 1, _MOST_NO, is_whole=is_list),
        ]
    return found


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def _span_columns(ranges: Sequence[RowRange]) -> dict[str, list[Any]]:
    return {
        "span_thread_id": [one.namespace[0] for one in ranges],
        "span_checkpoint_ns": [one.namespace[1] for one in ranges],
        "span_channel": [one.channel for one in ranges],
        "span_first_no": [one.first for one in ranges],
        "span_last_no": [one.last for one in ranges],
        "span_is_whole": [one.is_whole for one in ranges],
    }


def _add(loaded: defaultdict[Namespace, LoadedRows], rows: Sequence[Any]) -> None:
    # Sorted here: the server would have to sort contents too.
    for row in sorted(rows, key=lambda row: int(row.value_no)):
        loaded[_namespace(row)].add(row)


def _namespace(row: Any) -> Namespace:
    return row.thread_id, row.checkpoint_ns


def _histories(collector: HistoryCollector, loaded: LoadedRows) -> dict[str, ChannelHistory]:
    return {
        channel: ChannelHistory(
            None if (seed := collector.seeds.get(channel)) is None else loaded.resolve(channel, seed),
            [
                *[(write.task_id, loaded.resolve(channel, write.ref)) for write in collector.inherited(channel)],
                *[
                    (write.task_id, write.value)
                    for checkpoint_id in collector.ancestors(channel)
                    for write in loaded.pending(checkpoint_id)
                    if write.channel == channel
                ],
            ],
        )
        for channel in collector.channels
    }


def _known(head: Any, refs: Refs, rows: LoadedRows) -> KnownNamespace:
    items = {channel: rows.items(channel, up_to=head.last_no) for channel, _ in refs.stored()}
    return KnownNamespace(head.checkpoint_id, head.created_at, refs, items, None, head.last_no, None, head.last_no)


def _records(
    rows: Sequence[Any], refs: Sequence[Refs], loaded: Mapping[Namespace, LoadedRows]
) -> list[CheckpointRecord]:
    return [_record(row, one, loaded[_namespace(row)]) for row, one in zip(rows, refs, strict=True)]


def _record(row: Any, refs: Refs, loaded: LoadedRows) -> CheckpointRecord:
    if row.metadata is UNDECODABLE:
        raise CorruptRowError("graph_checkpoints", (row.thread_id, row.checkpoint_ns, row.checkpoint_id), "metadata")
    return CheckpointRecord(
        thread_id=row.thread_id,
        user_id=row.user_id,
        checkpoint_ns=row.checkpoint_ns,
        checkpoint_id=row.checkpoint_id,
        parent_id=row.parent_id,
        metadata=row.metadata,
        exact_metadata=None if row.exact_metadata is None else decompress_blob(row.exact_metadata),
        body=decompress_blob(row.body),
        channels={channel: loaded.resolve(channel, ref) for channel, ref in refs.channels.items()},
        writes=loaded.pending(row.checkpoint_id),
    )
