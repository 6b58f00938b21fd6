"""Deleting checkpoints: what remains reads as before, and nothing stays that nobody can read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Row,
    Text,
    any_,
    column,
    delete,
    exists,
    false,
    func,
    literal,
    select,
    tuple_,
    update,
)

from agent_persistence.errors import ThreadNotFoundError
from agent_persistence.repositories.checkpoints.packing import HEAD_BYTES, LIKE_ROWS, bases_of
from agent_persistence.repositories.checkpoints.reader import CheckpointReader, Home, Rows, merged_spans
from agent_persistence.repositories.checkpoints.records import CheckpointQuery
from agent_persistence.repositories.checkpoints.refs import Ref, Refs, read_refs, write_refs
from agent_persistence.repositories.locks import lock_thread
from agent_persistence.sessions.scope import Query, Scope

_AT_ONCE: Final = 500
COUNTERS: Final = "counters_since_delta_snapshot"
"""The key of the metadata that names the channels whose values are to be found at ancestors."""


class CheckpointPruner:
    """Deletes within one unit of work, under the lock of one thread."""

    def __init__(self, scope: Scope[Any, Any], thread_id: Any) -> None:
        self._scope = scope
        self._thread_id = thread_id
        self._checkpoint = scope.models.side_tables.graph.checkpoints
        self._values = scope.models.side_tables.graph.values
        self._here = self._checkpoint.c.thread_id == thread_id

    async def lock(self) -> bool:
        """Lock the thread; say whether it is there."""
        try:
            await lock_thread(self._scope, self._thread_id)
        except ThreadNotFoundError:
            return False
        return True

    async def all(self) -> None:
        """Delete all checkpoints of the thread."""
        await self._scope.execute(delete(self._checkpoint).where(self._here))
        await self._scope.execute(delete(self._values).where(self._values.c.thread_id == self._thread_id))

    async def all_but_latest(self) -> None:
        """Keep the latest checkpoint of each namespace."""
        checkpoint, values = self._checkpoint, self._values
        # By one sort: a join with the newest ids compares all with all where PostgreSQL takes the thread for small.
        place = func.row_number().over(
            partition_by=checkpoint.c.checkpoint_ns, order_by=checkpoint.c.checkpoint_id.desc()
        )
        ranked = select(*checkpoint.c, place.label("place")).where(self._here).subquery()
        heads = (await self._scope.execute(select(ranked).where(ranked.c.place == 1))).all()
        calls = await self._calls_of_others(heads)
        kept = [head for head in heads if head.checkpoint_ns not in calls]
        for head in kept:
            await self._cut_off(head)
        newest = {head.checkpoint_ns: head.checkpoint_id for head in kept}
        known = _newest(newest)
        is_head = exists().where(
            known.c.checkpoint_ns == checkpoint.c.checkpoint_ns, known.c.newest == checkpoint.c.checkpoint_id
        )
        await self._scope.execute(delete(checkpoint).where(self._here, ~is_head))
        if calls:
            in_calls = values.c.checkpoint_ns == any_(literal(sorted(calls), ARRAY(Text())))
            await self._scope.execute(delete(values).where(values.c.thread_id == self._thread_id, in_calls))
        await self._sweep(newest)

    async def runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that these runs have made."""
        checkpoint = self._checkpoint
        of_runs = checkpoint.c.run_id == any_(literal(list(run_ids), ARRAY(Text())))
        parent = checkpoint.alias("parent")
        lose_parent = (
            select(*checkpoint.c)
            .join(
                parent,
                (parent.c.thread_id == checkpoint.c.thread_id)
                & (parent.c.checkpoint_ns == checkpoint.c.checkpoint_ns)
                & (parent.c.checkpoint_id == checkpoint.c.parent_id),
            )
            .where(
                self._here,
                ~func.coalesce(of_runs, false()),
                parent.c.run_id == any_(literal(list(run_ids), ARRAY(Text()))),
            )
        )
        for row in (await self._scope.execute(lose_parent)).all():
            await self._cut_off(row)
        newest = {row.checkpoint_ns: row.newest for row in (await self._scope.execute(self._newest_ids())).all()}
        await self._scope.execute(delete(checkpoint).where(self._here, of_runs))
        await self._sweep(newest)

    async def _calls_of_others(self, heads: Sequence[Row[Any]]) -> set[str]:
        """The namespaces of subgraphs that were called by a checkpoint that is there, but is not the latest.

        The namespace of a call ends in its task's id. Of a graph that is not there yet, a call may be under way.
        """
        checkpoint = self._checkpoint
        latest = {head.checkpoint_id for head in heads if not head.checkpoint_ns}
        callers = {
            head.checkpoint_ns: root
            for head in heads
            if ":" in head.checkpoint_ns and (root := _root_of(head.metadata)) is not None and root not in latest
        }
        is_caller = checkpoint.c.checkpoint_id == any_(literal(sorted(set(callers.values())), ARRAY(Text())))
        roots = select(checkpoint.c.checkpoint_id).where(self._here, checkpoint.c.checkpoint_ns == "", is_caller)
        there = set((await self._scope.execute(roots)).scalars()) if callers else set()
        return {namespace for namespace, root in callers.items() if root in there}

    async def _cut_off(self, row: Row[Any]) -> None:
        """Make a checkpoint readable without its ancestors."""
        refs = read_refs(row.refs)
        counters = row.metadata.get(COUNTERS) if isinstance(row.metadata, Mapping) else None
        channels = [channel for channel in counters or () if channel not in refs.channels]
        if channels:
            query = CheckpointQuery(row.thread_id, row.checkpoint_ns, row.checkpoint_id)
            reading = CheckpointReader(self._scope)
            walk = await reading.walk(query, channels)
            shelf = await reading.resolve((row.thread_id, row.checkpoint_ns), walk)
            refs = Refs(refs.channels, {channel: walk.history(channel, shelf) for channel in channels})
        checkpoint = self._checkpoint
        await self._scope.execute(
            update(checkpoint)
            .where(
                self._here,
                checkpoint.c.checkpoint_ns == row.checkpoint_ns,
                checkpoint.c.checkpoint_id == row.checkpoint_id,
            )
            .values(parent_id=None, refs=write_refs(refs))
        )

    def _newest_ids(self) -> Query:
        checkpoint = self._checkpoint
        newest = func.max(checkpoint.c.checkpoint_id).label("newest")
        return select(checkpoint.c.checkpoint_ns, newest).where(self._here).group_by(checkpoint.c.checkpoint_ns)

    async def _sweep(self, newest: Mapping[str, str]) -> None:
        """Delete values that no checkpoint refers to.

        What is written at a checkpoint newer than all of its namespace stays: a run saves in the background, and such a
        checkpoint may be on its way. What a checkpoint brought came with it.
        """
        values = self._values
        spans = merged_spans(await self._references())
        bases = _rows("base", *_numbers(await self._bases(spans)))
        known = _newest(newest)
        is_base = exists().where(bases.c.checkpoint_ns == values.c.checkpoint_ns, bases.c.value_no == values.c.value_no)
        await self._scope.execute(
            delete(values).where(
                values.c.thread_id == self._thread_id,
                values.c.checkpoint_ns == known.c.checkpoint_ns,
                values.c.checkpoint_id.is_(None) | (values.c.checkpoint_id <= known.c.newest),
                ~self._of_a_checkpoint(),
                ~self._is_referred(spans),
                ~is_base,
            )
        )

    async def _bases(self, spans: Sequence[Rows]) -> set[tuple[str, int]]:
        """The rows that others, which are kept, are stored as what distinguishes them from."""
        values = self._values
        statement = select(values.c.checkpoint_ns, func.substr(values.c.content, 1, HEAD_BYTES).label("head")).where(
            values.c.thread_id == self._thread_id, func.substr(values.c.content, 1, len(LIKE_ROWS)) == LIKE_ROWS
        )
        found: set[tuple[str, int]] = set()
        for is_kept in (self._of_a_checkpoint(), self._is_referred(spans)):
            rows = (await self._scope.execute(statement.where(is_kept))).all()
            found.update((row.checkpoint_ns, base) for row in rows for base in bases_of(row.head))
        return found

    def _of_a_checkpoint(self) -> Any:
        """Whether a task wrote a row at a checkpoint that is there."""
        checkpoint, values = self._checkpoint, self._values
        return exists().where(
            checkpoint.c.thread_id == values.c.thread_id,
            checkpoint.c.checkpoint_ns == values.c.checkpoint_ns,
            checkpoint.c.checkpoint_id == values.c.checkpoint_id,
        )

    def _is_referred(self, spans: Sequence[Rows]) -> Any:
        values, kept = self._values, _spans(spans)
        return exists().where(
            kept.c.checkpoint_ns == values.c.checkpoint_ns,
            kept.c.channel == values.c.channel,
            values.c.value_no.between(kept.c.first_no, kept.c.last_no),
        )

    async def _references(self) -> list[tuple[Home, list[tuple[str, Ref]]]]:
        """All references of the thread's checkpoints, read in batches, each written down once."""
        checkpoint = self._checkpoint
        found: defaultdict[Home, dict[tuple[str, str], tuple[str, Ref]]] = defaultdict(dict)
        key = tuple_(checkpoint.c.checkpoint_ns, checkpoint.c.checkpoint_id)
        page = select(checkpoint.c.checkpoint_ns, checkpoint.c.checkpoint_id, checkpoint.c.refs).where(self._here)
        page = page.order_by(checkpoint.c.checkpoint_ns, checkpoint.c.checkpoint_id).limit(_AT_ONCE)
        after = page
        while rows := (await self._scope.execute(after)).all():
            for row in rows:
                for channel, ref in read_refs(row.refs).all():
                    found[self._thread_id, row.checkpoint_ns][channel, repr(ref)] = channel, ref
            after = page.where(key > tuple_(literal(rows[-1].checkpoint_ns), literal(rows[-1].checkpoint_id)))
        return [(home, list(refs.values())) for home, refs in found.items()]


def _root_of(metadata: Any) -> str | None:
    parents = metadata.get("parents") if isinstance(metadata, Mapping) else None
    root = parents.get("") if isinstance(parents, Mapping) else None
    return root if isinstance(root, str) else None


def _spans(spans: Sequence[Rows]) -> Any:
    return _rows(
        "kept",
        ("checkpoint_ns", Text(), [home[1] for home, *_ in spans]),
        ("channel", Text(), [channel for _, channel, *_ in spans]),
        ("first_no", BigInteger(), [first for *_, first, _ in spans]),
        ("last_no", BigInteger(), [last for *_, last in spans]),
    )


def _newest(newest: Mapping[str, str]) -> Any:
    return _rows("known", ("checkpoint_ns", Text(), list(newest)), ("newest", Text(), list(newest.values())))


def _numbers(rows: Iterable[tuple[str, int]]) -> list[tuple[str, Any, list[Any]]]:
    found = list(rows)
    return [
        ("checkpoint_ns", Text(), [namespace for namespace, _ in found]),
        ("value_no", BigInteger(), [number for _, number in found]),
    ]


def _rows(name: str, *columns: tuple[str, Any, list[Any]]) -> Any:
    arrays = [literal(values, ARRAY(kind)) for _, kind, values in columns]
    return func.unnest(*arrays).table_valued(*[column(each, kind) for each, kind, _ in columns]).render_derived(name)
