"""What a store does, written down in its order."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from agent_persistence.cache.register import StateRegister
from agent_persistence.persistence import Persistence

_WRITES = ("INSERT", "UPDATE ", "DELETE")
_LOCKS = "FOR NO KEY UPDATE"


class RecordingRegister(StateRegister):
    """The real register, which also writes down what Redis has acknowledged."""

    def __init__(self, register: StateRegister, log: list[str]) -> None:
        vars(self).update(vars(register))  # its connection too
        self.log = log

    async def held(self, *args: Any) -> Any:
        return await self._noted("read", super().held(*args))

    async def lease(self, *args: Any) -> Any:
        return await self._noted("lease", super().lease(*args))

    async def fill(self, *args: Any) -> Any:
        return await self._noted("fill", super().fill(*args))

    async def begin_write(self, *args: Any) -> Any:
        return await self._noted("begin_write", super().begin_write(*args))

    async def publish(self, *args: Any) -> Any:
        return await self._noted("publish", super().publish(*args))

    async def abort(self, *args: Any) -> Any:
        return await self._noted("abort", super().abort(*args))

    async def invalidate(self, *args: Any) -> Any:
        return await self._noted("invalidate", super().invalidate(*args))

    async def _noted(self, name: str, command: Awaitable[Any]) -> Any:
        result = await command
        self.log.append(name)
        return result


def record(store: Persistence[Any, Any], *engines: AsyncEngine) -> list[str]:
    """Write down from now on: statements that lock, write or read; commits; acknowledged commands of the cache."""
    steps: list[str] = []
    assert store.cache is not None
    store.cache._register = RecordingRegister(store.cache._register, steps)  # noqa: SLF001 - behind the API
    for engine in (store.engine, *engines):
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: steps.append(_kind_of(args[2])))
        event.listen(engine.sync_engine, "commit", lambda _: steps.append("COMMIT"))
    return steps


def _kind_of(sql: str) -> str:
    if any(word in sql.replace(_LOCKS, "") for word in _WRITES):
        return "write"
    return "lock" if _LOCKS in sql else "select"
