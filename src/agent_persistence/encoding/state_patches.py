"""Patches: the change from one state to the next, and its application.

A patch holds, for each changed key of the state, what became of it::

    {"step": {"set": 7}, "messages": {"keep": 12, "add": [{...}]}, "draft": {}}

``set`` is the new value. ``keep`` and ``add`` are for lists: so many items stay, and these follow. ``{}`` means that
the key was removed. The view ``state_versions`` reads the same form in SQL.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Sequence
from typing import Any, Final

# Only keys of the first level, where the growing lists of agents are. Deeper patches lost: the view would need a pass
# over the whole state for each, while keys of the first level are folded at once.
Patch = dict[str, dict[str, Any]]

# marshal's last format that writes equal values as equal bytes; later ones depend on reference counts.
_FORMAT: Final = 2
_KEY_BYTES: Final = 200  # that a key takes beside its text and its value; measured with Python 3.11
_LIST_HEAD: Final = 5  # the type and the number of items


class Snapshot:
    """A snapshot of a state in comparable pieces: bytes, which later changes of the state do not reach.

    Equal bytes are equal values of the same types, which ``==`` does not tell (``1 == True``). marshal writes 2 GB/s,
    and is read by this process only.
    """

    __slots__ = ("memory", "size", "values")

    def __init__(self, values: dict[str, bytes]) -> None:
        self.values = values
        self.size = sum(map(len, values.values()))
        self.memory = self.size + sum(map(len, values)) + _KEY_BYTES * len(values)

    def state(self) -> dict[str, Any]:
        """Return the state."""
        return {key: marshal.loads(value) for key, value in self.values.items()}  # noqa: S302 - bytes of this process


def snapshot(state: Any) -> Snapshot | None:
    """Take a snapshot of a state; ``None`` if it is not a JSON object."""
    if type(state) is not dict or any(type(key) is not str for key in state):
        return None
    try:
        return Snapshot({key: marshal.dumps(value, _FORMAT) for key, value in state.items()})
    # An object of another type. The state is encoded whole then, and the encoder names the part that it refuses.
    except ValueError:
        return None


def patch_between(old: Snapshot, new: Snapshot, state: dict[str, Any]) -> Patch:
    """Return the patch that leads from one state to another.

    Args:
        old: the snapshot of the first state.
        new: the snapshot of the second.
        state: the second state.
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
    """Apply patches to a state in offset, and return it."""
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
    """Return how many leading items two lists have in common; 0 if one is no list."""
    if type(items) is not list or before[:1] != after[:1]:
        return 0
    old_items = before[_LIST_HEAD:]
    # Most steps only append: then one comparison of bytes is enough, and no item is serialised again.
    if after.startswith(old_items, _LIST_HEAD):
        return int.from_bytes(before[1:_LIST_HEAD], "little")
    kept = offset = 0
    for item in items:
        form = marshal.dumps(item, _FORMAT)
        if not old_items.startswith(form, offset):
            return kept
        kept, offset = kept + 1, offset + len(form)
    return kept
