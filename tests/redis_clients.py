"""Redis clients that tests look through: each thing that is sent passes one method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis


class WatchedRedis(Redis):
    """A real client; a subclass says what happens around each round trip."""

    async def around(self, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a command or a pipeline, and return the answer; a subclass does something before or after."""
        del name
        return await send()

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """Send one command."""
        return await self.around(str(words[0]), partial(super().execute_command, *words, **options))

    def pipeline(self, *arguments: Any, **options: Any) -> Any:
        """Make a pipeline, which is sent as one."""
        made = super().pipeline(*arguments, **options)
        send = made.execute
        made.execute = lambda *words, **options: self.around("pipeline", partial(send, *words, **options))  # type: ignore[method-assign]  # of this one object
        return made
