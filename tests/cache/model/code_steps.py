"""What the code does about one key, in the model's terms."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Final

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from model.protocols import Action

_ARGUMENT: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_END: Final = "the end"


class WatchedKey:
    """Everything that is done about one key, in the order in which Redis heard of it.

    What goes to PostgreSQL is announced to Redis by an ECHO, before it is sent and after it came back. So it has its
    place in that order, and nothing comes between the two unnoticed.
    """

    def __init__(self, key: bytes, engine: Engine, redis: Redis, announcer: BlockingRedis) -> None:
        self._key, self._redis, self._announcer = key, redis, announcer
        self._has_locked = False
        self._listeners: list[tuple[Any, str, Callable[..., None]]] = [
            (engine, "before_cursor_execute", self._statement),
            (engine, "after_cursor_execute", self._statement),
            (engine, "commit", lambda _: self._announce(Action.COMMIT)),
            (Session, "after_commit", lambda _: self._announce(Action.COMMIT)),
            (engine, "rollback", self._rollback),
        ]

    async def actions(self, work: Callable[[], Awaitable[Any]]) -> list[Action]:
        """What is done while this work runs; the same several times in a row is once."""
        async with self._redis.monitor() as monitor:
            with self._announcing():
                await work()
            self._announce(_END)
            lines: list[bytes] = []
            while _END.encode() not in (line := await monitor.connection.read_response()):
                lines.append(line)
        ours = (line for line in lines if self._key in line and b" lua] " not in line)
        return [action for action, _ in groupby(action_of(_ARGUMENT.findall(line)) for line in ours)]

    @contextmanager
    def _announcing(self) -> Iterator[None]:
        for listener in self._listeners:
            event.listen(*listener)
        try:
            yield
        finally:
            for listener in self._listeners:
                event.remove(*listener)

    def _statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        locks = any(word in statement for word in ("INSERT", "UPDATE", "DELETE"))
        self._has_locked = self._has_locked or locks
        self._announce(Action.LOCK if locks else Action.SELECT)

    def _rollback(self, _connection: Any) -> None:
        if self._has_locked:  # a session that only reads ends by a rollback too
            self._announce(Action.ROLL_BACK)

    def _announce(self, action: str) -> None:
        self._announcer.echo(b"%b %b" % (self._key, action.encode()))


def action_of(command: Sequence[bytes]) -> Action:
    """What a command is that Redis received."""
    match command:
        case [b"ECHO", announced]:
            return Action(announced.partition(b" ")[2].decode())
        case [b"GET", _]:
            return Action.READ
        case [b"SET", _, token, *options]:
            return Action.LEASE if token.startswith(b"L") and b"NX" in options else Action.BEGIN
        case [b"EVAL" | b"EVALSHA", _, b"1", _, *arguments]:
            return _action_of_script([argument[:1] for argument in arguments])
    raise AssertionError(f"not of the protocol: {command[0]!r}")


def _action_of_script(arguments: Sequence[bytes]) -> Action:
    match arguments:
        case [b"L", b"V", _]:
            return Action.FILL
        case [b"W", b"V", _]:
            return Action.PUBLISH
        case [b"W", b"", _]:
            return Action.PUBLISH_NOTHING
        case [b"W"]:
            return Action.ABORT
        case [b"W", _]:
            return Action.INVALIDATE
    raise AssertionError(f"not a script of the protocol: {arguments!r}")
