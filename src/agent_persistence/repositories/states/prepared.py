"""A state that was checked and encoded: whole, or as what changed since this process saved the thread's last one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic

from agent_persistence.encoding.exact_json import EncodedJSON, encode_json
from agent_persistence.encoding.recent_states import MOST_BYTES, Origin, RecentState, RecentStates
from agent_persistence.encoding.state_patches import Cut, cut, patch_between
from agent_persistence.errors import CheckpointingDisabledError, InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT
from agent_persistence.records import ANY_USER, SavedState, StateRecord
from agent_persistence.repositories.locks import parameters_of
from agent_persistence.repositories.rows import json_object
from agent_persistence.sessions.scope import Scope, StoreOptions

_ROW: Final = 200  # bytes that a row costs whoever reads it, whatever is in it
_MOST_READ: Final = 4  # times its own size


@frozen
class Change:
    """What a state is kept as instead of itself.

    Attributes:
        base: the version that it changes.
    """

    base: RecentState
    patch: EncodedJSON


@dataclass(slots=True, repr=False)  # its repr would be a user's state
class PreparedState(Generic[IdT]):
    """A state that is ready for the table.

    Attributes:
        cut: what the next state is compared with; ``None`` if it is not to be.
        change: ``None`` for a state that is kept whole.
    """

    thread_id: IdT
    owner: Any
    data: Any
    meta: dict[str, Any]
    encoded_meta: EncodedJSON
    cut: Cut | None
    change: Change | None
    origin: Origin
    whole_data: EncodedJSON | None

    @property
    def encoded_data(self) -> EncodedJSON:
        """All of it."""
        if self.whole_data is None:
            # Of the cut, not of `data`, which its caller may have changed since.
            self.whole_data = EncodedJSON(
                encode_json(self.cut.state() if self.cut else self.data, "data", max_bytes=sys.maxsize)
            )
        return self.whole_data

    @property
    def size(self) -> int:
        """How many bytes are sent."""
        data = self.change.patch if self.change else self.encoded_data
        return len(data.utf8) + len(self.encoded_meta.utf8)

    def whole(self) -> PreparedState[IdT]:
        """The same, not as a change: its base is gone."""
        size = len(self.encoded_data.utf8)
        return replace(self, change=None, origin=Origin(size, size, 0))

    def saved(self, row: Any) -> SavedState:
        """What the cache keeps, once the table has made this row of it."""
        data, meta = self.encoded_data.utf8, self.encoded_meta.utf8
        return SavedState(row.state_id, data, meta, row.created_at, row.updated_at)

    def record(self, row: Any) -> StateRecord[IdT]:
        """What its caller is told."""
        return StateRecord(self.thread_id, row.state_id, self.data, self.meta, row.created_at, row.updated_at)

    def remember(self, recent: RecentStates, row: Any) -> None:
        """Compare the thread's next state with this one. The row may yet be rolled back: then it is no base."""
        if self.cut is None:
            recent.forget(self.thread_id)
        else:
            recent.put(self.thread_id, RecentState(row.state_id, row.mark, row.created_at, self.cut, self.origin))


def prepare_state(
    scope: Scope[IdT, Any], thread_id: IdT, data: Any, meta: Mapping[str, Any] | None
) -> PreparedState[IdT]:
    """Check and encode a state before any SQL runs.

    Raises:
        InvalidInputError: a part of it cannot be stored.
        CheckpointingDisabledError: the settings turned states off.
    """
    limits = scope.options
    if not limits.save_states:
        raise CheckpointingDisabledError
    thread_id = scope.thread_id(thread_id)
    data = scope.clean(data, "data")
    checked_meta: dict[str, Any] = scope.clean(json_object(meta, "meta"), "meta")
    encoded_meta = scope.encoded(checked_meta, "meta")
    fields = thread_id, scope.owner, data, checked_meta, encoded_meta
    if limits.patches_from and (base := scope.recent.get(thread_id)):
        new = cut(data)
        if new is not None and (changed := _changed(limits, base, new, data)):
            # The cache is told the whole state, as it is now.
            whole = scope.encoded(data, "data") if limits.is_cached else None
            return PreparedState(*fields, new, *changed, whole)
    whole = scope.encoded(data, "data")
    size = len(whole.utf8)
    is_compared = limits.patches_from and limits.patches_from <= size <= MOST_BYTES
    return PreparedState(*fields, cut(data) if is_compared else None, None, Origin(size, size, 0), whole)


def _changed(limits: StoreOptions[Any], base: RecentState, new: Cut, data: Any) -> tuple[Change, Origin] | None:
    """Say what changed; ``None`` where the whole state is the better choice, or tells better what is wrong with it.

    The patches since a whole version weigh no more than it does, so that they double what a read costs, at most; and
    all that is read for a state is not more than four times the state.
    """
    origin = base.origin
    try:
        patch = encode_json(patch_between(base.cut, new, data), "data", max_bytes=limits.max_json_bytes)
    except InvalidInputError:
        return None
    size, patches = origin.size + len(patch), origin.patches + len(patch) + _ROW
    is_worth_it = patches <= origin.whole and origin.whole + patches <= _MOST_READ * new.size
    if not is_worth_it or new.size < limits.patches_from or size > limits.max_json_bytes:
        return None
    return Change(base, EncodedJSON(patch)), Origin(size, origin.whole, patches)


def columns_of_states(states: Sequence[PreparedState[Any]], *, changes: bool, one: bool) -> dict[str, Any]:
    """The parameters of ``save_states``."""
    columns: dict[str, list[Any]] = {
        "thread_ids": [state.thread_id for state in states],
        "owners": [None if state.owner is ANY_USER else state.owner for state in states],
        "state_data": [None if state.change else state.encoded_data.utf8 for state in states],
        "meta": [state.encoded_meta for state in states],
    }
    if changes:
        bases = [state.change.base if state.change else None for state in states]
        columns |= {
            "patch": [state.change.patch.utf8 if state.change else None for state in states],
            "base_id": [base and base.version for base in bases],
            "base_mark": [base and base.mark for base in bases],
            "base_created_at": [base and base.created_at for base in bases],
        }
    return parameters_of(columns, one=one)
