"""LangGraph's configs: the thread, namespace and checkpoint of a call, and their owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from langchain_core.runnables import RunnableConfig

from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdTypes
from agent_persistence.validation import check_text


class _OwnedThreadId(str):
    """A thread id in a returned config, with the owner that the caller's config named.

    LangGraph makes the configs of subgraphs' states of the thread id alone. No client can send such an object, so it
    names an owner as safely as the caller did.
    """

    __slots__ = ("owner",)

    def __new__(cls, thread_id: str, owner: Any) -> Self:
        """Make the text equal to the thread id."""
        made = super().__new__(cls, thread_id)
        made.owner = owner
        return made

    owner: Any

    def __str__(self) -> str:
        """Return itself: LangGraph calls ``str(thread_id)`` in places."""
        return self

    def plain(self) -> str:
        """Return the thread id as nothing but a text."""
        return str.__str__(self)

    def __getnewargs__(self) -> tuple[str, Any]:  # type: ignore[override]  # str's has one item
        return self.plain(), self.owner


ThreadKey = tuple[Any, Any]
"""The owner and the id of a thread."""


@frozen
class Address:
    """The keys of ``config["configurable"]`` that locate a checkpoint.

    Attributes:
        checkpoint_ns: ``None`` if the config has none, which means all namespaces for ``list``.
        echoed: the keys that returned configs repeat, with the values as the caller gave them.
    """

    thread_id: Any
    checkpoint_ns: str | None
    checkpoint_id: str | None
    user_id: Any
    echoed: Mapping[str, Any]

    @property
    def thread(self) -> ThreadKey:
        """The owner and the id of the thread."""
        return self.user_id, self.thread_id

    @property
    def namespace(self) -> str:
        """The namespace; without one, that of the root graph."""
        return self.checkpoint_ns or ""

    def config(self, checkpoint_id: str) -> RunnableConfig:
        """Return the config of a checkpoint of the same thread and namespace."""
        named = {"checkpoint_ns": self.namespace, "checkpoint_id": checkpoint_id}
        return {"configurable": {**self.echoed, **named}}


def address_of(config: RunnableConfig, id_types: IdTypes[Any, Any], owner: Any) -> Address:
    """Read a config.

    Args:
        owner: the owner of all threads; ``None`` if each config names its owner as ``user_id``.

    Raises:
        InvalidInputError: the thread or the owner is missing, or is not a valid id.
    """
    configurable = config.get("configurable") or {}
    if "thread_id" not in configurable:
        raise InvalidInputError("thread_id", "must be given in config['configurable']")
    user_id = owner_of(configurable, id_types, owner)
    given = configurable["thread_id"]
    thread_id = thread_id_of(given.plain() if isinstance(given, _OwnedThreadId) else given, id_types)
    echoed = {"thread_id": given}
    if owner is None:
        echoed["user_id"] = _named_owner(configurable)
        if isinstance(given, str):
            echoed["thread_id"] = _OwnedThreadId(given, echoed["user_id"])
    return Address(
        thread_id=thread_id,
        checkpoint_ns=_text(configurable, "checkpoint_ns"),
        checkpoint_id=checkpoint_id_of(config),
        user_id=user_id,
        echoed=echoed,
    )


def checkpoint_id_of(config: RunnableConfig) -> str | None:
    """Return the id of the checkpoint that a config names, or ``None``."""
    return _text(config.get("configurable") or {}, "checkpoint_id") or None


def owner_of(configurable: Mapping[str, Any], id_types: IdTypes[Any, Any], owner: Any) -> Any:
    """Return the owner of a call's threads: ``owner``, unless that is ``None``, else the config's ``user_id``.

    Raises:
        InvalidInputError: neither names an owner, or the config's is not a valid id.
    """
    if owner is not None:
        return owner
    named = _named_owner(configurable)
    if named is None:
        raise InvalidInputError("user_id", "must be given: in config['configurable'], or by saver.for_user(user_id)")
    return id_types.user.parse_exact(named, "user_id")


def _named_owner(configurable: Mapping[str, Any]) -> Any:
    named, thread_id = configurable.get("user_id"), configurable.get("thread_id")
    return thread_id.owner if named is None and isinstance(thread_id, _OwnedThreadId) else named


def thread_id_of(given: Any, id_types: IdTypes[Any, Any]) -> Any:
    """Convert LangGraph's thread id, a text, to the database's id type.

    Raises:
        InvalidInputError: it is not a valid id.
    """
    # One spelling only: with "7" and "07", two ids of LangGraph would share one thread.
    return id_types.id.parse_exact(given, "thread_id")


def _text(configurable: Mapping[str, Any], name: str) -> str | None:
    given = configurable.get(name)
    return None if given is None else check_text(given, name)
