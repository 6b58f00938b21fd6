"""The contract: threads are listed and deleted, and only their owners see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from agent_persistence.checkpointer import Capability, Checkpointer, ThreadSummary
from agent_persistence.errors import StateConflictError, ThreadExistsError
from agent_persistence.testing.contract import (
    Contract,
    Named,
    OpenCheckpointer,
    ids_of,
    needs,
    pages_of,
    refused,
    state_of,
    together,
)

_BAD_THREAD_IDS: Final[tuple[Any, ...]] = ("", "x" * 256, "a\0b", "line\nbreak", "\ud800", 7, None, b"bytes")
# Separators, wildcards, braces and escapes of the stores' keys: an unescaped one could name the key of another thread.
_ODD_THREAD_IDS: Final = ("a:b", "a/b", "a#b", "{a}", "}{", "%3A", "a b", " ", "*", "ü", "../..", "\U0001f642" * 255)


class ThreadsContract(Contract):
    """Tests of threads, lists of them, and their owners."""

    # --- deleting ---

    async def test_a_deleted_thread_is_gone_and_others_stay(self, checkpointer: Checkpointer, named: Named) -> None:
        thread_id, other_id = named("t", "kept")
        kept = await checkpointer.save_state(other_id, {})
        for step in range(3):
            await checkpointer.save_state(thread_id, step)

        assert await checkpointer.delete_thread(thread_id)
        assert not await checkpointer.delete_thread(thread_id)

        assert await checkpointer.load_state(thread_id) is None
        assert ids_of(await checkpointer.list_threads()) == [other_id]
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

        with pytest.raises(StateConflictError) as conflict:
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
        assert ids_of(await checkpointer.list_threads()) == [thread_id]

    async def test_saves_and_deletions_at_once_leave_a_whole_thread_or_none(
        self, checkpointer: Checkpointer, thread_id: str
    ) -> None:
        await checkpointer.save_state(thread_id, "first")

        _, failed = await together(
            [
                work
                for round_ in range(6)
                for work in (checkpointer.save_state(thread_id, round_), checkpointer.delete_thread(thread_id))
            ]
        )

        # The order of the calls is the store's; a thread and its entry in the list must agree in each order.
        assert failed == []
        is_there = await checkpointer.load_state(thread_id) is not None
        assert ids_of(await checkpointer.list_threads()) == ([thread_id] if is_there else [])
        assert await checkpointer.delete_thread(thread_id) is is_there

    # --- lists ---

    async def test_threads_are_listed_by_their_last_save(self, checkpointer: Checkpointer, named: Named) -> None:
        a, b, c = named("a", "b", "c")
        for thread_id in (a, b, c, a):
            await checkpointer.save_state(thread_id, {})

        page = await checkpointer.list_threads()

        assert ids_of(page) == [a, c, b]
        assert all(isinstance(thread, ThreadSummary) for thread in page)
        first = page.items[0]
        assert datetime.now(UTC) - timedelta(minutes=5) < first.created_at < first.updated_at
        assert [thread.updated_at for thread in page] == sorted((one.updated_at for one in page), reverse=True)

    async def test_pages_have_every_thread_once(self, checkpointer: Checkpointer, named: Named) -> None:
        expected = named(*range(6))
        for thread_id in expected:
            await checkpointer.save_state(thread_id, {})

        for limit in (1, 2, 4, 6):
            pages = await pages_of(checkpointer, limit)

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
        await checkpointer.delete_thread(read_and_deleted)  # the thread that the cursor names
        second = await checkpointer.list_threads(limit=10, after=first.after)

        assert ids_of(first) == [read, read_and_deleted]
        assert ids_of(second) == unread
        assert ids_of(await checkpointer.list_threads()) == [saved_again, new, read, *unread]

    @pytest.mark.parametrize("bad", [0, 1001, True, "5", None])
    async def test_what_is_no_limit_is_refused(self, checkpointer: Checkpointer, thread_id: str, bad: Any) -> None:
        assert await refused(checkpointer.list_threads(limit=bad)) == "limit"
        if Capability.HISTORY in self.backend.capabilities:
            assert await refused(checkpointer.state_history(thread_id, limit=bad)) == "limit"

    async def test_what_is_no_cursor_of_a_list_is_refused(self, checkpointer: Checkpointer, named: Named) -> None:
        a, b = named("a", "b")
        for thread_id in (a, b):
            await checkpointer.save_state(thread_id, {})
            await checkpointer.save_state(thread_id, {})
        # The last two are JSON arrays in base64, as cursors are, but of no list.
        cursors: list[Any] = ["", "nonsense", "ü", 7, "WyJ4Il0", "W10"]

        of_threads = (await checkpointer.list_threads(limit=1)).after
        for cursor in cursors:
            assert await refused(checkpointer.list_threads(after=cursor)) == "after"
        if Capability.HISTORY in self.backend.capabilities:
            of_states = (await checkpointer.state_history(a, limit=1)).after
            assert await refused(checkpointer.list_threads(after=of_states)) == "after"
            for cursor in (*cursors, of_threads):
                assert await refused(checkpointer.state_history(a, after=cursor)) == "after"

    # --- names ---

    async def test_what_is_no_thread_id_is_refused_by_name(self, checkpointer: Checkpointer) -> None:
        for bad in _BAD_THREAD_IDS:
            assert await refused(checkpointer.save_state(bad, {})) == "thread_id", bad
            assert await refused(checkpointer.load_state(bad)) == "thread_id", bad
            assert await refused(checkpointer.delete_thread(bad)) == "thread_id", bad
            if Capability.HISTORY in self.backend.capabilities:
                assert await refused(checkpointer.state_history(bad)) == "thread_id", bad

    async def test_odd_thread_ids_are_kept_apart(self, checkpointer: Checkpointer, owner: str) -> None:
        odd = [f"{odd}{owner}"[:255] for odd in _ODD_THREAD_IDS]  # with the owner: a store may share ids among owners
        for thread_id in odd:
            await checkpointer.save_state(thread_id, [thread_id])

        assert [state_of(await checkpointer.load_state(thread_id)) for thread_id in odd] == [[one] for one in odd]
        assert ids_of(await checkpointer.list_threads()) == odd[::-1]
        assert [await checkpointer.delete_thread(thread_id) for thread_id in odd] == [True] * len(odd)
        assert len(await checkpointer.list_threads()) == 0

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
        _, failed = await together([somebody.save_state(thread_id, "theirs")])
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
