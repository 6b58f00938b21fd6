"""Checkpoints and writes of tasks, checked and encoded as the parameters of one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from agent_persistence.concurrency.offload import offload
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.checkpoints.changes import Changes
from agent_persistence.repositories.checkpoints.compression import compress_blob, size_of
from agent_persistence.repositories.checkpoints.known_graphs import NOTHING, KnownNamespace, KnownThread
from agent_persistence.repositories.checkpoints.records import NewCheckpoint, NewWrites, all_items
from agent_persistence.repositories.checkpoints.refs import Refs, WholeRef, head_of_refs, numbers_after, write_refs
from agent_persistence.repositories.checkpoints.value_rows import NewValue, NewValueRow, Task, new_value_rows
from agent_persistence.sessions.scope import Scope

INPUT: Final = "__start__"  # LangGraph's channel of a run's input
_INPUT_TASK_PATH: Final = f"~__pregel_pull, {INPUT}"  # of a run's first task, which writes the input to other channels
_CHECKPOINT_COLUMNS: Final = (
    "checkpoint_id",
    "parent_id",
    "run_id",
    "metadata",
    "exact_metadata",
    "body",
    "refs_head",
    "refs",
)
_ITEM_COLUMNS: Final = [
    f"item_{name}"
    for name in (
        "thread_id",
        "owner",
        "checkpoint_ns",
        "expected_touch",
        "expected_last_no",
        "parent_created_at",
        "claims",
        *_CHECKPOINT_COLUMNS,
    )
]


@dataclass(frozen=True, slots=True)
class Expected:
    """The state of a namespace that a save was prepared for. In another state, the save is refused and prepared again.

    Attributes:
        touched_at: the thread's ``updated_at``.
        namespace: what is known of the namespace; ``None`` if nothing is.
        claims: whether the save sets ``updated_at``, because another process may know the thread too.
    """

    touched_at: datetime
    namespace: KnownNamespace | None
    claims: bool


@dataclass(frozen=True, slots=True, repr=False)  # a repr would show a user's state
class PreparedSave:
    """Writes of tasks, and perhaps a checkpoint after them, with its new values.

    Attributes:
        rows: the values that are not stored yet.
        written_at: for each row the checkpoint at which a task wrote it; ``None`` for a checkpoint's own value.
        checkpoint: the columns of the checkpoint; ``None`` if there is none.
        refs: its references, in which new rows are numbered from ``last_no`` + 1 on.
        expected: what it was prepared from; ``None`` if it depends on nothing.
    """

    thread_id: Any
    owner: Any
    checkpoint_ns: str
    rows: Sequence[NewValueRow]
    written_at: Sequence[str | None]
    checkpoint: dict[str, Any] | None = None
    refs: Refs | None = None
    last_no: int = 0
    expected: Expected | None = None

    def after(self, before: PreparedSave | None) -> PreparedSave:
        """Return this together with writes that come before it, from whose rows on its own are numbered."""
        if before is None:
            return self
        return replace(self, rows=[*before.rows, *self.rows], written_at=[*before.written_at, *self.written_at])

    def applied_to(self, place: KnownNamespace, row: Any) -> KnownNamespace:
        """Return what is known of the namespace once this is committed, given the row that the statement returned."""
        numbers = row.numbers or []
        place = place.with_rows(self.rows, numbers)
        if self.refs is None or self.checkpoint is None:
            return place
        refs = self.refs.renumbered(numbers_after(self.last_no, numbers))
        ref = refs.channels.get(INPUT)
        kept = None
        if isinstance(ref, WholeRef):
            number = ref.position[0]
            contents = {one: new.plain for one, new in zip(numbers, self.rows, strict=True)}
            contents.update([place.input] if place.input else [])
            kept = (number, contents[number]) if number in contents else None
        return replace(place, head=self.checkpoint["checkpoint_id"], created_at=row.created_at, refs=refs, input=kept)


def columns_of_saves(saves: Sequence[PreparedSave]) -> dict[str, Any]:
    """Return the parameters of ``save_graphs``, which for one save are those of one item."""
    columns = [*zip(*map(_item_of, saves), strict=True)]
    given = [column[0] if len(saves) == 1 else [*column] for column in columns]
    items = dict(zip(_ITEM_COLUMNS, given, strict=True))
    rows = [row for one in saves for row in one.rows]
    return {
        "thread_ids": items["item_thread_id"],
        "owners": items["item_owner"],
        **items,
        "new_thread_id": [one.thread_id for one in saves for _ in one.rows],
        "new_written_at": [written_at for one in saves for written_at in one.written_at],
        "new_channel": [row.channel for row in rows],
        "new_cells": [row.cells for row in rows],
        "new_content": [row.content for row in rows],
    }


def _item_of(save: PreparedSave) -> tuple[Any, ...]:
    """Return what ``save_graphs`` is told of a save, in the order of ``_ITEM_COLUMNS``."""
    expected, checkpoint = save.expected, save.checkpoint
    place = None if expected is None else expected.namespace
    return (
        save.thread_id,
        None if save.owner is ANY_USER else save.owner,
        save.checkpoint_ns,
        None if expected is None else expected.touched_at,
        None if place is None else place.last_no,
        None if place is None or checkpoint is None else place.created_at,
        expected is None or expected.claims,
        *[None if checkpoint is None else checkpoint[name] for name in _CHECKPOINT_COLUMNS],
    )


async def checkpoint_to_save(
    scope: Scope[Any, Any],
    new: NewCheckpoint,
    changes: Changes,
    last_no: int,
    *,
    before: PreparedSave | None = None,
    expected: Expected | None = None,
) -> PreparedSave:
    """Encode a checkpoint after its changes were compared.

    Args:
        last_no: a number that is not less than that of any stored row of the namespace.
        before: writes that the same statement saves before it.

    Raises:
        InvalidInputError: the metadata cannot be stored.
    """
    rows = await rows_of(changes.values)
    written = 0 if before is None else len(before.rows)
    refs = changes.refs(rows, last_no + written)
    checkpoint = {
        "checkpoint_id": new.checkpoint_id,
        "parent_id": new.parent_id,
        "run_id": new.run_id,
        "metadata": scope.encoded(dict(new.metadata), "metadata"),
        "exact_metadata": None if new.exact_metadata is None else compress_blob(new.exact_metadata),
        "body": compress_blob(new.body),
        "refs_head": head_of_refs(last_no, written + len(rows)),
        "refs": write_refs(refs),
    }
    save = PreparedSave(
        new.thread_id, scope.owner, new.checkpoint_ns, rows, [None] * len(rows), checkpoint, refs, last_no, expected
    )
    return save.after(before)


async def writes_to_save(
    scope: Scope[Any, Any], new: NewWrites, base: tuple[int, bytes] | None, expected: Expected | None = None
) -> PreparedSave:
    """Encode the writes of a task; see ``new_value_rows`` for ``base``."""
    rows = await rows_of(values_of(new), Task(new.task_id, new.task_path), base)
    written_at = [new.checkpoint_id] * len(rows)
    return PreparedSave(new.thread_id, scope.owner, new.checkpoint_ns, rows, written_at, expected=expected)


async def rows_of(
    values: Sequence[NewValue], task: Task | None = None, base: tuple[int, bytes] | None = None
) -> list[NewValueRow]:
    """Make rows of values; of many bytes in a thread."""
    return await offload(sum(size_of(value.items) for value in values), new_value_rows, values, task, base)


def values_of(new: NewWrites) -> list[NewValue]:
    """Return the values that a task wrote."""
    return [
        NewValue(channel, idx, is_list=False, items=[written])
        if isinstance(written, tuple)
        else NewValue(channel, idx, is_list=True, items=all_items(written))
        for idx, channel, written in new.writes
    ]


def repeats_input(new: NewWrites) -> bool:
    """Whether writes may repeat the run's input."""
    # Only here: a delta costs two statements, and other writes seldom repeat a stored value (docs/adr/0016).
    return new.task_path == _INPUT_TASK_PATH and not all(value.is_small for value in values_of(new))


async def known_checkpoint(
    scope: Scope[Any, Any], new: NewCheckpoint, thread: KnownThread | None, before: PreparedSave | None
) -> tuple[PreparedSave, Changes] | None:
    """Prepare a checkpoint from what is known of its namespace; ``None`` if too little is.

    Args:
        before: writes that the same statement saves before it.
    """
    if thread is None:
        return None
    place = thread.namespaces.get(new.checkpoint_ns)
    if place is None and before is None and new.parent_id is None:
        place = NOTHING  # the statement checks that there are no rows
    if place is None or place.head != new.parent_id:
        return None
    changes = Changes(new, place.refs)
    if not all(map(place.knows, changes.lists)):
        return None
    changes.compare((place if before is None else place.with_next(before.rows)).items, place.seam)
    expected = Expected(thread.touched_at, place, thread.is_shared)
    return await checkpoint_to_save(scope, new, changes, place.last_no, before=before, expected=expected), changes


async def known_writes(
    scope: Scope[Any, Any], new: NewWrites, thread: KnownThread | None, before: PreparedSave | None
) -> PreparedSave | None:
    """Prepare writes that need no look at the database, after others; ``None`` for those that do."""
    if any(idx < 0 for idx, *_ in new.writes):
        return None  # they replace others
    place = None if thread is None else thread.namespaces.get(new.checkpoint_ns)
    base = None
    if repeats_input(new):
        if place is None or place.head != new.checkpoint_id:
            return None
        ref = place.refs.channels.get(INPUT)
        # Without a base if the input is that of an earlier run, which was not kept: storing a copy costs less than
        # reading it.
        if isinstance(ref, WholeRef) and place.input is not None and place.input[0] == ref.position[0]:
            base = place.input
    expected = None if thread is None else Expected(thread.touched_at, place, thread.is_shared)
    return (await writes_to_save(scope, new, base, expected)).after(before)
