"""The types of ids that a database can be created with: string, int, bigint, uuid."""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal

from sqlalchemy import ARRAY, BigInteger, Integer, String, Text, Uuid
from sqlalchemy.types import TypeEngine
from typing_extensions import TypeVar

from agent_persistence.errors import InvalidInputError

IdValue = str | int | uuid.UUID
IdKind = Literal["string", "int", "bigint", "uuid"]

T = TypeVar("T", bound=IdValue, default=Any)
IdT = TypeVar("IdT", bound=IdValue, default=str)
UserIdT = TypeVar("UserIdT", bound=IdValue, default=str)

MAX_STRING_ID_LENGTH: Final = 255
_FORBIDDEN_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class IdType(Generic[T]):
    """A type of ids: its name in the settings, its Python type, its column type.

    Attributes:
        name: its value of ``PERSISTENCE_ID_TYPE``.
        python_type: ``str``, ``int`` or ``uuid.UUID``.
        sql_type: creates the column type.
        generated: whether the database makes ids of this type (IDENTITY) that are not given.
    """

    name: IdKind
    python_type: type[T]
    sql_type: Callable[[], TypeEngine[T]] = field(repr=False)
    generated: bool = field(default=False, repr=False)
    _bits: int = field(default=0, repr=False)

    def validate(self, value: object, field_name: str) -> T:
        """Return ``value`` if it is an id of this type.

        Raises:
            InvalidInputError: it is not. Nothing is converted: ``True`` is not an int.
        """
        # A subclass may print differently (an enum of strings does); the driver's subclass of UUID does not.
        exact = type(value) is self.python_type or self.python_type is uuid.UUID
        if not isinstance(value, self.python_type) or not exact:
            raise InvalidInputError(field_name, f"must be {self._article()}, not {type(value).__name__}")
        if isinstance(value, str):
            _refuse_bad_string_id(value, field_name)
        elif isinstance(value, int) and not -(1 << self._bits) <= value < (1 << self._bits):
            raise InvalidInputError(field_name, f"is outside the range of {self.name}")
        return value

    def parse(self, text: str, field_name: str) -> T:
        """Read an id from the text of a command line or a URL path.

        Raises:
            InvalidInputError: the text is not an id of this type.
        """
        value: object = text
        if self.python_type is not str:
            try:
                value = self.python_type(text)
            except ValueError:
                raise InvalidInputError(field_name, f"must be {self._article()}") from None
        return self.validate(value, field_name)

    def parse_exact(self, value: object, field_name: str) -> T:
        """Read an id, of whose text only the canonical spelling is accepted: two texts are never the same id.

        Raises:
            InvalidInputError: the value is not an id of this type, or its text is spelled differently, as ``"07"``.
        """
        if self.python_type is str or not isinstance(value, str):
            return self.validate(value, field_name)
        parsed = self.parse(value, field_name)
        if str(parsed) != value:
            raise InvalidInputError(field_name, f"must be {self.name} in its canonical spelling")
        return parsed

    def array_type(self) -> ARRAY[Any]:
        """Return the type of one parameter that holds many ids: a statement has at most 32,767 parameters."""
        one: TypeEngine[Any] = Text() if self.python_type is str else self.sql_type()
        return ARRAY(one)

    def _article(self) -> str:
        return {"string": "a string", "int": "an int", "bigint": "an int", "uuid": "a uuid.UUID"}[self.name]


def _refuse_bad_string_id(value: str, field_name: str) -> None:
    if not value:
        raise InvalidInputError(field_name, "must not be empty")
    if len(value) > MAX_STRING_ID_LENGTH:
        raise InvalidInputError(field_name, f"is longer than {MAX_STRING_ID_LENGTH} characters")
    if _FORBIDDEN_IN_IDS.search(value):
        raise InvalidInputError(field_name, "must not hold control characters or lone surrogates")


# COLLATE "C" compares text ids as bytes. A linguistic collation costs a third more CPU for each comparison, and its
# order can change with the operating system, which would corrupt the index.
STRING: Final = IdType("string", str, lambda: String(MAX_STRING_ID_LENGTH, collation="C"))
INT: Final = IdType("int", int, Integer, generated=True, _bits=31)
BIGINT: Final = IdType("bigint", int, BigInteger, generated=True, _bits=63)
UUID: Final = IdType("uuid", uuid.UUID, Uuid)

ID_TYPES: Final[dict[IdKind, IdType[Any]]] = {kind.name: kind for kind in (STRING, INT, BIGINT, UUID)}


# No slots: with them, `IdTypes[str, int](...)` is a TypeError.
@dataclass(frozen=True)
class IdTypes(Generic[IdT, UserIdT]):
    """The id types of one database: of threads and messages, and of the users who own them."""

    id: IdType[IdT]
    user: IdType[UserIdT]


# Made in Python, because PostgreSQL has uuidv7() from version 18 on, and Python has uuid.uuid7() from 3.14 on.
_RANDOM_BYTES: Final = 4096


class _Clock:
    """The last number drawn, so that the next one is greater: 48 bits of milliseconds and 74 random ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._random: list[int] = []

    def next(self) -> int:
        now = time.time_ns() // 1_000_000 << 74
        with self._lock:
            if now > self._last:
                self._last = now | (self._draw() << 64 | self._draw() << 32 | self._draw()) >> 22
            else:  # within a millisecond, or the clock was set back
                # A random step (RFC 9562, 6.2, method 2): with a step of 1, an id would tell the one that follows it.
                self._last += 1 + self._draw()
            return self._last

    def start_anew(self) -> None:
        """Discard the random bytes that this process shares with the one it was forked from, and free the lock."""
        # Another thread of that process may have held the lock, and does not exist here.
        self._lock, self._random = threading.Lock(), []

    def _draw(self) -> int:
        """Draw 32 random bits."""
        if not self._random:
            # One system call for hundreds of ids.
            self._random = [*memoryview(os.urandom(_RANDOM_BYTES)).cast("I")]
        return self._random.pop()


_clock = _Clock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clock.start_anew)


def uuid7() -> uuid.UUID:
    """Make a time-ordered id (RFC 9562, version 7), greater than all that this process made before.

    48 bits of milliseconds and 12 + 62 random bits; within a millisecond, the last id is incremented by a random step.
    """
    return uuid.UUID(int=_uuid7_bits())


def _uuid7_text() -> str:
    """Make such an id as text, three times as fast as by way of a ``UUID``."""
    digits = f"{_uuid7_bits():032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _uuid7_bits() -> int:
    drawn = _clock.next()
    time_and_a, b = drawn >> 62, drawn & ((1 << 62) - 1)
    time_bits, a = time_and_a >> 12, time_and_a & 0xFFF
    return (time_bits << 80) | (7 << 76) | (a << 64) | (0b10 << 62) | b


def id_maker(kind: IdType[T], generator: Literal["database", "uuid7", "uuid4"]) -> Callable[[], T] | None:
    """Return the function that makes new ids of a type in Python, or ``None`` if the database makes them.

    Raises:
        ValueError: the generator cannot make ids of this type.
    """
    if generator == "database":
        if not kind.generated:
            raise ValueError(f"the database makes no ids of type {kind.name}; use uuid7, uuid4 or a callable")
        return None
    makers: dict[type, Callable[[], Any]] = {uuid.UUID: uuid.uuid4, str: lambda: str(uuid.uuid4())}
    if generator == "uuid7":
        makers = {uuid.UUID: uuid7, str: _uuid7_text}
    if kind.python_type not in makers:
        raise ValueError(f"{generator} makes no ids of type {kind.name}; use database or a callable")
    return makers[kind.python_type]
