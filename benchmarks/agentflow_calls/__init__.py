"""w12: the methods of Agentflow's checkpointers, as its graphs and its server call them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from agentflow.core.state import AgentState, Message
from agentflow.utils.thread_info import ThreadInfo

from benchmarks.contender import Contender, Operation, Samples, Thread
from benchmarks.workload import SMALL

_PAGE = 20
_THREADS = 24
_FURNISHED = slice(100, 100 + _PAGE)
_NAMESPACE = "benchmark"
_RESULT = {"status": "done", "refunded": 12.5}
_TOOL = "the call"
_ID = 36  # what follows it in an id is one of several threads of the same user


class State(AgentState):  # type: ignore[misc,unused-ignore]  # it is Any where the package is not installed
    """A state that carries a sample."""

    payload: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it


class Calls(Contender):
    """Calls a checkpointer. Each thread has a user of its own, whose id is the thread's."""

    store: Any

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.configs: dict[str, dict[str, Any]] = {}

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:
        """Make a thread with a state, 20 messages and a result of a tool; to read from, more of the same user."""
        config = _config(thread)
        for number in range(_THREADS if kind == "read" else 0):
            other = {**config, "thread_id": f"{thread.id}-{number}"}
            await self.store.aput_thread(other, ThreadInfo(thread_id=other["thread_id"], thread_name="Refund"))
        await self.put_thread(thread)
        await self.put_checkpoint(thread, samples.messages[_FURNISHED], samples.states[SMALL][-1])
        await self.store.aget_state(config)
        self.configs[thread.id] = config
        await self.put_state_cache(thread, (), samples.states[SMALL][-1])
        await self.store.aput_messages(config, [Message.text_message("The first.", "user", _first(thread))])
        await self.store.aput_tool_result(config, _TOOL, _RESULT)
        await self.put_cache_value(thread)

    async def put_state(self, thread: Thread, _messages: Any, state: Any) -> Any:
        """``aput_state``."""
        return await self.store.aput_state(_config(thread), State(payload=state))

    async def put_state_cache(self, thread: Thread, _messages: Any, state: Any) -> Any:
        """``aput_state_cache``, with the config of a run that has read the state."""
        return await self.store.aput_state_cache(self.configs[thread.id], State(payload=state))

    async def put_checkpoint(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> Any:
        """``aput_checkpoint``, which each turn of a graph calls."""
        return await self.store.aput_checkpoint(_config(thread), State(payload=state), _made(messages))

    async def put_messages(self, thread: Thread, messages: Sequence[dict[str, Any]], _state: Any) -> Any:
        """``aput_messages``."""
        return await self.store.aput_messages(_config(thread), _made(messages))

    async def get_state(self, thread: Thread) -> Any:
        """``aget_state``."""
        return (await self.store.aget_state(_config(thread))).payload

    async def get_state_cache(self, thread: Thread) -> Any:
        """``aget_state_cache``."""
        return (await self.store.aget_state_cache(_config(thread))).payload

    async def clear_state(self, thread: Thread, _messages: Any, state: Any) -> Any:
        """``aput_state``, ``aclear_state``."""
        await self.put_state(thread, _messages, state)
        await self.store.aclear_state(_config(thread))

    async def get_message(self, thread: Thread) -> Any:
        """``aget_message``."""
        return (await self.store.aget_message(_config(thread), _first(thread))).text()

    async def list_messages(self, thread: Thread) -> Any:
        """``alist_messages``: the first 20."""
        return [one.text() for one in await self.store.alist_messages(_config(thread), limit=_PAGE)]

    async def delete_message(self, thread: Thread) -> Any:
        """``aput_messages`` of one, ``adelete_message``."""
        message = Message.text_message("Not this.", "user", f"{thread.id}-{next(self.numbers)}")
        await self.store.aput_messages(_config(thread), [message])
        await self.store.adelete_message(_config(thread), message.message_id)

    async def put_thread(self, thread: Thread) -> Any:
        """``aput_thread`` of one that is there."""
        return await self.store.aput_thread(_config(thread), ThreadInfo(thread_id=thread.id, thread_name="Refund"))

    async def get_thread(self, thread: Thread) -> Any:
        """``aget_thread``."""
        return (await self.store.aget_thread(_config(thread))).thread_id

    async def list_threads(self, thread: Thread) -> Any:
        """``alist_threads``: 20 of the user's."""
        return [one.thread_id for one in await self.store.alist_threads(_config(thread), limit=_PAGE)]

    async def get_thread_owner(self, thread: Thread) -> Any:
        """``aget_thread_owner``."""
        return await self.store.aget_thread_owner(thread.id)

    async def clean_thread(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> Any:
        """``aput_checkpoint`` of a new thread, ``aclean_thread``."""
        other = Thread(f"{thread.id}-{next(self.numbers)}-new", thread.user)
        await self.put_checkpoint(other, messages, state)
        await self.store.aclean_thread(_config(other))

    async def put_tool_result(self, thread: Thread) -> Any:
        """``aput_tool_result``."""
        return await self.store.aput_tool_result(_config(thread), f"call-{next(self.numbers)}", _RESULT)

    async def get_tool_result(self, thread: Thread) -> Any:
        """``aget_tool_result``."""
        return await self.store.aget_tool_result(_config(thread), _TOOL)

    async def put_cache_value(self, thread: Thread) -> Any:
        """``aput_cache_value``."""
        return await self.store.aput_cache_value(_NAMESPACE, thread.id, _RESULT, 3600)

    async def get_cache_value(self, thread: Thread) -> Any:
        """``aget_cache_value``."""
        return await self.store.aget_cache_value(_NAMESPACE, thread.id)

    async def clear_cache_value(self, thread: Thread) -> Any:
        """``aput_cache_value``, ``aclear_cache_value``."""
        key = f"{thread.id}-{next(self.numbers)}"
        await self.store.aput_cache_value(_NAMESPACE, key, _RESULT, 3600)
        await self.store.aclear_cache_value(_NAMESPACE, key)

    async def list_cache_keys(self, thread: Thread) -> Any:
        """``alist_cache_keys``, of which there is one for each thread."""
        return thread.id in await self.store.alist_cache_keys(_NAMESPACE)

    async def request_stop(self, thread: Thread) -> Any:
        """``arequest_stop``, ``aclear_stop_request``."""
        await self.store.arequest_stop(_config(thread))
        await self.store.aclear_stop_request(_config(thread))

    async def is_stop_requested(self, thread: Thread) -> Any:
        """``ais_stop_requested``, which each step of a graph calls."""
        return await self.store.ais_stop_requested(_config(thread))

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:
        """Compare what it returned, and what can be read after it, with what was written."""
        method = key.removeprefix("w12-").replace("-", "_")
        first, last = samples.states[SMALL][0], samples.states[SMALL][-1]
        furnished, appended = (_texts(samples.messages[part]) for part in (_FURNISHED, slice(2)))
        others = _THREADS if method.startswith(("get", "list", "is")) else 0
        threads = [thread.id, *(f"{thread.id}-{number}" for number in reversed(range(others)))]
        returned = {
            **dict.fromkeys(("get_state", "get_state_cache"), last),
            **dict.fromkeys(("get_thread", "get_thread_owner"), thread.id),
            **dict.fromkeys(("get_tool_result", "get_cache_value"), _RESULT),
            "get_message": "The first.",
            "is_stop_requested": False,
            "list_cache_keys": True,
            "list_messages": sorted(furnished),
            "list_threads": sorted(threads[:_PAGE]),
        }
        state = {"put_state": first, "put_checkpoint": first, "clear_state": None}.get(method, last)
        said = [*furnished, "The first.", *(appended if method in {"put_messages", "put_checkpoint"} else [])]
        found = await operation(thread)
        found = sorted(found) if isinstance(found, list) else found
        read = await self._read(thread)
        is_kept = method != "put_state_cache" or await self.get_state_cache(thread) == first
        return (
            is_kept
            and returned.get(method, found) == found
            and read == (state, sorted(said), sorted(threads), "Refund")
        )

    async def _read(self, thread: Thread) -> tuple[Any, ...]:
        config = _config(thread)
        state = await self.store.aget_state(config)
        said = [one.text() for one in await self.store.alist_messages(config)]
        threads = [one.thread_id for one in await self.store.alist_threads(config)]
        name = (await self.store.aget_thread(config)).thread_name
        return state and state.payload, sorted(said), sorted(threads), name


def _texts(messages: Sequence[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


def _config(thread: Thread) -> dict[str, Any]:
    return {"thread_id": thread.id, "user_id": thread.id[:_ID]}


def _made(messages: Sequence[dict[str, Any]]) -> list[Any]:
    return [Message.text_message(one["content"], one["role"]) for one in messages]


def _first(thread: Thread) -> str:
    return f"{thread.id}-first"
