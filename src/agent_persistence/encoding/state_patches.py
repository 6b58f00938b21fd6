"""What changed from one state to the next, and the state made whole again.

A patch says for each key of the state that changed what became of it::

    {"step": {"set": 7}, "messages": {"keep": 12, "add": [{...}]}, "draft": {}}

``set`` gives the new value. ``keep`` and ``add`` are for lists: so many items stay, and these follow. ``{}`` is for a
key that is gone. The view ``state_versions`` reads the same form in SQL.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Sequence
from typing import Any, Final

Patch = dict[str, dict[str, Any]]

# Of marshal's formats the last one that writes equal values as equal bytes, whatever else refers to them.
_FORMAT: Final = 2
_LIST_HEAD: Final = 5  # its type and how many items follow


class Cut:
    """A state as it was at one moment, cut into what can be compared: bytes that later changes of it cannot reach.

    Equal bytes are equal values of the same types, of which ``==`` cannot be sure (``1 == True``). Marshal writes
    2 GB/s; it is read in this process only.
    """

    __slots__ = ("size", "values")

    def __init__(self, values: dict[str, bytes]) -> None:
        self.values = values
        self.size = sum(map(len, values.values()))

    def state(self) -> dict[str, Any]:
        """Make the state again."""
        return {key: marshal.loads(value) for key, value in self.values.items()}  # noqa: S302 - our own bytes


def cut(state: Any) -> Cut | None:
    """Cut a state; ``None`` where that cannot be done: it is no object, or holds what is no JSON."""
    if type(state) is not dict or any(type(key) is not str for key in state):
        return None
    try:
        return Cut({key: marshal.dumps(value, _FORMAT) for key, value in state.items()})
    except ValueError:
        return None


def patch_between(old: Cut, new: Cut, state: dict[str, Any]) -> Patch:
    """Say what leads from one state to another.

    Args:
        state: what ``new`` was cut of.
    """
    patch: Patch = {key: {} for key in old.values if key not in new.values}
    for key, after in new.values.items():
        before = old.values.get(key)
        if before != after:
            value = state[key]
            kept = _kept(before, after, value) if before is not None else 0
            patch[key] = {"keep": kept, "add": value[kept:]} if kept else {"set": value}
    return patch


def patched(state: dict[str, Any], patches: Iterable[Patch]) -> dict[str, Any]:
    """Apply patches to a state, in place."""
    for patch in patches:
        for key, change in patch.items():
            if not change:
                del state[key]
            elif "set" in change:
                state[key] = change["set"]
            else:
                state[key][change["keep"] :] = change["add"]
    return state


def _kept(before: bytes, after: bytes, items: Sequence[Any]) -> int:
    """How many of a list's items are the same in both, from the first one on; 0 for what is no list."""
    if type(items) is not list or before[:1] != after[:1]:
        return 0
    old_items = before[_LIST_HEAD:]
    if after.startswith(old_items, _LIST_HEAD):
        return int.from_bytes(before[1:_LIST_HEAD], "little")
    kept = place = 0
    for item in items:
        form = marshal.dumps(item, _FORMAT)
        if not old_items.startswith(form, place):
            return kept
        kept, place = kept + 1, place + len(form)
    return kept
