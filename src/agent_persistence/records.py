"""The frozen values that the repositories give and take; they hold no session and no connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final, Generic, Literal, NamedTuple

from typing_extensions import TypeVar

from agent_persistence.errors import CorruptRowError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT

T = TypeVar("T")


class AnyUser(Enum):
    """The type of ``ANY_USER``."""

    ANY_USER = "any user"


ANY_USER: Final = AnyUser.ANY_USER
"""In place of a ``user_id``: every owner's data. For administration; never for a request of a user."""


class Unset(Enum):
    """The type of ``UNSET``."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""The default of arguments for which ``None`` has a meaning of its own."""


class MessageRole(StrEnum):
    """Who said a message: the labels of the database's enum ``message_role``."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


@frozen
class ThreadRecord(Generic[IdT, UserIdT]):
    """A thread as it stands in the database."""

    thread_id: IdT
    user_id: UserIdT
    name: str | None
    meta: dict[str, Any] = field(repr=False)
    archived_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def archived(self) -> bool:
        """Whether the thread is archived."""
        return self.archived_at is not None


@frozen
class StateStream:
    """What is known of a state that was streamed in, without reading it.

    Attributes:
        size: how many bytes it has.
        sha256: their digest, in hexadecimal.
        chunks: in how many pieces it is kept, and comes back.
    """

    size: int
    sha256: str
    chunks: int


@frozen
class StateRecord(Generic[IdT]):
    """One saved state of a thread.

    Attributes:
        version: grows with every saved state of a thread; pass it as ``expected_version`` to save over it.
        data: ``None`` for a state that was streamed in; ``open_stream`` reads it.
        stream: what is known of a state that was streamed in; ``None`` for every other.
    """

    thread_id: IdT
    version: int
    data: Any = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    created_at: datetime
    updated_at: datetime
    stream: StateStream | None = None


class SavedState(NamedTuple):
    """A latest state as it was sent to the database: bytes, which a caller's later changes cannot reach."""

    version: int
    data: bytes
    meta: bytes
    created_at: datetime
    updated_at: datetime


class TouchedState(NamedTuple):
    """Whose latest state a transaction changed."""

    thread_id: Any
    user_id: Any


Touched = dict[TouchedState, SavedState | None]
"""The latest state that this transaction leaves behind, or ``None`` where the next reader has to look."""


@frozen
class MessageRecord(Generic[IdT]):
    """One message of a thread.

    Attributes:
        seq: the message's place; greater means later in its thread.
        role: a ``MessageRole``, or the plain label where a newer version of the schema added one.
        message: the message as it was given, in the chat-completions shape, equal to the last bit.
        text: its plain text, for people and for search.
    """

    thread_id: IdT
    message_id: IdT
    seq: int
    role: MessageRole | str
    message: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)
    total_tokens: int
    usages: dict[str, Any] = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    created_at: datetime
    updated_at: datetime

    @property
    def content(self) -> Any:
        """The content as it was given: text, ``None``, or a list of parts."""
        return self.message.get("content")

    @property
    def tool_calls(self) -> Any:
        """The calls that the assistant asked for, or ``None``."""
        return self.message.get("tool_calls")

    @property
    def tool_call_id(self) -> str | None:
        """The call that a tool's message answers, or ``None``."""
        return self.message.get("tool_call_id")


@dataclass(frozen=True, kw_only=True)  # with slots, `NewMessage[str](...)` is a TypeError
class NewMessage(Generic[IdT]):
    """A message to append, where the bare mapping does not say enough.

    Attributes:
        message: the message in the chat-completions shape: ``role``, ``content``, and whatever else it carries.
        message_id: makes the append idempotent: the same id and content again changes nothing. Made if left out.
    """

    message: Mapping[str, Any] = field(repr=False)
    message_id: IdT | None = None
    total_tokens: int = 0
    usages: Mapping[str, Any] = field(default_factory=dict, repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)  # with slots, `NewThread[str](...)` is a TypeError
class NewThread(Generic[IdT]):
    """A thread with all that is in it, to be added at once.

    Attributes:
        thread_id: made if left out.
        messages: in their order.
        states: any JSON values, the latest at the end.
    """

    thread_id: IdT | None = None
    name: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    messages: Sequence[Mapping[str, Any] | NewMessage[IdT]] = field(default=(), repr=False)
    states: Sequence[Any] = field(default=(), repr=False)


@frozen
class Page(Generic[T]):
    """Some rows of a longer list, and the cursors to what lies around them.

    Attributes:
        items: the rows, in the order of the list.
        before: give it as ``before=`` for the rows that precede these; ``None`` where there are known to be none.
        after: give it as ``after=`` for the rows that follow these; ``None`` where there can be none.
        corrupt: rows of this page that could not be read back; the others could.
    """

    items: tuple[T, ...]
    before: str | None = None
    after: str | None = None
    corrupt: tuple[CorruptRowError, ...] = ()

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


Unchanged = Literal[Unset.UNSET]
