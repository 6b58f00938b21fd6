"""LangGraph's configs: which thread, namespace and checkpoint a call is about, and whose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdTypes
from agent_persistence.validation import check_text


@frozen
class Address:
    """What a config names.

    Attributes:
        said: what configs that are handed back repeat of it.
        checkpoint_ns: ``None`` where the config names none.
    """

    thread_id: Any
    checkpoint_ns: str | None
    checkpoint_id: str | None
    user_id: Any
    said: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """The namespace, which is that of the root graph unless another is named."""
        return self.checkpoint_ns or ""

    def config(self, checkpoint_ns: str, checkpoint_id: str) -> RunnableConfig:
        """The config of a checkpoint of the same thread."""
        return {"configurable": {**self.said, "checkpoint_ns": checkpoint_ns, "checkpoint_id": checkpoint_id}}


def address_of(config: RunnableConfig, id_types: IdTypes[Any, Any], owner: Any) -> Address:
    """Read a config.

    Args:
        owner: whose threads these are; ``None`` where each config says it, as ``user_id``.

    Raises:
        InvalidInputError: the thread or the owner is not named, or is no id of its kind.
    """
    configurable = config.get("configurable") or {}
    if "thread_id" not in configurable:
        raise InvalidInputError("thread_id", "must be given in config['configurable']")
    given = configurable["thread_id"]
    said = {"thread_id": given}
    if owner is None:
        said["user_id"] = configurable.get("user_id")
    return Address(
        thread_id=thread_id_of(given, id_types),
        checkpoint_ns=_text(configurable, "checkpoint_ns"),
        checkpoint_id=checkpoint_id_of(config),
        user_id=owner_of(configurable, id_types, owner),
        said=said,
    )


def checkpoint_id_of(config: RunnableConfig) -> str | None:
    """Which checkpoint a config names, if it names one."""
    return _text(config.get("configurable") or {}, "checkpoint_id") or None


def owner_of(configurable: Mapping[str, Any], id_types: IdTypes[Any, Any], owner: Any) -> Any:
    """Whose threads a call is about."""
    if owner is not None:
        return owner
    if configurable.get("user_id") is None:
        raise InvalidInputError("user_id", "must be given: in config['configurable'], or by saver.for_user(user_id)")
    return _exact(configurable["user_id"], id_types.user, "user_id")


def thread_id_of(given: Any, id_types: IdTypes[Any, Any]) -> Any:
    """Read a thread id, which LangGraph has as text, whatever kind of id the database has."""
    return _exact(given, id_types.id, "thread_id")


def _exact(given: Any, kind: Any, field: str) -> Any:
    if not isinstance(given, str) or kind.python_type is str:
        return kind.validate(given, field)
    parsed = kind.parse(given, field)
    if str(parsed) != given:  # else two texts would be one thread
        raise InvalidInputError(field, f"is no {kind.name} in its usual form")
    return parsed


def _text(configurable: Mapping[str, Any], name: str) -> str | None:
    given = configurable.get(name)
    return None if given is None else check_text(given, name)
