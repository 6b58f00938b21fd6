"""Deletes checkpoints and the values that only they need; the remaining checkpoints read as before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Row, Text, any_, cast, delete, exists, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB

from agent_persistence.errors import ThreadNotFoundError
from agent_persistence.repositories.checkpoints.compression import DELTA, HEAD_BYTES, bases_of
from agent_persistence.repositories.checkpoints.reader import CheckpointReader, Namespace, RowRange, merged_ranges
from agent_persistence.repositories.checkpoints.records import CheckpointQuery
from agent_persistence.repositories.checkpoints.refs import Ref, read_refs, write_refs
from agent_persistence.repositories.locks import lock_thread, nudge_thread, unnest
from agent_persistence.sessions.scope import Query, Scope

_PAGE: Final = 500
CHECKPOINTS_A_BATCH: Final = 1000
"""Of the purge; a transaction must stay short."""
_COUNTERS: Final = "counters_since_delta_snapshot"  # LangGraph's key of the metadata that names the ``DeltaChannel``s


class CheckpointPruner:
    """Deletes checkpoints of one thread within one unit of work. Call ``lock`` first."""

    def __init__(self, scope: Scope[Any, Any], thread_id: Any) -> None:
        self._scope = scope
        self._thread_id = thread_id
        self._checkpoint = scope.models.side_tables.graph.checkpoints
        self._values = scope.models.side_tables.graph.values
        self._here = self._checkpoint.c.thread_id == thread_id

    async def lock(self) -> bool:
        """Lock the thread; return whether it exists."""
        try:
            await lock_thread(self._scope, self._thread_id)
        except ThreadNotFoundError:
            return False
        await nudge_thread(self._scope, self._thread_id)
        return True

    async def all(self) -> None:
        """Delete all checkpoints of the thread."""
        await self._scope.execute(delete(self._checkpoint).where(self._here))
        await self._scope.execute(delete(self._values).where(self._values.c.thread_id == self._thread_id))

    async def all_but_latest(self) -> None:
        """Keep the latest checkpoint of each namespace."""
        checkpoint, values = self._checkpoint, self._values
        # One sort. The alternative, a join with the newest ids, compares all rows with all if PostgreSQL's statistics
        # take the thread for small.
        rank = func.row_number().over(
            partition_by=checkpoint.c.checkpoint_ns, order_by=checkpoint.c.checkpoint_id.desc()
        )
        ranked = select(*checkpoint.c, rank.label("rank")).where(self._here).subquery()
        heads = (await self._scope.execute(select(ranked).where(ranked.c.rank == 1))).all()
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
        """Delete the checkpoints of runs."""
        checkpoint = self._checkpoint
        of_runs = checkpoint.c.run_id == any_(literal(list(run_ids), ARRAY(Text())))
        await self._delete(await self._keys(of_runs))

    async def old(self, keep_last: int, older_than: datetime | None) -> int:
        """Delete old checkpoints, a thousand at most and the calls of subgraphs that they made; return their number.

        Args:
            keep_last: how many of the newest checkpoints of each namespace stay.
            older_than: delete only those that were saved before this time.
        """
        doomed = await self._old_keys(keep_last, older_than, limit=CHECKPOINTS_A_BATCH)
        await self._delete(doomed)
        return len(doomed)

    async def count_old(self, keep_last: int, older_than: datetime | None) -> int:
        """Count what ``old`` deletes when it is called until nothing is left."""
        return len(await self._old_keys(keep_last, older_than, limit=None))

    async def _old_keys(
        self, keep_last: int, older_than: datetime | None, *, limit: int | None
    ) -> set[tuple[str, str]]:
        checkpoint = self._checkpoint
        key = checkpoint.c.checkpoint_ns, checkpoint.c.checkpoint_id
        rank = func.row_number().over(partition_by=key[0], order_by=key[1].desc()).label("rank")
        ranked = select(*key, checkpoint.c.created_at, rank).where(self._here).subquery()
        due = select(ranked.c.checkpoint_ns, ranked.c.checkpoint_id).where(ranked.c.rank > keep_last)
        if older_than is not None:
            due = due.where(ranked.c.created_at < older_than)
        rows = (await self._scope.execute(due.order_by(ranked.c.rank.desc()).limit(limit))).all()
        doomed = {(row.checkpoint_ns, row.checkpoint_id) for row in rows}
        roots = [checkpoint_id for namespace, checkpoint_id in doomed if not namespace]
        caller = cast(checkpoint.c.metadata, JSONB)["parents"][""].astext
        is_call = checkpoint.c.checkpoint_ns.contains(":") & (caller == any_(literal(roots, ARRAY(Text()))))
        doomed.update(await self._keys(is_call) if roots else ())
        return doomed

    async def _keys(self, condition: Any) -> set[tuple[str, str]]:
        key = self._checkpoint.c.checkpoint_ns, self._checkpoint.c.checkpoint_id
        rows = await self._scope.execute(select(*key).where(self._here, condition))
        return {(row.checkpoint_ns, row.checkpoint_id) for row in rows.all()}

    async def _delete(self, keys: Collection[tuple[str, str]]) -> None:
        """Delete checkpoints, and the values that only they need."""
        if not keys:
            return
        checkpoint = self._checkpoint
        doomed = _rows(
            "doomed",
            checkpoint_ns=(Text(), [namespace for namespace, _ in keys]),
            checkpoint_id=(Text(), [checkpoint_id for _, checkpoint_id in keys]),
        )
        same = doomed.c.checkpoint_ns == checkpoint.c.checkpoint_ns
        is_doomed = exists().where(same, doomed.c.checkpoint_id == checkpoint.c.checkpoint_id)
        has_lost_parent = exists().where(same, doomed.c.checkpoint_id == checkpoint.c.parent_id)
        orphans = select(*checkpoint.c).where(self._here, ~is_doomed, has_lost_parent)
        for row in (await self._scope.execute(orphans)).all():
            await self._cut_off(row)
        # Read before the deletion: see _sweep for why the newest checkpoint counts even if it goes.
        newest = {row.checkpoint_ns: row.newest for row in (await self._scope.execute(self._newest_ids())).all()}
        await self._scope.execute(delete(checkpoint).where(self._here, is_doomed))
        await self._sweep(newest)

    async def _calls_of_others(self, heads: Sequence[Row[Any]]) -> set[str]:
        """Return the namespaces of subgraph calls by a checkpoint that exists and is not the latest.

        The namespace of a call contains ``:`` and the id of its task. If the calling checkpoint is not saved yet, the
        call may still run, so its namespace is kept.
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
        """Make a checkpoint readable without its ancestors: copy the references of its ``DeltaChannel``s into it."""
        refs = read_refs(row.refs)
        counters = row.metadata.get(_COUNTERS) if isinstance(row.metadata, Mapping) else None
        channels = [channel for channel in counters or () if channel not in refs.channels]
        if channels:
            query = CheckpointQuery(row.thread_id, row.checkpoint_ns, row.checkpoint_id)
            reader = CheckpointReader(self._scope)
            collector = await reader.collect(query, channels)
            loaded = await reader.load_history((row.thread_id, row.checkpoint_ns), collector)
            refs = replace(refs, history={channel: collector.history(channel, loaded) for channel in channels})
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

        Args:
            newest: by namespace, the id of the newest checkpoint before the deletion. Writes at newer checkpoints stay:
                runs save in the background, so the checkpoint may not be saved yet.
        """
        values = self._values
        ranges = merged_ranges(await self._references())
        found = await self._bases(ranges)
        bases = _rows(
            "base",
            checkpoint_ns=(Text(), [namespace for namespace, _ in found]),
            value_no=(BigInteger(), [number for _, number in found]),
        )
        known = _newest(newest)
        is_base = exists().where(bases.c.checkpoint_ns == values.c.checkpoint_ns, bases.c.value_no == values.c.value_no)
        await self._scope.execute(
            delete(values).where(
                values.c.thread_id == self._thread_id,
                values.c.checkpoint_ns == known.c.checkpoint_ns,
                values.c.checkpoint_id.is_(None) | (values.c.checkpoint_id <= known.c.newest),
                ~self._of_a_checkpoint(),
                ~self._is_referred(ranges),
                ~is_base,
            )
        )

    async def _bases(self, ranges: Sequence[RowRange]) -> list[tuple[str, int]]:
        """Return namespace and number of the rows that remaining deltas rest on."""
        values = self._values
        statement = select(values.c.checkpoint_ns, func.substr(values.c.content, 1, HEAD_BYTES).label("head")).where(
            values.c.thread_id == self._thread_id, func.substr(values.c.content, 1, len(DELTA)) == DELTA
        )
        found: list[tuple[str, int]] = []
        # Two statements: PostgreSQL makes no semi-joins of two EXISTS in an OR, but tests each row.
        for is_kept in (self._of_a_checkpoint(), self._is_referred(ranges)):
            rows = (await self._scope.execute(statement.where(is_kept))).all()
            found += [(row.checkpoint_ns, base) for row in rows for base in bases_of(row.head)]
        return found

    def _of_a_checkpoint(self) -> Any:
        """Return the condition that a task wrote the row at a checkpoint that exists."""
        checkpoint, values = self._checkpoint, self._values
        return exists().where(
            checkpoint.c.thread_id == values.c.thread_id,
            checkpoint.c.checkpoint_ns == values.c.checkpoint_ns,
            checkpoint.c.checkpoint_id == values.c.checkpoint_id,
        )

    def _is_referred(self, ranges: Sequence[RowRange]) -> Any:
        """Return the condition that the row lies in one of the ranges."""
        values = self._values
        kept = _rows(
            "kept",
            checkpoint_ns=(Text(), [one.namespace[1] for one in ranges]),
            channel=(Text(), [one.channel for one in ranges]),
            first_no=(BigInteger(), [one.first for one in ranges]),
            last_no=(BigInteger(), [one.last for one in ranges]),
        )
        return exists().where(
            kept.c.checkpoint_ns == values.c.checkpoint_ns,
            kept.c.channel == values.c.channel,
            values.c.value_no.between(kept.c.first_no, kept.c.last_no),
        )

    async def _references(self) -> list[tuple[Namespace, list[tuple[str, Ref]]]]:
        """Return the references of all checkpoints of the thread, without duplicates."""
        checkpoint = self._checkpoint
        found: defaultdict[Namespace, dict[tuple[str, str], tuple[str, Ref]]] = defaultdict(dict)
        key = tuple_(checkpoint.c.checkpoint_ns, checkpoint.c.checkpoint_id)
        page = select(checkpoint.c.checkpoint_ns, checkpoint.c.checkpoint_id, checkpoint.c.refs).where(self._here)
        page = page.order_by(checkpoint.c.checkpoint_ns, checkpoint.c.checkpoint_id).limit(_PAGE)
        after = page
        while rows := (await self._scope.execute(after)).all():
            for row in rows:
                for channel, ref in read_refs(row.refs).all():
                    # Most checkpoints share references: memory grows with the distinct ones only.
                    found[self._thread_id, row.checkpoint_ns][channel, repr(ref)] = channel, ref
            after = page.where(key > tuple_(literal(rows[-1].checkpoint_ns), literal(rows[-1].checkpoint_id)))
        return [(namespace, list(refs.values())) for namespace, refs in found.items()]


def _root_of(metadata: Any) -> str | None:
    parents = metadata.get("parents") if isinstance(metadata, Mapping) else None
    root = parents.get("") if isinstance(parents, Mapping) else None
    return root if isinstance(root, str) else None


def _newest(newest: Mapping[str, str]) -> Any:
    return _rows("known", checkpoint_ns=(Text(), list(newest)), newest=(Text(), list(newest.values())))


def _rows(name: str, **columns: tuple[Any, list[Any]]) -> Any:
    # Arrays, because their length is not limited: a statement can have 32,767 parameters.
    return unnest(
        name, numbered=False, **{column: literal(values, ARRAY(kind)) for column, (kind, values) in columns.items()}
    )
