"""The difference between two JSON values, small where they are alike.

A difference is a JSON object::

    {"is": 7}                                                 the other value, whole
    {"set": {"id": "m"}, "drop": ["name"], "in": {"content": ...}}     of two objects: fields
    {"at": {"0": ...}, "size": 2, "end": [...]}               of two lists: items, the length of a shorter one, or what
                                                              a longer one has more
"""

from __future__ import annotations

from typing import Any, Final

_NONE: Final[dict[str, Any]] = {}


def is_same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal and of the same types, which ``==`` does not tell (``1 == True``)."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is dict:
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    if kind is list:
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other) or one is other


def difference(old: Any, new: Any) -> dict[str, Any]:
    """Return what makes the new value of the old one; empty if they are the same."""
    if is_same(old, new):
        return _NONE
    if type(old) is dict and type(new) is dict:
        return _of_objects(old, new)
    if type(old) is list and type(new) is list and bool(old) == bool(new):
        return _of_lists(old, new)
    return {"is": new}


def changed(old: Any, change: dict[str, Any]) -> Any:
    """Return the value that a difference makes of another one.

    Raises:
        ValueError: the difference is not one of this value.
    """
    if not change:
        return old
    try:
        if "is" in change:
            return change["is"]
        if "at" in change:
            items = list(old)[: change.get("size")] + change.get("end", [])
            for index, inner in change["at"].items():
                items[int(index)] = changed(items[int(index)], inner)
            return items
        fields = {key: value for key, value in old.items() if key not in change.get("drop", ())}
        for key, inner in change.get("in", _NONE).items():
            fields[key] = changed(fields[key], inner)
        return {**fields, **change.get("set", _NONE)}
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("this difference belongs to another value") from error


def _of_lists(old: list[Any], new: list[Any]) -> dict[str, Any]:
    found = {str(index): difference(*pair) for index, pair in enumerate(zip(old, new, strict=False))}
    change: dict[str, Any] = {"at": {index: inner for index, inner in found.items() if inner}}
    if len(new) < len(old):
        change["size"] = len(new)
    elif len(new) > len(old):
        change["end"] = new[len(old) :]
    return change


def _of_objects(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    change: dict[str, Any] = {}
    for key, value in new.items():
        if key not in old or type(value) not in (dict, list) or type(old[key]) is not type(value):
            if key not in old or not is_same(old[key], value):
                change.setdefault("set", {})[key] = value
        elif inner := difference(old[key], value):
            part, what = ("set", inner["is"]) if "is" in inner else ("in", inner)
            change.setdefault(part, {})[key] = what
    if gone := [key for key in old if key not in new]:
        change["drop"] = gone
    return change
