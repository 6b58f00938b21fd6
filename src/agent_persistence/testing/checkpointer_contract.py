"""What every checkpointer does, as tests that a backend inherits."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any, ClassVar, Final, Protocol, TypeVar

import pytest
import pytest_asyncio

from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.errors import InvalidInput, StateConflict, ThreadExistsError

Test = TypeVar("Test", bound=Callable[..., Any])
Named = Callable[..., list[str]]

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
_BAD_THREAD_IDS: Final[tuple[Any, ...]] = ("", "x" * 256, "a\0b", "line\nbreak", "\ud800", 7, None, b"bytes")
_ODD_THREAD_IDS: Final = ("a:b", "a/b", "a#b", "{a}", "}{", "%3A", "a b", " ", "*", "ü", "../..", "\U0001f642" * 255)
_SHORT: Final = 0.25
_LONG: Final = 600.0


class OpenCheckpointer(Protocol):
    """Opens a checkpointer of an owner, each time another one, over the same store."""

    async def __call__(self, user_id: str, *, namespace: str = "contract-a") -> Checkpointer:
        """Open one; ``namespace`` is ``"contract-a"`` or ``"contract-b"``."""
        raise NotImplementedError


def needs(capability: Capability) -> Callable[[Test], Test]:
    """Skip a test where the backend does not declare what it is about."""

    def marked(test: Test) -> Test:
        test.needs = capability  # type: ignore[attr-defined]  # of a function
        return test

    return marked


def for_lack_of(capability: Capability) -> Callable[[Test], Test]:
    """Skip a test where the backend declares what it is about the absence of."""

    def marked(test: Test) -> Test:
        test.lacks = capability  # type: ignore[attr-defined]  # of a function
        return test

    return marked


@pytest.mark.asyncio
class CheckpointerContract:
    """Inherit from it, name the class, and say how one is opened.

    Tests of what the backend does not declare are skipped. Each test has an owner of its own, so the store may hold
    anything already.

    Attributes:
        backend: the class that is tested.
    """

    backend: ClassVar[type[Checkpointer]]

    @pytest.fixture
    def open_checkpointer(self) -> OpenCheckpointer:
        """To be overridden: return an ``OpenCheckpointer``, and close at the end what it has opened."""
        raise NotImplementedError("override the fixture open_checkpointer")

    async def let_pass(self, seconds: float) -> None:
        """Let time pass; a backend whose clock can be set does that instead."""
        await asyncio.sleep(seconds)

    @pytest.fixture(autouse=True)
    def _only_what_is_declared(self, request: pytest.FixtureRequest) -> None:
        needed, lacking = (getattr(request.function, name, None) for name in ("needs", "lacks"))
        if needed is not None and needed not in self.backend.capabilities:
            pytest.skip(f"not declared: {needed.name}")
        if lacking is not None and lacking in self.backend.capabilities:
            pytest.skip(f"declared: {lacking.name}")

    @pytest.fixture
    def owner(self) -> str:
        """An owner who has nothing yet."""
        return f"contract-{uuid.uuid4().hex}"

    @pytest.fixture
    def named(self, owner: str) -> Named:
        """Makes ids of threads; in a store where all owners share them, no other test has these."""
        return lambda *names: [f"{name}-{owner}" for name in names]

    @pytest.fixture
    def thread_id(self, named: Named) -> str:
        """A thread that does not exist yet."""
        return named("t")[0]

    @pytest_asyncio.fixture
    async def checkpointer(self, open_checkpointer: OpenCheckpointer, owner: str) -> Checkpointer:
        """A checkpointer of the test's owner."""
        return await open_checkpointer(owner)

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
            assert _typed(found.state) == _typed(state) == _typed(saved.state)

    async def test_what_would_not_come_back_is_refused_by_name_and_nothing_is_saved(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        for bad in _INEXACT:
            for state, field in ((bad, "state"), ({"list": [0, bad]}, "state.list")):
                assert (await _refused(checkpointer.save_state(thread_id, state))).startswith(field), bad

        assert await checkpointer.load_state(thread_id) is None
        assert len(await checkpointer.list_threads()) == 0

    async def test_what_was_given_or_returned_may_be_changed(self, checkpointer: Checkpointer, thread_id: str) -> None:
        given: dict[str, Any] = {"list": [1]}

        saved = await checkpointer.save_state(thread_id, given)
        given["list"].append("given")
        saved.state["list"].append("returned")
        first, second = await asyncio.gather(checkpointer.load_state(thread_id), checkpointer.load_state(thread_id))
        assert first is not None
        first.state["list"].append("loaded")

        assert second is not None
        assert second.state == {"list": [1]}
        assert _state(await checkpointer.load_state(thread_id)) == {"list": [1]}

    async def test_a_large_state_comes_back_and_a_small_one_takes_its_place(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
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
            with pytest.raises(StateConflict) as conflict:
                await checkpointer.save_state(thread_id, 3, expected_version=expected)
            error = conflict.value
            assert (error.thread_id, error.expected, error.found) == (thread_id, expected, second.version)

        assert await checkpointer.load_state(thread_id) == second

    @needs(Capability.EXPECTED_VERSION)
    async def test_a_version_is_not_found_where_there_is_no_thread(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        with pytest.raises(StateConflict) as conflict:
            await checkpointer.save_state(thread_id, 1, expected_version=7)

        assert conflict.value.found == 0
        assert len(await checkpointer.list_threads()) == 0

    @needs(Capability.EXPECTED_VERSION)
    @pytest.mark.parametrize("is_new", [True, False], ids=["a new thread", "a thread"])
    async def test_of_writers_who_expect_the_same_version_one_wins(
        self, checkpointer: Checkpointer, thread_id: str, *, is_new: bool
    ) -> None:
        read = 0 if is_new else (await checkpointer.save_state(thread_id, "read by all")).version

        saved, failed = await _together(
            [checkpointer.save_state(thread_id, writer, expected_version=read) for writer in range(8)]
        )

        assert [type(error) for error in failed] == [StateConflict] * 7
        assert await checkpointer.load_state(thread_id) == saved[0]

    async def test_writers_without_a_version_save_one_after_the_other(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        saved, failed = await _together([checkpointer.save_state(thread_id, writer) for writer in range(8)])

        assert failed == []
        assert len({one.version for one in saved}) == 8
        assert await checkpointer.load_state(thread_id) == max(saved, key=lambda one: one.version)
        assert len(await checkpointer.list_threads()) == 1

    @pytest.mark.parametrize("bad", [-1, True, 1.0, "1", 2**63])
    async def test_what_is_no_version_is_refused(self, checkpointer: Checkpointer, thread_id: str, bad: Any) -> None:
        assert await _refused(checkpointer.save_state(thread_id, {}, expected_version=bad)) == "expected_version"
        assert await _refused(checkpointer.load_state(thread_id, version=bad)) == "version"

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

    @for_lack_of(Capability.HISTORY)
    async def test_without_history_an_older_version_is_refused(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        assert await _refused(checkpointer.load_state(thread_id, version=1)) == "version"

    @for_lack_of(Capability.EXPECTED_VERSION)
    async def test_without_expected_versions_they_are_refused(self, checkpointer: Checkpointer, thread_id: str) -> None:
        assert await _refused(checkpointer.save_state(thread_id, {}, expected_version=1)) == "expected_version"

    # --- deleting ---

    async def test_a_deleted_thread_is_gone_and_others_stay(self, checkpointer: Checkpointer, named: Named) -> None:
        thread_id, other_id = named("t", "kept")
        kept = await checkpointer.save_state(other_id, {})
        for step in range(3):
            await checkpointer.save_state(thread_id, step)

        assert await checkpointer.delete_thread(thread_id)
        assert not await checkpointer.delete_thread(thread_id)

        assert await checkpointer.load_state(thread_id) is None
        assert _ids(await checkpointer.list_threads()) == [other_id]
        assert await checkpointer.load_state(other_id) == kept

    @needs(Capability.HISTORY)
    async def test_the_history_of_a_deleted_thread_is_gone(self, checkpointer: Checkpointer, thread_id: str) -> None:
        saved = await checkpointer.save_state(thread_id, "secret")
        await checkpointer.delete_thread(thread_id)

        assert len(await checkpointer.state_history(thread_id)) == 0
        assert await checkpointer.load_state(thread_id, version=saved.version) is None
        again = await checkpointer.save_state(thread_id, "again")
        assert list(await checkpointer.state_history(thread_id)) == [again]
        assert await checkpointer.load_state(thread_id, version=saved.version) is None

    @needs(Capability.EXPECTED_VERSION)
    async def test_a_late_save_over_a_version_does_not_bring_a_deleted_thread_back(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        saved = await checkpointer.save_state(thread_id, 1)
        await checkpointer.delete_thread(thread_id)

        with pytest.raises(StateConflict) as conflict:
            await checkpointer.save_state(thread_id, 2, expected_version=saved.version)

        assert conflict.value.found == 0
        assert await checkpointer.load_state(thread_id) is None
        assert len(await checkpointer.list_threads()) == 0

    async def test_a_late_save_without_a_version_begins_the_thread_anew(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        saved = [await checkpointer.save_state(thread_id, step) for step in range(3)]
        await checkpointer.delete_thread(thread_id)

        again = await checkpointer.save_state(thread_id, "again")

        assert again.version > saved[-1].version
        assert await checkpointer.load_state(thread_id) == again
        assert _ids(await checkpointer.list_threads()) == [thread_id]

    async def test_saves_and_deletions_at_once_leave_a_whole_thread_or_none(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        await checkpointer.save_state(thread_id, "first")

        _, failed = await _together(
            [
                work
                for round_ in range(6)
                for work in (checkpointer.save_state(thread_id, round_), checkpointer.delete_thread(thread_id))
            ]
        )

        assert failed == []
        is_there = await checkpointer.load_state(thread_id) is not None
        assert _ids(await checkpointer.list_threads()) == ([thread_id] if is_there else [])
        assert await checkpointer.delete_thread(thread_id) is is_there

    # --- lists ---

    async def test_threads_are_listed_by_their_last_save(self, checkpointer: Checkpointer, named: Named) -> None:
        a, b, c = named("a", "b", "c")
        for thread_id in (a, b, c, a):
            await checkpointer.save_state(thread_id, {})

        page = await checkpointer.list_threads()

        assert _ids(page) == [a, c, b]
        assert all(isinstance(thread, ThreadSummary) for thread in page)
        first = page.items[0]
        assert datetime.now(UTC) - timedelta(minutes=5) < first.created_at < first.updated_at
        assert [thread.updated_at for thread in page] == sorted((one.updated_at for one in page), reverse=True)

    async def test_pages_have_every_thread_once(self, checkpointer: Checkpointer, named: Named) -> None:
        expected = named(*range(6))
        for thread_id in expected:
            await checkpointer.save_state(thread_id, {})

        for limit in (1, 2, 4, 6):
            pages = await _pages(checkpointer, limit)

            assert [thread_id for page in pages for thread_id in page] == expected[::-1]
            assert len(pages) == -(-6 // limit)

    async def test_threads_that_change_while_a_list_is_read_move_to_its_top(
        self, checkpointer: Checkpointer, named: Named
    ) -> None:
        new, *old = named("new", "read", "read and deleted", "deleted", "saved again", "unread 1", "unread 2")
        read, read_and_deleted, deleted, saved_again, *unread = old
        for thread_id in reversed(old):
            await checkpointer.save_state(thread_id, {})

        first = await checkpointer.list_threads(limit=2)
        await checkpointer.save_state(new, {})
        await checkpointer.save_state(saved_again, {})
        await checkpointer.delete_thread(deleted)
        await checkpointer.delete_thread(read_and_deleted)  # the place that the cursor names
        second = await checkpointer.list_threads(limit=10, after=first.after)

        assert _ids(first) == [read, read_and_deleted]
        assert _ids(second) == unread
        assert _ids(await checkpointer.list_threads()) == [saved_again, new, read, *unread]

    @pytest.mark.parametrize("bad", [0, 1001, True, "5", None])
    async def test_what_is_no_limit_is_refused(self, checkpointer: Checkpointer, thread_id: str, bad: Any) -> None:
        assert await _refused(checkpointer.list_threads(limit=bad)) == "limit"
        if Capability.HISTORY in self.backend.capabilities:
            assert await _refused(checkpointer.state_history(thread_id, limit=bad)) == "limit"

    async def test_what_is_no_cursor_of_a_list_is_refused(self, checkpointer: Checkpointer, named: Named) -> None:
        a, b = named("a", "b")
        for thread_id in (a, b):
            await checkpointer.save_state(thread_id, {})
            await checkpointer.save_state(thread_id, {})
        cursors: list[Any] = ["", "nonsense", "ü", 7, "WyJ4Il0", "W10"]

        of_threads = (await checkpointer.list_threads(limit=1)).after
        for cursor in cursors:
            assert await _refused(checkpointer.list_threads(after=cursor)) == "after"
        if Capability.HISTORY in self.backend.capabilities:
            of_states = (await checkpointer.state_history(a, limit=1)).after
            assert await _refused(checkpointer.list_threads(after=of_states)) == "after"
            for cursor in (*cursors, of_threads):
                assert await _refused(checkpointer.state_history(a, after=cursor)) == "after"

    # --- names ---

    async def test_what_is_no_thread_id_is_refused_by_name(self, checkpointer: Checkpointer) -> None:
        for bad in _BAD_THREAD_IDS:
            assert await _refused(checkpointer.save_state(bad, {})) == "thread_id", bad
            assert await _refused(checkpointer.load_state(bad)) == "thread_id", bad
            assert await _refused(checkpointer.delete_thread(bad)) == "thread_id", bad
            if Capability.HISTORY in self.backend.capabilities:
                assert await _refused(checkpointer.state_history(bad)) == "thread_id", bad

    async def test_odd_thread_ids_are_kept_apart(self, checkpointer: Checkpointer, owner: str) -> None:
        odd = [f"{odd}{owner}"[:255] for odd in _ODD_THREAD_IDS]  # a store may share ids among all owners
        for thread_id in odd:
            await checkpointer.save_state(thread_id, [thread_id])

        assert [_state(await checkpointer.load_state(thread_id)) for thread_id in odd] == [[one] for one in odd]
        assert _ids(await checkpointer.list_threads()) == odd[::-1]
        assert [await checkpointer.delete_thread(thread_id) for thread_id in odd] == [True] * len(odd)
        assert len(await checkpointer.list_threads()) == 0

    # --- time to live ---

    @needs(Capability.TTL)
    async def test_an_expired_thread_is_gone(self, checkpointer: Checkpointer, thread_id: str) -> None:
        saved = await checkpointer.save_state(thread_id, 1, ttl=_SHORT)
        assert saved.expires_at is not None
        assert saved.expires_at - saved.created_at == timedelta(seconds=_SHORT)
        assert await checkpointer.load_state(thread_id) == saved

        await self.let_pass(_SHORT + 0.05)

        assert await checkpointer.load_state(thread_id) is None
        assert len(await checkpointer.list_threads()) == 0
        if Capability.HISTORY in self.backend.capabilities:
            assert await checkpointer.load_state(thread_id, version=saved.version) is None
            assert len(await checkpointer.state_history(thread_id)) == 0
        assert not await checkpointer.delete_thread(thread_id)

    @needs(Capability.TTL)
    async def test_a_thread_that_has_expired_begins_anew(self, checkpointer: Checkpointer, thread_id: str) -> None:
        await checkpointer.save_state(thread_id, "kept for long", ttl=_LONG)
        saved = await checkpointer.save_state(thread_id, "kept for short", ttl=_SHORT)
        await self.let_pass(_SHORT + 0.05)

        if Capability.EXPECTED_VERSION in self.backend.capabilities:
            with pytest.raises(StateConflict):
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
        if Capability.HISTORY in self.backend.capabilities:  # an older state expires by itself
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

        assert await _pages(checkpointer, 2) == [[kept[3], kept[2]], [kept[1], kept[0]]]

    @needs(Capability.TTL)
    @pytest.mark.parametrize("bad", [0, -1, nan, inf, True, "5", 1e12])
    async def test_what_is_no_time_to_live_is_refused(
        self, checkpointer: Checkpointer, thread_id: str, bad: Any
    ) -> None:
        assert await _refused(checkpointer.save_state(thread_id, {}, ttl=bad)) == "ttl"

    @for_lack_of(Capability.TTL)
    async def test_without_a_time_to_live_it_is_refused(self, checkpointer: Checkpointer, thread_id: str) -> None:
        assert await _refused(checkpointer.save_state(thread_id, {}, ttl=5)) == "ttl"
        assert await checkpointer.load_state(thread_id) is None

    # --- who sees what ---

    async def test_another_checkpointer_of_the_owner_sees_the_same(
        self, checkpointer: Checkpointer, thread_id: str, open_checkpointer: OpenCheckpointer, owner: str
    ) -> None:
        another = await open_checkpointer(owner)
        saved = await checkpointer.save_state(thread_id, 1)

        assert await another.load_state(thread_id) == saved
        again = await another.save_state(thread_id, 2)
        assert await checkpointer.load_state(thread_id) == again
        assert await another.delete_thread(thread_id)
        assert len(await checkpointer.list_threads()) == 0

    @needs(Capability.OWNERS)
    async def test_what_belongs_to_somebody_else_does_not_exist(
        self, checkpointer: Checkpointer, thread_id: str, open_checkpointer: OpenCheckpointer, owner: str
    ) -> None:
        somebody = await open_checkpointer(f"{owner}:x")  # an id that reads like an owner and a part of a thread's id
        thread_id = f"x:{owner}"
        saved = await checkpointer.save_state(thread_id, "mine")

        assert await somebody.load_state(thread_id) is None
        assert await somebody.load_state(owner) is None
        assert not await somebody.delete_thread(thread_id)
        assert len(await somebody.list_threads()) == 0
        _, failed = await _together([somebody.save_state(thread_id, "theirs")])
        assert [type(error) for error in failed] in ([], [ThreadExistsError])  # where all owners share the ids
        assert await checkpointer.load_state(thread_id) == saved

    @needs(Capability.NAMESPACE)
    async def test_what_is_in_another_namespace_does_not_exist(
        self, checkpointer: Checkpointer, thread_id: str, open_checkpointer: OpenCheckpointer, owner: str
    ) -> None:
        elsewhere = await open_checkpointer(owner, namespace="contract-b")
        saved = await checkpointer.save_state(thread_id, "here")

        assert await elsewhere.load_state(thread_id) is None
        assert len(await elsewhere.list_threads()) == 0
        there = await elsewhere.save_state(thread_id, "there")
        assert await elsewhere.load_state(thread_id) == there
        assert await checkpointer.load_state(thread_id) == saved

    @needs(Capability.SURVIVES_RESTART)
    async def test_everything_is_there_after_a_restart(
        self, checkpointer: Checkpointer, thread_id: str, open_checkpointer: OpenCheckpointer, owner: str
    ) -> None:
        saved = await checkpointer.save_state(thread_id, {"step": 1})
        listed = await checkpointer.list_threads()
        await checkpointer.aclose()
        await checkpointer.aclose()  # twice does no harm

        reopened = await open_checkpointer(owner)

        assert await reopened.load_state(thread_id) == saved
        assert await reopened.list_threads() == listed
        if Capability.EXPECTED_VERSION in self.backend.capabilities:
            assert (await reopened.save_state(thread_id, 2, expected_version=saved.version)).version > saved.version


async def _refused(work: Coroutine[Any, Any, Any]) -> str:
    """The field by whose name something was refused."""
    with pytest.raises(InvalidInput) as refusal:
        await work
    return refusal.value.field


async def _together(works: list[Coroutine[Any, Any, Any]]) -> tuple[list[Any], list[BaseException]]:
    """Start everything before anything is waited for; return what came of it, and what failed."""
    ended = await asyncio.gather(*works, return_exceptions=True)
    failed = [one for one in ended if isinstance(one, BaseException)]
    return [one for one in ended if not isinstance(one, BaseException)], failed


async def _pages(checkpointer: Checkpointer, limit: int) -> list[list[str]]:
    pages, after = [], None
    while True:
        page = await checkpointer.list_threads(limit=limit, after=after)
        pages.append(_ids(page))
        after = page.after
        if after is None:
            return pages


def _ids(page: Any) -> list[str]:
    return [thread.thread_id for thread in page]


def _state(found: Checkpoint | None) -> Any:
    assert found is not None
    return found.state


def _typed(value: Any) -> Any:
    """The value with the type of each part of it; ``repr`` tells zeros apart, and keys have no order."""
    if type(value) is dict:
        return {key: _typed(part) for key, part in value.items()}
    if type(value) is list:
        return [_typed(part) for part in value]
    return type(value), repr(value)
