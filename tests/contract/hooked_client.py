"""A DynamoDB client whose calls pass through hooks of a test; the calls themselves are real."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

Send = Callable[[], Awaitable[Any]]
Hook = Callable[[Send], Awaitable[Any]]

_NO_CALLS = ("exceptions", "get_paginator", "get_waiter")


class HookedClient:
    """Forwards calls, through a hook as often as it was added.

    Attributes:
        calls: the names of the calls, in order.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._hooks: dict[str, list[Hook]] = {}
        self.calls: list[str] = []

    def once(self, call: str, hook: Hook, *, times: int = 1) -> None:
        """Add a hook for the next calls of a name."""
        self._hooks.setdefault(call, []).extend([hook] * times)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return found if name in _NO_CALLS else partial(self._call, name, found)

    async def _call(self, name: str, call: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        self.calls.append(name)
        send = partial(call, **arguments)
        hooks = self._hooks.get(name)
        return await hooks.pop(0)(send) if hooks else await send()


def server_error(code: str, *reasons: str) -> ClientError:
    """An error that DynamoDB answers with; ``reasons`` are those of a canceled transaction."""
    error = {"Code": code, "Message": "canary-4711"}
    response: Any = {"Error": error, "CancellationReasons": [{"Code": reason} for reason in reasons]}
    return ClientError(response, "call")


def refusing(code: str, *reasons: str) -> Hook:
    """A hook that sends nothing and answers with an error."""

    async def refuse(_: Send) -> Any:
        raise server_error(code, *reasons)

    return refuse


def failing(error: Exception) -> Hook:
    """A hook that loses the reply after the request was executed."""

    async def lose(send: Send) -> Any:
        await send()
        raise error

    return lose
