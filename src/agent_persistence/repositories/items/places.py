"""The place of an item: its namespace, stored as labels joined by periods, and its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agent_persistence.errors import InvalidInputError
from agent_persistence.records import ItemKey, Namespace
from agent_persistence.validation import check_text

ANY_LABEL: Final = "*"
_SEPARATOR: Final = "."
_AFTER_SEPARATOR: Final = "/"
# An entry of an index holds 2,704 bytes: with 800 for each of these, an owner's name of 255 characters fits as well.
_MOST_BYTES: Final = 800


def check_place(place: Any, field: str) -> ItemKey:
    """Return the place of an item.

    Raises:
        InvalidInputError: it is no pair of a namespace and a key, or one of them cannot be stored.
    """
    try:
        namespace, key = place
    except (TypeError, ValueError):
        raise InvalidInputError(field, "must be an ItemKey: a namespace and a key") from None
    return ItemKey(check_namespace(namespace, f"{field}.namespace"), _fitting(key, f"{field}.key"))


def check_namespace(labels: object, field: str) -> Namespace:
    """Return a namespace of at least one label.

    Raises:
        InvalidInputError: it cannot be a namespace.
    """
    namespace = check_prefix(labels, field)
    if not namespace:
        raise InvalidInputError(field, "is empty; an item needs at least one label")
    return namespace


def check_prefix(labels: object, field: str) -> Namespace:
    """Return the labels with which namespaces begin or end; none at all for every namespace.

    Raises:
        InvalidInputError: no namespace can hold them.
    """
    if type(labels) is not tuple and (isinstance(labels, str) or not isinstance(labels, Sequence)):
        raise InvalidInputError(field, f"must be a tuple of labels, not {type(labels).__name__}")
    for label in labels:
        if not check_text(label, field):
            raise InvalidInputError(field, "holds an empty label")
        if _SEPARATOR in label:
            raise InvalidInputError(field, "holds a label with a period, which separates labels; replace it")
    _fitting(joined(labels), field)
    return tuple(labels)


def joined(labels: Sequence[str]) -> str:
    """Return a namespace as it is stored."""
    return _SEPARATOR.join(labels)


def taken_apart(stored: str) -> Namespace:
    """Return the labels of a stored namespace."""
    return tuple(stored.split(_SEPARATOR))


def range_below(labels: Sequence[str]) -> dict[str, str]:
    """Return the parameters that select a namespace and all below it: one entry and one range of the index."""
    namespace = joined(labels)
    return {"namespace": namespace, "low": namespace + _SEPARATOR, "high": namespace + _AFTER_SEPARATOR}


def is_like(namespace: Namespace, prefix: Namespace, suffix: Namespace) -> bool:
    """Whether a namespace begins and ends with these labels, of which ``*`` stands for any one."""
    return _begins(namespace, prefix) and _begins(namespace[::-1], suffix[::-1])


def _begins(labels: Namespace, wanted: Namespace) -> bool:
    same = all(label in (ANY_LABEL, found) for label, found in zip(wanted, labels, strict=False))
    return len(wanted) <= len(labels) and same


def _fitting(value: object, field: str) -> str:
    text = check_text(value, field)
    if len(text.encode()) > _MOST_BYTES:
        raise InvalidInputError(field, f"is longer than {_MOST_BYTES} bytes in UTF-8")
    return text
