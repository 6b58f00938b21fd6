"""What a config says: whose thread is meant, and which state its run has read."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdType, IdTypes
from agent_persistence.records import ANY_USER, AnyUser

VERSION_KEY: Final = "_checkpoint_version"
"""Where a run keeps the version of the state that it goes on from."""


@frozen
class Place:
    """A thread, and who asks.

    Attributes:
        owner: whose threads exist for this call: the user's, or everybody's where users are not kept apart.
        user_id: who owns the thread if it is made now.
        name, meta: what the thread gets if it is made now.
    """

    thread_id: Any
    owner: Any | AnyUser
    user_id: Any
    name: str | None
    meta: Mapping[str, Any]


def place_of(config: Mapping[str, Any], id_types: IdTypes[Any, Any], *, isolates: bool) -> Place:
    """Read a config.

    Raises:
        InvalidInputError: the thread or the user is not named, or not by an id of this database's kind.
    """
    user_id = user_of(config, id_types)
    return Place(
        exact_id(_given(config, "thread_id"), id_types.id, "thread_id"),
        user_id if isolates else ANY_USER,
        user_id,
        config.get("thread_name"),
        config.get("thread_meta") or {},
    )


def user_of(config: Mapping[str, Any], id_types: IdTypes[Any, Any]) -> Any:
    """Return the user whom a config names."""
    return exact_id(_given(config, "user_id"), id_types.user, "user_id")


def expected_version(config: Mapping[str, Any]) -> int | None:
    """Return the version that a run goes on from, or ``None`` where it has read none."""
    found: int | None = config.get(VERSION_KEY)
    return found


def remember_version(config: MutableMapping[str, Any], version: int | None) -> None:
    """Note the version that a run has read or saved; ``None`` for no state."""
    if version is None:
        config.pop(VERSION_KEY, None)
    else:
        config[VERSION_KEY] = version


def exact_id(given: object, kind: IdType[Any], field: str) -> Any:
    """Return an id in the column's type; ``7`` and ``"7"`` name the same, ``"07"`` and ``7.0`` name nothing.

    Raises:
        InvalidInputError: it is no id of this kind.
    """
    if kind.python_type is str and type(given) is int:
        given = str(given)
    elif kind.python_type is not str and isinstance(given, str):
        found = kind.parse(given, field)
        if str(found) != given:
            raise InvalidInputError(field, f"must be {kind.name} in its usual spelling")
        return found
    return kind.validate(given, field)


def message_key(given: object, kind: IdType[Any]) -> Any:
    """Return the id that a message is stored under.

    Both frameworks draw unsigned numbers, half of which are beyond the signed ones of a column. Those are stored as the
    negative number of the same bits; the message itself keeps its own.
    """
    if kind.generated and type(given) is int:
        bits = 32 if kind.name == "int" else 64
        if 1 << (bits - 1) <= given < 1 << bits:
            given -= 1 << bits
    return exact_id(given, kind, "message_id")


def _given(config: Mapping[str, Any], name: str) -> object:
    found = config.get(name)
    if found is None or found == "":
        raise InvalidInputError(name, "must be given in the config")
    return found
