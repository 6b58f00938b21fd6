"""The contract: states and threads expire."""

from __future__ import annotations

from datetime import timedelta
from math import inf, nan
from typing import Any, Final

import pytest

from agent_persistence.checkpointer import Capability, Checkpointer
from agent_persistence.errors import StateConflictError
from agent_persistence.testing.contract import Contract, Named, ids_of, needs, needs_absence_of, pages_of, refused

# Seconds. Short enough to wait for, and long enough that a slow machine makes the calls before it has passed.
_SHORT: Final = 0.25
_LONG: Final = 600.0


class ExpiryContract(Contract):
    """Tests of the time to live."""

    @needs(Capability.TTL)
    async def test_an_expired_thread_is_gone_and_another_is_not(self, checkpointer: Checkpointer, named: Named) -> None:
        short_id, long_id = named("short", "long")
        short = await checkpointer.save_state(short_id, 1, ttl=_SHORT)
        lasting = await checkpointer.save_state(long_id, 1, ttl=_LONG)
        for saved, ttl in ((short, _SHORT), (lasting, _LONG)):
            assert saved.expires_at is not None
            assert saved.expires_at - saved.created_at == timedelta(seconds=ttl)

        await self.let_pass(_SHORT + 0.05)

        assert await checkpointer.load_state(short_id) is None
        assert await checkpointer.load_state(long_id) == lasting
        assert ids_of(await checkpointer.list_threads()) == [long_id]
        if Capability.HISTORY in self.backend.capabilities:
            assert await checkpointer.load_state(short_id, version=short.version) is None
            assert len(await checkpointer.state_history(short_id)) == 0
        assert not await checkpointer.delete_thread(short_id)

    @needs(Capability.TTL)
    async def test_a_thread_that_has_expired_begins_anew(self, checkpointer: Checkpointer, thread_id: str) -> None:
        await checkpointer.save_state(thread_id, "kept for long", ttl=_LONG)
        saved = await checkpointer.save_state(thread_id, "kept for short", ttl=_SHORT)
        await self.let_pass(_SHORT + 0.05)

        if Capability.EXPECTED_VERSION in self.backend.capabilities:
            with pytest.raises(StateConflictError):
                await checkpointer.save_state(thread_id, 2, expected_version=saved.version)
        again = await checkpointer.save_state(thread_id, "anew")

        assert again.version > saved.version
        assert await checkpointer.load_state(thread_id) == again
        if Capability.HISTORY in self.backend.capabilities:
            assert list(await checkpointer.state_history(thread_id)) == [again]

    @needs(Capability.TTL)
    async def test_every_save_says_anew_how_long_a_thread_lives(self, checkpointer: Checkpointer, named: Named) -> None:
        renewed_id, kept_id, cut_id = named("renewed", "kept", "cut")
        await checkpointer.save_state(renewed_id, 1, ttl=_SHORT)
        renewed = await checkpointer.save_state(renewed_id, 2, ttl=_LONG)
        short = await checkpointer.save_state(kept_id, 1, ttl=_SHORT)
        kept = await checkpointer.save_state(kept_id, 2)
        await checkpointer.save_state(cut_id, 1)
        await checkpointer.save_state(cut_id, 2, ttl=_SHORT)

        await self.let_pass(_SHORT + 0.05)

        assert await checkpointer.load_state(renewed_id) == renewed
        assert await checkpointer.load_state(kept_id) == kept
        assert await checkpointer.load_state(cut_id) is None
        if Capability.HISTORY in self.backend.capabilities:  # an older state expires although its thread does not
            assert list(await checkpointer.state_history(kept_id)) == [kept]
            assert await checkpointer.load_state(kept_id, version=short.version) is None

    @needs(Capability.TTL)
    async def test_expired_threads_take_no_places_on_a_page(self, checkpointer: Checkpointer, named: Named) -> None:
        kept = named(*range(4))
        for thread_id in kept:
            await checkpointer.save_state(thread_id, {})
            await checkpointer.save_state(f"{thread_id}-expired", {}, ttl=_SHORT)
            await checkpointer.save_state(f"{thread_id}-expired too", {}, ttl=_SHORT)

        await self.let_pass(_SHORT + 0.05)

        assert await pages_of(checkpointer, 2) == [[kept[3], kept[2]], [kept[1], kept[0]]]

    @needs(Capability.TTL)
    @pytest.mark.parametrize("bad", [0, -1, nan, inf, True, "5", 1e12])
    async def test_what_is_no_time_to_live_is_refused(
        self, checkpointer: Checkpointer, thread_id: str, bad: Any
    ) -> None:
        assert await refused(checkpointer.save_state(thread_id, {}, ttl=bad)) == "ttl"

    @needs_absence_of(Capability.TTL)
    async def test_without_a_time_to_live_it_is_refused(self, checkpointer: Checkpointer, thread_id: str) -> None:
        assert await refused(checkpointer.save_state(thread_id, {}, ttl=5)) == "ttl"
        assert await checkpointer.load_state(thread_id) is None
