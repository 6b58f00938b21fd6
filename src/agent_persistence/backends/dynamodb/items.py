"""What lies in the table.

- A thread: ``pk`` is ``threads#<namespace>#<owner>``, ``sk`` its id. It has ``version`` and ``oldest``, ``created`` and
  ``updated``, ``states``, which says where its states are, the ``token`` of the last save and those of the 31
  ``earlier`` ones, so that a save whose reply was lost is recognized although others have saved since, and, if it
  expires, ``expires``. The local index ``by_update`` has the threads of an owner by ``updated``; it can be read
  consistently.
- A state: ``pk`` is ``states#<namespace>#<states>``, ``sk`` its version in twenty digits. It has ``created``,
  ``expires``, and either ``body`` or the number of ``parts`` and the ``token`` of the save that wrote them.
- A part: the same ``pk``, ``sk`` is ``part#<token>#<number>``.

Versions of a thread are consecutive. A thread that begins anew has other ``states``: what was there before can neither
be read nor come back. ``deleted``, the token of a deletion, is on a thread whose states are being removed.

Times are microseconds since 1970. ``expires_at``, in seconds, is what DynamoDB's time to live looks at, hours later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from agent_persistence.encoding.timestamps import MICROSECONDS

Item = Mapping[str, Any]

INDEX: Final = "by_update"
EXPIRY: Final = "expires_at"
_DIGITS: Final = 20
_DAY: Final = 86_400 * MICROSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread, as it is in the table.

    Attributes:
        states: names its states.
        expires: when its latest state does.
        removed: when the last of its states does, in seconds; ``None`` if one never does.
        deleted: the token of the deletion that is under way.
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
        """Read one."""
        return cls(
            version=_number(item["version"]),
            oldest=_number(item["oldest"]),
            created=_number(item["created"]),
            updated=_number(item.get("updated", item["created"])),
            states=item["states"]["S"],
            token=item["token"]["S"],
            earlier=tuple(item["earlier"]["S"].split()) if "earlier" in item else (),
            expires=_number_or_none(item.get("expires")),
            removed=_number_or_none(item.get(EXPIRY)),
            deleted=item["deleted"]["S"] if "deleted" in item else None,
        )

    def lives(self, now: int) -> bool:
        """Whether it exists for those who ask."""
        return self.deleted is None and (self.expires is None or now < self.expires)

    def version_of(self, token: str) -> int | None:
        """Return the version that a save has made, unless it is unknown."""
        saves = self.tokens
        return self.version - saves.index(token) if token in saves else None

    @property
    def tokens(self) -> tuple[str, ...]:
        """Those of the last saves, the latest first."""
        return self.token, *self.earlier

    def item(self, key: Item) -> dict[str, Any]:
        """Write it."""
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
    """A state, as it is in the table.

    Attributes:
        body: all of it; empty if it is in parts.
        parts: how many there are.
        token: of the save that wrote the parts.
    """

    version: int
    created: int
    expires: int | None
    body: bytes = b""
    parts: int = 0
    token: str = ""

    @classmethod
    def of(cls, item: Item) -> Self:
        """Read one."""
        return cls(
            version=int(item["sk"]["S"]),
            created=_number(item["created"]),
            expires=_number_or_none(item.get("expires")),
            body=item["body"]["B"] if "body" in item else b"",
            parts=_number(item["parts"]) if "parts" in item else 0,
            token=item["token"]["S"] if "token" in item else "",
        )

    def lives(self, now: int) -> bool:
        """Whether it exists for those who ask."""
        return self.expires is None or now < self.expires

    def item(self, key: Item) -> dict[str, Any]:
        """Write it."""
        held: dict[str, Any] = {"body": {"B": self.body}}
        if self.parts:
            held = {"parts": number(self.parts), "token": {"S": self.token}}
        return {
            **key,
            "created": number(self.created),
            **_optional("expires", self.expires),
            **_optional(EXPIRY, in_seconds(self.expires)),
            **held,
        }


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one owner's items."""

    namespace: str
    owner: str

    @property
    def threads(self) -> dict[str, str]:
        """Where the threads are."""
        return {"S": f"threads#{self.namespace}#{self.owner}"}

    def thread(self, thread_id: str) -> dict[str, Any]:
        """Return the key of a thread."""
        return {"pk": self.threads, "sk": {"S": thread_id}}

    def states(self, states: str) -> dict[str, str]:
        """Where the states of a thread are."""
        return {"S": f"states#{self.namespace}#{states}"}

    def state(self, states: str, version: int) -> dict[str, Any]:
        """Return the key of a state."""
        return {"pk": self.states(states), "sk": version_key(version)}

    def part(self, states: str, token: str, place: int) -> dict[str, Any]:
        """Return the key of a part."""
        return {"pk": self.states(states), "sk": {"S": f"part#{token}#{place:05d}"}}


def version_key(version: int) -> dict[str, str]:
    """Write a version so that text sorts as numbers do."""
    return {"S": f"{version:0{_DIGITS}d}"}


def part_item(key: Item, part: bytes, expires: int | None) -> Item:
    """Write a part. It may stay a day longer than its state, which may be saved at a later attempt."""
    removed = None if expires is None else in_seconds(expires + _DAY)
    return {**key, "body": {"B": part}, **_optional(EXPIRY, removed)}


def number(value: int) -> dict[str, str]:
    """Write an int."""
    return {"N": str(value)}


def in_seconds(microseconds: int | None) -> int | None:
    """Return the first whole second that is not before a time."""
    return None if microseconds is None else -(-microseconds // MICROSECONDS)


def _optional(name: str, value: int | None) -> dict[str, Any]:
    return {} if value is None else {name: number(value)}


def _number(value: Mapping[str, str]) -> int:
    return int(value["N"])


def _number_or_none(value: Mapping[str, str] | None) -> int | None:
    return None if value is None else _number(value)


def unchanged(thread: Thread | None) -> dict[str, Any]:
    """The condition that a thread is in the table as it was read, or still absent."""
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
    """The change that makes a thread disappear, if it exists: from the list, too, but not from the table."""
    names = ("deleted", "updated", EXPIRY, "expires")
    exists = "attribute_exists(pk) AND attribute_not_exists(#deleted)"
    return {
        "UpdateExpression": f"SET #deleted = :token REMOVE #updated, #{EXPIRY}",
        "ConditionExpression": f"{exists} AND (attribute_not_exists(#expires) OR #expires > :now)",
        "ExpressionAttributeNames": {f"#{name}": name for name in names},
        "ExpressionAttributeValues": {":token": {"S": token}, ":now": number(now)},
    }
