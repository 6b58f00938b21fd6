"""The items of the table, and their keys.

- A thread: ``pk`` is ``threads#<namespace>#<owner>``, ``sk`` its id. It has ``version`` and ``oldest``, ``created`` and
  ``updated``; ``states``, the name under which its states are; the ``token`` of the last save and those of the 31
  ``earlier`` ones, by which a retry recognises a save whose reply was lost, also after later saves of others; and
  ``expires``, if it expires. The local index ``by_update`` orders an owner's threads by ``updated``, and can be read
  consistently.
- A state: ``pk`` is ``states#<namespace>#<states>``, ``sk`` its version in twenty digits. It has ``created``,
  ``expires``, and either ``body`` or the number of ``parts`` and the ``token`` of the save that wrote them.
- A part: the same ``pk``, ``sk`` is ``part#<token>#<number>``.

Versions of a thread are consecutive. A thread that is created again gets another name for its ``states``, so those from
before cannot be read, and need not be removed first. ``deleted``, the token of a deletion, marks a thread whose states
are being removed.

Times are microseconds since 1970. ``expires_at``, in seconds, is read by DynamoDB's time to live, which removes items
hours late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from agent_persistence.backends.base import is_alive
from agent_persistence.encoding.timestamps import MICROSECONDS

Item = Mapping[str, Any]

INDEX: Final = "by_update"
EXPIRY: Final = "expires_at"
_DIGITS: Final = 20
_DAY: Final = 86_400 * MICROSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread as it is in the table.

    Attributes:
        states: the name of its states.
        expires: when its latest state expires.
        removed: when the last of its states expires, in seconds; ``None`` if one never does.
        deleted: the token of the deletion in progress.
        earlier: the tokens of the saves before the last one, the latest first.
    """

    version: int
    oldest: int
    created: int
    updated: int
    states: str
    token: str
    earlier: tuple[str, ...] = ()
    expires: int | None = None
    removed: int | None = None
    deleted: str | None = None

    @classmethod
    def of(cls, item: Item) -> Self:
        """Decode an item."""
        return cls(
            version=_number(item["version"]),
            oldest=_number(item["oldest"]),
            created=_number(item["created"]),
            updated=_number(item.get("updated", item["created"])),  # a deletion takes it from the index
            states=item["states"]["S"],
            token=item["token"]["S"],
            earlier=tuple(item["earlier"]["S"].split()) if "earlier" in item else (),
            expires=_number_or_none(item.get("expires")),
            removed=_number_or_none(item.get(EXPIRY)),
            deleted=item["deleted"]["S"] if "deleted" in item else None,
        )

    def lives(self, now: int) -> bool:
        """Return whether readers see it: it is neither deleted nor expired."""
        return self.deleted is None and is_alive(self.expires, now)

    def version_of(self, token: str) -> int | None:
        """Return the version that a save created, or ``None`` if it is not among the last ones."""
        # Each save adds one version and one token, so the position of a token gives its version.
        return self.version - self.tokens.index(token) if token in self.tokens else None

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of the last saves, the latest first."""
        return self.token, *self.earlier

    def item(self, key: Item) -> dict[str, Any]:
        """Encode it."""
        return {
            **key,
            "version": number(self.version),
            "oldest": number(self.oldest),
            "created": number(self.created),
            "updated": number(self.updated),
            "states": {"S": self.states},
            "token": {"S": self.token},
            **({"earlier": {"S": " ".join(self.earlier)}} if self.earlier else {}),
            **_optional("expires", self.expires),
            **_optional(EXPIRY, self.removed),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state as it is in the table.

    Attributes:
        body: the whole state; empty if it is in parts.
        parts: the number of parts.
        token: the token of the save that wrote the parts.
    """

    version: int
    created: int
    expires: int | None
    body: bytes = b""
    parts: int = 0
    token: str = ""

    @classmethod
    def of(cls, item: Item) -> Self:
        """Decode an item."""
        return cls(
            version=int(item["sk"]["S"]),
            created=_number(item["created"]),
            expires=_number_or_none(item.get("expires")),
            body=item["body"]["B"] if "body" in item else b"",
            parts=_number(item["parts"]) if "parts" in item else 0,
            token=item["token"]["S"] if "token" in item else "",
        )

    def item(self, key: Item) -> dict[str, Any]:
        """Encode it."""
        content: dict[str, Any] = {"body": {"B": self.body}}
        if self.parts:
            content = {"parts": number(self.parts), "token": {"S": self.token}}
        return {
            **key,
            "created": number(self.created),
            **_optional("expires", self.expires),
            **_optional(EXPIRY, in_seconds(self.expires)),
            **content,
        }


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one owner's items."""

    namespace: str
    owner: str

    @property
    def threads(self) -> dict[str, str]:
        """The partition of the owner's threads."""
        # A namespace has no "#", so no two pairs of namespace and owner have the same partition.
        return {"S": f"threads#{self.namespace}#{self.owner}"}

    def thread(self, thread_id: str) -> dict[str, Any]:
        """Return the key of a thread."""
        return {"pk": self.threads, "sk": {"S": thread_id}}

    def states(self, states: str) -> dict[str, str]:
        """Return the partition of a thread's states."""
        return {"S": f"states#{self.namespace}#{states}"}

    def state(self, states: str, version: int) -> dict[str, Any]:
        """Return the key of a state."""
        return {"pk": self.states(states), "sk": version_key(version)}

    def parts(self, states: str, token: str, count: int) -> list[dict[str, Any]]:
        """Return the keys of a state's parts, in their order."""
        return [{"pk": self.states(states), "sk": {"S": f"{part_prefix(token)}{index:05d}"}} for index in range(count)]


def version_key(version: int) -> dict[str, str]:
    """Return the sort key of a state: text that sorts like the version."""
    return {"S": f"{version:0{_DIGITS}d}"}


def part_prefix(token: str) -> str:
    """Return the prefix of the sort keys of a state's parts."""
    return f"part#{token}#"


def part_item(key: Item, part: bytes, expires: int | None) -> Item:
    """Encode a part of a state that expires at a time, in microseconds.

    A retry may save the state later than its parts were written, and with it move its expiry: the extra day keeps the
    parts longer than the state.
    """
    removed = None if expires is None else in_seconds(expires + _DAY)
    return {**key, "body": {"B": part}, **_optional(EXPIRY, removed)}


def number(value: int) -> dict[str, str]:
    """Encode an int."""
    return {"N": str(value)}


def in_seconds(microseconds: int | None) -> int | None:
    """Return a time in whole seconds, rounded up: rounded down, an item could be removed before it expires."""
    return None if microseconds is None else -(-microseconds // MICROSECONDS)


def _optional(name: str, value: int | None) -> dict[str, Any]:
    return {} if value is None else {name: number(value)}


def _number(value: Mapping[str, str]) -> int:
    return int(value["N"])


def _number_or_none(value: Mapping[str, str] | None) -> int | None:
    return None if value is None else _number(value)


def unchanged(thread: Thread | None) -> dict[str, Any]:
    """Return the condition that a thread is in the table as it was read, or still absent.

    The token stands for the rest of the item, because every save writes a new one.
    """
    if thread is None:
        return {"ConditionExpression": "attribute_not_exists(pk)"}
    names, values = {"#token": "token", "#deleted": "deleted"}, {":token": {"S": thread.token}}
    condition = "#token = :token AND attribute_not_exists(#deleted)"
    if thread.deleted is not None:
        values[":deleted"] = {"S": thread.deleted}
        condition = "#token = :token AND #deleted = :deleted"
    return {
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def deleted(token: str, now: int) -> dict[str, Any]:
    """Return the update that marks a thread as deleted, if it exists; ``now`` is in microseconds.

    It removes ``updated``, which takes the thread from the index and so from the list, and the expiry: if DynamoDB
    removed the thread before its states, nothing would find them.
    """
    names = ("deleted", "updated", EXPIRY, "expires")
    exists = "attribute_exists(pk) AND attribute_not_exists(#deleted)"
    return {
        "UpdateExpression": f"SET #deleted = :token REMOVE #updated, #{EXPIRY}",
        "ConditionExpression": f"{exists} AND (attribute_not_exists(#expires) OR #expires > :now)",
        "ExpressionAttributeNames": {f"#{name}": name for name in names},
        "ExpressionAttributeValues": {":token": {"S": token}, ":now": number(now)},
    }
