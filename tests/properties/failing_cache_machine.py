"""The public API beside the same model, while Redis fails now and then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle, repeat
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis_clients import WatchedRedis

from agent_persistence.persistence import Persistence
from store_machine import OWNERS, State, StoreMachine, owners, values


class FailingRedis(WatchedRedis):
    """Refuses what is sent, or loses the answer, as it is told."""

    trouble: Iterator[str] = repeat("none")

    async def around(self, _name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        fault = next(self.trouble)
        if fault == "refused":
            raise RedisConnectionError("refused")
        answer = await send()
        if fault == "lost":
            raise RedisTimeoutError("the answer was lost")
        return answer


troubles = st.lists(st.sampled_from(["none", "refused", "lost"]), min_size=1, max_size=4).map(cycle)


class FailingCacheMachine(StoreMachine):
    """From the first fault until a sweep has made up for it, a read may show what was the latest state meanwhile.

    It never shows a state of another thread or owner, none that was not committed, and none that is older than the
    caller asks for.
    """

    # What has nothing to do with the cache leaves the time to what has.
    create_again = rename = archive = append = append_again = update_message = delete_message = None
    read_messages = lists_hold_what_the_model_holds = None

    def __init__(self) -> None:
        super().__init__()
        self.since_trouble: dict[tuple[str, str], list[State | None]] | None = None

    @initialize(target=StoreMachine.thread_ids, owner=owners)
    def open(self, owner: str) -> str:
        super().open()
        return self.create_thread(owner, None)

    async def make(self) -> Persistence[str, str]:
        assert self.settings.redis_url is not None
        self.redis = FailingRedis.from_url(self.settings.redis_url.get_secret_value())
        return Persistence(self.settings, redis=self.redis)

    async def close(self) -> None:
        await self.store.aclose()
        await self.redis.aclose()

    def teardown(self) -> None:
        if self.since_trouble is not None:
            self.sweep()
        if hasattr(self, "store"):
            self.run(self.close())
        self.runner.close()

    def go_on_in_another_process(self) -> None:
        """What the last one knew of the trouble is not known there, and Redis answers."""
        self.run(self.close())
        self.store = self.run(self.make())

    @rule(trouble=troubles)
    def begin_trouble(self, trouble: Iterator[str]) -> None:
        self.redis.trouble = trouble
        if self.since_trouble is None:
            self.since_trouble = {}
            self.note_latest_states()

    @rule(thread_id=StoreMachine.thread_ids, data=values, trouble=troubles)
    def put_in_trouble_that_passes(self, thread_id: str, data: Any, trouble: Iterator[str]) -> None:
        if thread_id not in self.model:
            return
        owner = self.model[thread_id].owner
        self.read_state(thread_id, owner, repeat=1)  # which puts it into the cache
        self.begin_trouble(trouble)
        self.put_state(thread_id, owner, data)
        self.go_on_in_another_process()
        self.read_what_it_has_to_be(thread_id, owner)

    @precondition(lambda self: self.since_trouble is not None)
    @rule()
    def sweep(self) -> None:
        self.go_on_in_another_process()
        self.run(self.store.sweep())
        self.since_trouble = None
        for thread_id in self.model:
            for owner in OWNERS:
                self.read_state(thread_id, owner, repeat=2)

    @rule(thread_id=StoreMachine.thread_ids, owner=owners)
    def read_what_it_has_to_be(self, thread_id: str, owner: str) -> None:
        latest, user_id = self.latest(thread_id, owner), self.user[owner]
        fresh = self.run(self.store.states.get(thread_id, user_id=user_id, fresh=True))
        assert (fresh and (fresh.version, fresh.data)) == latest
        if latest is not None:
            state = self.run(self.store.states.require(thread_id, user_id=user_id, min_version=latest[0]))
            assert (state.version, state.data) == latest

    @invariant()
    def note_latest_states(self) -> None:
        if self.since_trouble is None:
            return
        for thread_id in self.model.keys() | {thread_id for thread_id, _ in self.since_trouble}:
            for owner in OWNERS:
                seen = self.since_trouble.setdefault((thread_id, owner), [])
                if (latest := self.latest(thread_id, owner)) not in seen:
                    seen.append(latest)

    def allowed(self, thread_id: str, owner: str) -> list[State | None]:
        if self.since_trouble is None:
            return super().allowed(thread_id, owner)
        return self.since_trouble.get((thread_id, owner), [None])  # deleted before the trouble began
