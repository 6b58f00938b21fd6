"""States checked and encoded for the table: whole, or as a change of the last one that this process saved."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic

from agent_persistence.encoding.exact_json import EncodedJSON, encode_json
from agent_persistence.encoding.recent_states import MOST_BYTES, Origin, RecentState, RecentStates
from agent_persistence.encoding.state_patches import Snapshot, patch_between, snapshot
from agent_persistence.errors import CheckpointingDisabledError, InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT
from agent_persistence.records import ANY_USER, SavedState, StateRecord
from agent_persistence.repositories.locks import parameters_of
from agent_persistence.repositories.rows import json_object
from agent_persistence.sessions.scope import Scope, StoreOptions

_ROW: Final = 200  # bytes that reading a row costs beside its contents
_MOST_READ: Final = 4  # times the size of the state


def _new_mark() -> int:
    return int.from_bytes(os.urandom(8), signed=True)


@frozen
class Change:
    """A state as a change of another version.

    Attributes:
        base: the version that is changed.
        patch: the change; see ``encoding.state_patches``.
    """

    base: RecentState
    patch: EncodedJSON


@dataclass(slots=True, repr=False)  # a repr would show a user's state
class PreparedState(Generic[IdT]):
    """A checked and encoded state.

    Attributes:
        snapshot: the state in pieces, to which the next one is compared; ``None`` if it is not to be.
        change: the change that is stored; ``None`` for a state that is stored whole.
        origin: sizes of the versions that a reader of this state must read.
        whole_data: the encoded state, if it was needed so far.
        mark: a random number by which its row is found if the reply to the INSERT is lost.
        after: a version that was there before the INSERT was sent; 0 if none is known.
    """

    thread_id: IdT
    owner: Any
    data: Any
    meta: dict[str, Any]
    encoded_meta: EncodedJSON
    snapshot: Snapshot | None
    change: Change | None
    origin: Origin
    whole_data: EncodedJSON | None
    mark: int = field(default_factory=_new_mark)
    after: int = 0

    @property
    def encoded_data(self) -> EncodedJSON:
        """The whole state, encoded."""
        if self.whole_data is None:
            # From the pieces, not from `data`, which the caller may have changed since.
            self.whole_data = EncodedJSON(
                encode_json(self.snapshot.state() if self.snapshot else self.data, "data", max_bytes=sys.maxsize)
            )
        return self.whole_data

    @property
    def size(self) -> int:
        """The number of bytes to send."""
        data = self.change.patch if self.change else self.encoded_data
        return len(data.utf8) + len(self.encoded_meta.utf8)

    def whole(self) -> PreparedState[IdT]:
        """Return the same state to be stored whole: its base does not exist any more."""
        size = len(self.encoded_data.utf8)
        return replace(self, change=None, origin=Origin(size, size, 0))

    def saved(self, row: Any) -> SavedState:
        """Return the state for the cache, given the row that the INSERT returned."""
        data, meta = self.encoded_data.utf8, self.encoded_meta.utf8
        return SavedState(row.state_id, data, meta, row.created_at, row.updated_at)

    def record(self, row: Any) -> StateRecord[IdT]:
        """Return the caller's record, given the row that the INSERT returned."""
        return StateRecord(self.thread_id, row.state_id, self.data, self.meta, row.created_at, row.updated_at)

    def remember(self, recent: RecentStates, row: Any) -> None:
        """Remember this state, to compare the thread's next one to it. If its row is rolled back it is no base."""
        recent.saved.add("change" if self.change else "whole", self.size)
        if self.snapshot is None:
            recent.forget(self.thread_id)
        else:
            recent.put(self.thread_id, RecentState(row.state_id, self.mark, self.snapshot, self.origin))


def prepare_state(
    scope: Scope[IdT, Any], thread_id: IdT, data: Any, meta: Mapping[str, Any] | None
) -> PreparedState[IdT]:
    """Check and encode a state before any SQL runs.

    Raises:
        InvalidInputError: a part of it cannot be stored; ``field`` names it.
        CheckpointingDisabledError: the settings refuse states.
    """
    options = scope.options
    if not options.save_states:
        raise CheckpointingDisabledError
    thread_id = scope.thread_id(thread_id)
    data = scope.clean(data, "data")
    checked_meta: dict[str, Any] = scope.clean(json_object(meta, "meta"), "meta")
    encoded_meta = scope.encoded(checked_meta, "meta")
    fields = thread_id, scope.owner, data, checked_meta, encoded_meta
    # Only a state that this process saved is a base. Digests instead of remembered bytes lost: less memory, but five
    # times the CPU for a state of 500 KB.
    if options.patches_from and (base := scope.recent.get(thread_id)):
        new = snapshot(data)
        if new is not None and (changed := _changed(options, base, new, data)):
            # The cache needs the whole state, and as it is now.
            whole = scope.encoded(data, "data") if options.is_cached else None
            return PreparedState(*fields, new, *changed, whole)
    whole = scope.encoded(data, "data")
    size = len(whole.utf8)
    # A state that is larger than the whole memory for recent states could not stay in it until the next save.
    is_compared = options.patches_from and options.patches_from <= size <= MOST_BYTES
    return PreparedState(*fields, snapshot(data) if is_compared else None, None, Origin(size, size, 0), whole)


def _changed(options: StoreOptions[Any], base: RecentState, new: Snapshot, data: Any) -> tuple[Change, Origin] | None:
    """Return the change since the base, or ``None`` where the state should be stored whole.

    The patches since a whole version are together no larger than it, so they at most double the cost of a read; and all
    that is read for a state is at most four times its size.
    """
    origin = base.origin
    try:
        patch = encode_json(patch_between(base.snapshot, new, data), "data", max_bytes=options.max_json_bytes)
    except InvalidInputError:
        return None  # encoding it whole names the field in the caller's words
    size, patches = origin.size + len(patch), origin.patches + len(patch) + _ROW
    is_worth_it = patches <= origin.whole and origin.whole + patches <= _MOST_READ * new.size
    if not is_worth_it or new.size < options.patches_from or size > options.max_json_bytes:
        return None
    return Change(base, EncodedJSON(patch)), Origin(size, origin.whole, patches)


def columns_of_states(states: Sequence[PreparedState[Any]], *, changes: bool, one: bool) -> dict[str, Any]:
    """Return the parameters of ``save_states``."""
    columns: dict[str, list[Any]] = {
        "thread_ids": [state.thread_id for state in states],
        "owners": [None if state.owner is ANY_USER else state.owner for state in states],
        "state_data": [None if state.change else state.encoded_data.utf8 for state in states],
        "meta": [state.encoded_meta for state in states],
        "mark": [state.mark for state in states],
    }
    if changes:
        bases = [state.change.base if state.change else None for state in states]
        columns |= {
            "patch": [state.change.patch.utf8 if state.change else None for state in states],
            "base_id": [base and base.version for base in bases],
            "base_mark": [base and base.mark for base in bases],
        }
    return parameters_of(columns, one=one)
