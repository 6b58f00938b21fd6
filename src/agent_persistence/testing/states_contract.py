"""The contract: states are saved and loaded, version by version."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any, Final

import pytest

from agent_persistence.checkpointer import Capability, Checkpointer
from agent_persistence.errors import StateConflictError
from agent_persistence.testing.contract import Contract, exact, needs, needs_absence_of, refused, state_of, together

# Values that JSON libraries, JSONB or Lua may change: ints beyond doubles, signs of zeros, exponents, escapes.
_EXACT: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    "",
    [],
    {},
    {"": {"": []}},
    [1, 1.0, True, "1", None],
    {"whole": [2**63 - 1, -(2**63) + 1, 2**53 + 1], "floats": [0.1, 1e23, -1e300, 5e-324, 1.7976931348623157e308]},
    {"zeros": [0, 0.0, -0.0]},
    {"text": 'Grüße \U0001f642 \u2028 \x1b[31m \r\n\t \\u0000 \\ " {x} %s 100000000000000000000.0'},
    {"dates stay text": "2026-11-21T10:00:00Z", "1e5": "1e5", "\U0001f511": [[[[["deep"]]]]]},
)
# Values that would be loaded as others, or not at all.
_INEXACT: Final[tuple[Any, ...]] = (
    nan,
    inf,
    "a\0b",
    "\ud800",
    {"\0": 1},
    {"a\udfff": 1},
    {1: "one"},
    {None: 1},
    (1, 2),
    {1, 2},
    b"bytes",
    2**63,
    -(2**63),
    datetime(2026, 1, 1, tzinfo=UTC),
    object(),
)


class StatesContract(Contract):
    """Tests of the states of a thread."""

    # --- saving and loading ---

    async def test_before_the_first_save_there_is_nothing(self, checkpointer: Checkpointer, thread_id: str) -> None:
        assert await checkpointer.load_state(thread_id) is None
        assert not await checkpointer.delete_thread(thread_id)
        assert len(await checkpointer.list_threads()) == 0

    async def test_a_saved_state_comes_back(self, checkpointer: Checkpointer, thread_id: str) -> None:
        before = datetime.now(UTC) - timedelta(minutes=5)

        saved = await checkpointer.save_state(thread_id, {"step": 1})

        assert (saved.thread_id, saved.state, saved.expires_at) == (thread_id, {"step": 1}, None)
        assert saved.version > 0
        assert before < saved.created_at < before + timedelta(minutes=10)
        assert await checkpointer.load_state(thread_id) == saved

    async def test_versions_grow_and_the_latest_state_is_that_of_the_last_save(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        saved = [await checkpointer.save_state(thread_id, step) for step in range(5)]

        versions = [one.version for one in saved]
        assert versions == sorted(set(versions))
        assert await checkpointer.load_state(thread_id) == saved[-1]

    async def test_json_comes_back_equal_and_of_the_same_types(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        for state in _EXACT:
            saved = await checkpointer.save_state(thread_id, state)
            found = await checkpointer.load_state(thread_id)

            assert found is not None
            assert exact(found.state) == exact(state) == exact(saved.state)

    async def test_what_would_not_come_back_is_refused_by_name_and_nothing_is_saved(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        for bad in _INEXACT:
            for state, field in ((bad, "state"), ({"list": [0, bad]}, "state.list")):
                assert (await refused(checkpointer.save_state(thread_id, state))).startswith(field), bad

        assert await checkpointer.load_state(thread_id) is None
        assert len(await checkpointer.list_threads()) == 0

    async def test_what_was_given_or_returned_may_be_changed(self, checkpointer: Checkpointer, thread_id: str) -> None:
        given: dict[str, Any] = {"list": [1]}

        saved = await checkpointer.save_state(thread_id, given)
        given["list"].append("given")
        saved.state["list"].append("returned")
        first, second = await asyncio.gather(checkpointer.load_state(thread_id), checkpointer.load_state(thread_id))
        assert first is not None
        first.state["list"].append("loaded")  # concurrent loads must not share one object

        assert second is not None
        assert second.state == {"list": [1]}
        assert state_of(await checkpointer.load_state(thread_id)) == {"list": [1]}

    async def test_a_large_state_comes_back_and_a_small_one_takes_its_place(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        # Random text, which compression cannot make small: 800 KB exceed, for example, an item of DynamoDB.
        large = {"noise": os.urandom(400_000).hex(), "list": [{"n": n, "text": "word " * 20} for n in range(500)]}

        saved = await checkpointer.save_state(thread_id, large)

        assert await checkpointer.load_state(thread_id) == saved
        assert saved.state == large
        small = await checkpointer.save_state(thread_id, {"small": True})
        assert await checkpointer.load_state(thread_id) == small

    # --- versions ---

    @needs(Capability.EXPECTED_VERSION)
    async def test_a_state_is_saved_over_the_version_that_was_read(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        first = await checkpointer.save_state(thread_id, 1, expected_version=0)
        second = await checkpointer.save_state(thread_id, 2, expected_version=first.version)

        assert await checkpointer.load_state(thread_id) == second

    @needs(Capability.EXPECTED_VERSION)
    async def test_a_state_is_not_saved_over_another_version(self, checkpointer: Checkpointer, thread_id: str) -> None:
        first = await checkpointer.save_state(thread_id, 1)
        second = await checkpointer.save_state(thread_id, 2)

        for expected in (0, first.version, second.version + 1):
            with pytest.raises(StateConflictError) as conflict:
                await checkpointer.save_state(thread_id, 3, expected_version=expected)
            error = conflict.value
            assert (error.thread_id, error.expected, error.found) == (thread_id, expected, second.version)

        assert await checkpointer.load_state(thread_id) == second

    @needs(Capability.EXPECTED_VERSION)
    async def test_a_version_is_not_found_where_there_is_no_thread(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        with pytest.raises(StateConflictError) as conflict:
            await checkpointer.save_state(thread_id, 1, expected_version=7)

        assert conflict.value.found == 0
        assert len(await checkpointer.list_threads()) == 0

    @needs(Capability.EXPECTED_VERSION)
    @pytest.mark.parametrize("is_new", [True, False], ids=["a new thread", "a thread"])
    async def test_of_writers_who_expect_the_same_version_one_wins(
        self, checkpointer: Checkpointer, thread_id: str, *, is_new: bool
    ) -> None:
        read = 0 if is_new else (await checkpointer.save_state(thread_id, "read by all")).version

        saved, failed = await together(
            [checkpointer.save_state(thread_id, writer, expected_version=read) for writer in range(8)]
        )

        assert [type(error) for error in failed] == [StateConflictError] * 7
        assert await checkpointer.load_state(thread_id) == saved[0]

    async def test_writers_without_a_version_save_one_after_the_other(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        saved, failed = await together([checkpointer.save_state(thread_id, writer) for writer in range(8)])

        assert failed == []
        assert len({one.version for one in saved}) == 8
        assert await checkpointer.load_state(thread_id) == max(saved, key=lambda one: one.version)
        assert len(await checkpointer.list_threads()) == 1

    @pytest.mark.parametrize("bad", [-1, True, 1.0, "1", 2**63])
    async def test_what_is_no_version_is_refused(self, checkpointer: Checkpointer, thread_id: str, bad: Any) -> None:
        assert await refused(checkpointer.save_state(thread_id, {}, expected_version=bad)) == "expected_version"
        assert await refused(checkpointer.load_state(thread_id, version=bad)) == "version"

    # --- history ---

    @needs(Capability.HISTORY)
    async def test_every_version_can_be_read_again(self, checkpointer: Checkpointer, thread_id: str) -> None:
        saved = [await checkpointer.save_state(thread_id, {"step": step}) for step in range(3)]

        assert [await checkpointer.load_state(thread_id, version=one.version) for one in saved] == saved
        assert await checkpointer.load_state(thread_id, version=saved[-1].version + 1) is None
        assert await checkpointer.load_state(thread_id, version=0) is None
        assert await checkpointer.load_state(f"not {thread_id}", version=saved[0].version) is None

    @needs(Capability.HISTORY)
    async def test_the_history_is_read_by_pages_the_latest_first(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        saved = [await checkpointer.save_state(thread_id, {"step": step}) for step in range(5)]

        first = await checkpointer.state_history(thread_id, limit=2)
        await checkpointer.save_state(thread_id, "while it is read")
        second = await checkpointer.state_history(thread_id, limit=2, after=first.after)
        third = await checkpointer.state_history(thread_id, limit=2, after=second.after)

        assert [*first, *second, *third] == saved[::-1]
        assert third.after is None
        assert len(await checkpointer.state_history(f"not {thread_id}")) == 0

    @needs_absence_of(Capability.HISTORY)
    async def test_without_history_an_older_version_is_refused(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        assert await refused(checkpointer.load_state(thread_id, version=1)) == "version"

    @needs_absence_of(Capability.EXPECTED_VERSION)
    async def test_without_expected_versions_they_are_refused(self, checkpointer: Checkpointer, thread_id: str) -> None:
        assert await refused(checkpointer.save_state(thread_id, {}, expected_version=1)) == "expected_version"
