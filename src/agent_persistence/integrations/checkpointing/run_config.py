"""Reads the ``config`` of a run: its thread, its user, and the version of the state that it continues from."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdType, IdTypes
from agent_persistence.records import ANY_USER, AnyUser

VERSION_KEY: Final = "_checkpoint_version"
"""The key of a config under which a run keeps the version of the state that it continues from; Agentflow's name."""


@frozen
class ThreadRef:
    """A thread as a config names it.

    Attributes:
        owner: only this user's threads are visible to the call; ``ANY_USER`` if users are not isolated.
        user_id: the owner of the thread if the call creates it.
        name, meta: those of the thread if the call creates it.
    """

    thread_id: Any
    owner: Any | AnyUser
    user_id: Any
    name: str | None
    meta: Mapping[str, Any]


def thread_ref(config: Mapping[str, Any], id_types: IdTypes[Any, Any], *, isolates: bool) -> ThreadRef:
    """Return the thread that a config names by ``thread_id``, for the user that it names by ``user_id``.

    Args:
        isolates: whether a thread is visible to its owner only.

    Raises:
        InvalidInputError: an id is missing, or is not of the database's type.
    """
    user_id = user_of(config, id_types)
    return ThreadRef(
        exact_id(_required(config, "thread_id"), id_types.id, "thread_id"),
        user_id if isolates else ANY_USER,
        user_id,
        config.get("thread_name"),
        config.get("thread_meta") or {},
    )


def user_of(config: Mapping[str, Any], id_types: IdTypes[Any, Any]) -> Any:
    """Return the user id of a config.

    Raises:
        InvalidInputError: the id is missing, or is not of the database's type.
    """
    return exact_id(_required(config, "user_id"), id_types.user, "user_id")


def expected_version(config: Mapping[str, Any]) -> int | None:
    """Return the version that a run continues from, or ``None`` if it has not read a state."""
    version: int | None = config.get(VERSION_KEY)
    return version


def remember_version(config: MutableMapping[str, Any], version: int | None) -> None:
    """Store the version that a run has read or saved in its config; ``None`` means that there is no state."""
    if version is None:
        config.pop(VERSION_KEY, None)
    else:
        config[VERSION_KEY] = version


def exact_id(value: object, id_type: IdType[Any], field: str) -> Any:
    """Return an id in the type of its column; ``7`` and ``"7"`` are the same id, ``"07"`` and ``7.0`` are refused.

    Raises:
        InvalidInputError: the value is no id of this type; ``field`` names it.
    """
    # type(), not isinstance(): True is an int, and no id.
    is_number_for_text = id_type.python_type is str and type(value) is int
    return id_type.parse_exact(str(value) if is_number_for_text else value, field)


def message_key(value: object, id_type: IdType[Any]) -> Any:
    """Return the id under which a message is stored.

    The frameworks draw unsigned integers, half of which exceed the signed range of the column. Those are stored as the
    negative integer with the same bits; the message's content keeps the original id.

    Raises:
        InvalidInputError: the value is no id of this type.
    """
    if id_type.generated and type(value) is int:
        bits = 32 if id_type.name == "int" else 64
        if 1 << (bits - 1) <= value < 1 << bits:
            value -= 1 << bits
    return exact_id(value, id_type, "message_id")


def _required(config: Mapping[str, Any], key: str) -> object:
    value = config.get(key)
    if value is None or value == "":
        raise InvalidInputError(key, "must be given in the config")
    return value
