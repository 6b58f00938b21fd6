"""Values that repositories take and return; they hold no session and no connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, NamedTuple

from pydantic import ConfigDict, Field, InstanceOf
from typing_extensions import TypeVar

from agent_persistence.errors import CorruptRowError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT

T = TypeVar("T")


# An enum with one member and not an ``object()``: type checkers narrow by it, and a copy of it is the same object.
class AnyUser(Enum):
    """The type of ``ANY_USER``."""

    ANY_USER = "any user"


ANY_USER: Final = AnyUser.ANY_USER
"""In place of a ``user_id``: the data of every owner. For administration, never for a user's request."""


class Unset(Enum):
    """The type of ``UNSET``."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""The default of arguments where ``None`` is a value."""


class MessageRole(StrEnum):
    """The role of a message's author: the labels of the PostgreSQL enum ``message_role``."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


@frozen
class ThreadRecord(Generic[IdT, UserIdT]):
    """A thread as it is stored.

    Attributes:
        thread_id: unique in the database.
        user_id: the owner.
        name: a title, or ``None``.
        meta: a JSON object of the application.
        archived_at: when it was archived, or ``None``.
        created_at: when it was created, by the database's clock.
        updated_at: when a message or state was last added, to within ``PERSISTENCE_THREAD_TOUCH_INTERVAL``.
    """

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


Namespace = tuple[str, ...]
"""Labels from the widest to the narrowest, such as ``("users", "u-42", "memories")``; none holds a period."""


class ItemKey(NamedTuple):
    """The place of an item among those of its owner.

    Attributes:
        namespace: at least one label.
        key: unique in the namespace.
    """

    namespace: Namespace
    key: str


@dataclass(frozen=True, kw_only=True)
class NewItem:
    """An item to put.

    Attributes:
        namespace: at least one label; none is empty or holds a period. Joined by periods at most 800 bytes in UTF-8.
        key: at most 800 bytes in UTF-8.
        value: a JSON object.
        ttl: seconds until it expires; ``None`` for never.
        vectors: embeddings of the value's texts, for ``search(near=...)``. They need the optional object ``vectors``,
            whose dimensions they have.
    """

    namespace: Namespace
    key: str
    value: Mapping[str, Any] = field(repr=False)
    ttl: float | None = None
    vectors: Sequence[Sequence[float]] = field(default=(), repr=False)


@frozen
class ItemRecord:
    """An item as it is stored.

    Attributes:
        namespace: its labels.
        key: unique in the namespace.
        value: a JSON object.
        created_at: when it was first put, by the database's clock.
        updated_at: when it was last put.
        expires_at: from when on no read returns it; ``None`` for never.
        score: of ``search(near=...)``: the cosine similarity of the nearest of its vectors, from -1 to 1; ``None`` for
            an item without vectors, and for other reads.
    """

    namespace: Namespace
    key: str
    value: dict[str, Any] = field(repr=False)
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    score: float | None = None


@frozen
class StateStream:
    """The description of a streamed state.

    Attributes:
        size: its size in bytes.
        sha256: the SHA-256 of these bytes, in hexadecimal.
        chunks: the number of chunks in which it is stored and read.
    """

    size: int
    sha256: str
    chunks: int


@frozen
class StateRecord(Generic[IdT]):
    """One saved state of a thread.

    Attributes:
        thread_id: the thread.
        version: grows with every saved state of a thread; pass it as ``expected_version`` to save over it.
        data: the JSON value that was saved; ``None`` for a streamed state, which ``open_stream`` reads.
        meta: a JSON object of the application.
        created_at: when it was saved, by the database's clock.
        updated_at: when SQL of the host changed it; otherwise ``created_at``.
        stream: the description of a streamed state; ``None`` for every other.
    """

    thread_id: IdT
    version: int
    data: Any = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    created_at: datetime
    updated_at: datetime
    stream: StateStream | None = None


class SavedState(NamedTuple):
    """A latest state as it was sent to the database: bytes, which later changes of the caller's value do not reach."""

    version: int
    data: bytes
    meta: bytes
    created_at: datetime
    updated_at: datetime


class TouchedState(NamedTuple):
    """A thread and owner whose latest state a transaction changed."""

    thread_id: Any
    user_id: Any


Touched = dict[TouchedState, SavedState | None]
"""The latest states that a transaction leaves; ``None`` where the next reader must read the table."""


@frozen
class MessageRecord(Generic[IdT]):
    """One message of a thread.

    Attributes:
        thread_id: the thread.
        message_id: unique within the thread.
        seq: the message's position; greater means later in its thread.
        role: a ``MessageRole``, or the label where a newer version of the schema added one.
        message: the message as it was given, in the chat-completions shape, exactly equal.
        text: its plain text, for display and search.
        total_tokens: as given by the application.
        usages: a JSON object, as given by the application.
        meta: a JSON object of the application.
        created_at: when it was added, by the database's clock.
        updated_at: when it was last changed.
        aside: ``None`` for a message of the conversation; otherwise who keeps this row between the messages:
            a framework's record of a search, or of a compaction.
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
    aside: str | None = None

    @property
    def content(self) -> Any:
        """The content as it was given: text, ``None``, or a list of parts."""
        return self.message.get("content")

    @property
    def tool_calls(self) -> Any:
        """The tool calls that the assistant requests, or ``None``."""
        return self.message.get("tool_calls")

    @property
    def tool_call_id(self) -> str | None:
        """The id of the tool call that this message answers, or ``None``."""
        return self.message.get("tool_call_id")


# No slots: with them, `NewMessage[str](...)` is a TypeError.
@dataclass(frozen=True, kw_only=True)
class NewMessage(Generic[IdT]):
    """A message to append, with more fields than its mapping has.

    Attributes:
        message: the message in the chat-completions shape: ``role``, ``content``, and any other JSON fields.
        message_id: makes the append idempotent: a second one with the same id and content changes nothing. Made if
            left out.
        total_tokens: 0 to 2,147,483,647.
        usages: a JSON object.
        meta: a JSON object.
        aside: for a row that has its place between the messages and is none of the conversation: the name of who keeps
            it, 1 to 64 letters, digits, ``_``, ``.`` and ``-``. Pages show it only if they are asked for asides.
    """

    message: Mapping[str, Any] = field(repr=False)
    message_id: IdT | None = None
    total_tokens: int = 0
    usages: Mapping[str, Any] = field(default_factory=dict, repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    aside: str | None = None


@dataclass(frozen=True, kw_only=True)  # with slots, `NewThread[str](...)` is a TypeError
class NewThread(Generic[IdT]):
    """A thread with its messages and states, for ``create_many``.

    Attributes:
        thread_id: made if left out.
        name: a title, at most 255 characters.
        meta: a JSON object.
        messages: in their order.
        states: JSON values, the latest at the end.
    """

    thread_id: IdT | None = None
    name: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    messages: Sequence[Mapping[str, Any] | NewMessage[IdT]] = field(default=(), repr=False)
    states: Sequence[Any] = field(default=(), repr=False)


_PAGE: Final = "A page of a list, with cursors to the pages around it."


@frozen
class Page(Generic[T]):
    """A page of a list, with cursors to the pages around it.

    Attributes:
        items: the rows, in the order of the list.
        before: pass it as ``before=`` for the rows that precede these; ``None`` if there are none.
        after: pass it as ``after=`` for the rows that follow these; ``None`` if there are none.
        corrupt: an error for each row of the page that cannot be read.
    """

    # For responses in a model of the application, Page[ThreadOut]: pydantic would otherwise take this page as one and
    # send the records whole, with the fields that the model leaves out.
    # OpenAPI describes what is sent, without the last attribute.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        revalidate_instances="always", json_schema_extra={"description": _PAGE}
    )

    items: tuple[T, ...]
    before: Annotated[str | None, Field(description="cursor of the page before this one; null if there is none")] = None
    after: Annotated[str | None, Field(description="cursor of the page after this one; null if there is none")] = None
    # Marked for pydantic, so that a page is the response of an endpoint as it is; the errors are for the server.
    corrupt: Annotated[tuple[InstanceOf[CorruptRowError], ...], Field(exclude=True)] = ()

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


Unchanged = Literal[Unset.UNSET]
