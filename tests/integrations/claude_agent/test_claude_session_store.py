"""Sessions of the Claude Agent SDK in threads."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from claude_agent_sdk import (
    delete_session_via_store,
    fork_session_via_store,
    get_session_messages_from_store,
    list_sessions_from_store,
    project_key_for_directory,
    rename_session_via_store,
)
from claude_agent_sdk.testing import run_session_store_conformance
from integration.repository_testing import until_somebody_waits_for_a_lock
from integrations.claude_agent.entries import Transcript, a_transcript, result, say
from sqlalchemy import update

from agent_persistence.errors import CorruptRowError, InvalidInputError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.forms.differences import is_same
from agent_persistence.integrations import claude_transcripts
from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.models.base import table_of
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER

NEW_OWNER: dict[str, Callable[[], Any]] = {
    "string": lambda: str(uuid.uuid4()),
    "uuid": uuid.uuid4,
    "bigint": lambda: uuid.uuid4().int >> 65,
}
KEY: Any = {"project_key": "shop", "session_id": "s-1"}
SUBAGENT: Any = {**KEY, "subpath": "subagents/agent-1"}


@pytest.fixture
def store(persistence: Persistence, user_id: str) -> PersistenceSessionStore:
    return PersistenceSessionStore(persistence=persistence, user_id=user_id)


@pytest.mark.parametrize(
    "pair",
    [
        ("string", "string"),
        pytest.param(("uuid", "uuid"), marks=pytest.mark.slow),
        pytest.param(("uuid", "bigint"), marks=pytest.mark.slow),
    ],
)
async def test_it_keeps_all_contracts_of_the_sdk(open_store: Any, pair: tuple[str, str]) -> None:
    persistence = await open_store(pair)

    def new() -> PersistenceSessionStore:
        return PersistenceSessionStore(persistence=persistence, user_id=NEW_OWNER[pair[1]]())

    await run_session_store_conformance(new)


async def test_entries_come_back_equal_and_in_their_order(store: PersistenceSessionStore) -> None:
    entries: Any = a_transcript()
    assert await store.load(KEY) is None

    await store.append(KEY, entries[:4])
    await store.append(KEY, entries[4:])

    loaded = await store.load(KEY)
    assert loaded is not None
    assert is_same(loaded, entries)


async def test_a_transcript_of_several_pages_is_read_whole(
    store: PersistenceSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries: Any = a_transcript()
    await store.append(KEY, entries)

    for size in (1, 2, len(entries) + 1):  # the last one: an answer of two tools is two rows
        monkeypatch.setattr(claude_transcripts, "_PAGE", size)
        assert await store.load(KEY) == entries


async def test_every_program_reads_what_was_said(persistence: Persistence, store: PersistenceSessionStore) -> None:
    await store.append(KEY, a_transcript())  # type: ignore[arg-type]

    page = await persistence.messages.page(await store.thread_id(KEY), user_id=store._user_id)  # noqa: SLF001

    assert [(one.role, one.text, len(one.tool_calls or ())) for one in page] == [
        ("user", "Snow in Oslo and Rome?", 0),
        ("assistant", "I look.", 0),
        ("assistant", "", 1),
        ("assistant", "", 1),
        ("tool", "Snow", 0),
        ("tool", "no city", 0),
        ("assistant", "In Oslo.", 0),
    ]


async def test_a_repeated_append_changes_nothing_and_is_not_folded_again(store: PersistenceSessionStore) -> None:
    made = Transcript()
    entries: Any = [made.entry("user", "Hi", customTitle="first"), made.entry("assistant", [say("Yes?")])]
    newer: Any = made.entry("user", "Bye", customTitle="second")
    await store.append(KEY, [*entries, entries[0]])
    await store.append(KEY, [newer])
    before = await store.list_session_summaries("shop")

    await store.append(KEY, entries)
    assert await store.list_session_summaries("shop") == before
    await store.append(KEY, [entries[1], {"type": "tag", "tag": "a"}, newer])

    assert await store.load(KEY) == [*entries, newer, {"type": "tag", "tag": "a"}]
    [summary] = await store.list_session_summaries("shop")
    assert (summary["data"]["custom_title"], summary["data"]["tag"]) == ("second", "a")
    assert summary["mtime"] > before[0]["mtime"]


async def test_an_edit_of_another_program_is_read_and_outlives_a_repeated_append(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    entries: Any = a_transcript()
    await store.append(KEY, entries)
    thread_id = await store.thread_id(KEY)

    new = {"role": "assistant", "content": "In Bergen."}
    owner = store._user_id  # noqa: SLF001
    await persistence.messages.update(thread_id, entries[8]["uuid"], message=new, user_id=owner)
    await store.append(KEY, [entries[8], {"type": "tag", "tag": "a"}])

    changed = {**entries[8], "message": {**entries[8]["message"], "content": [say("In Bergen.")]}}
    assert await store.load(KEY) == [*entries[:8], changed, *entries[9:], {"type": "tag", "tag": "a"}]


async def test_the_functions_of_the_sdk_work_on_it(store: PersistenceSessionStore) -> None:
    made = Transcript()
    entries: Any = [made.entry("user", "Snow?"), made.entry("assistant", [say("In Oslo.")])]
    session, project = made.session_id, project_key_for_directory("/srv/app")
    await store.append({"project_key": project, "session_id": session}, entries)

    await rename_session_via_store(store, session, "Weather", directory="/srv/app")
    copy = await fork_session_via_store(store, session, directory="/srv/app")

    listed = await list_sessions_from_store(store, directory="/srv/app")
    assert [one.session_id for one in listed] == [copy.session_id, session]
    assert (listed[1].custom_title, listed[1].first_prompt) == ("Weather", "Snow?")
    said = await get_session_messages_from_store(store, copy.session_id, directory="/srv/app")
    assert [one.message["content"] for one in said] == ["Snow?", [say("In Oslo.")]]
    await delete_session_via_store(store, session, directory="/srv/app")
    assert [one.session_id for one in await list_sessions_from_store(store, directory="/srv/app")] == [copy.session_id]


async def test_messages_of_others_are_in_the_chain_that_is_resumed(persistence: Persistence, user_id: str) -> None:
    made = Transcript()
    key: Any = {"project_key": project_key_for_directory("/srv/app"), "session_id": made.session_id}
    store = PersistenceSessionStore(persistence=persistence, user_id=user_id, scoped=False)
    own: Any = [made.entry("user", "Snow?"), made.entry("assistant", [say("In Oslo.")])]

    await persistence.threads.create(thread_id=made.session_id, user_id=user_id)
    await persistence.messages.append(made.session_id, {"role": "user", "content": "I am Ada."}, user_id=user_id)
    await store.append(key, own)
    await persistence.messages.append(made.session_id, {"role": "user", "content": "And Rome?"}, user_id=user_id)
    await persistence.messages.append(made.session_id, {"role": "assistant", "content": "No."}, user_id=user_id)
    await store.append(key, [made.entry("user", "Thanks")])  # type: ignore[list-item]

    said = await get_session_messages_from_store(store, made.session_id, directory="/srv/app")
    assert [one.message["content"] for one in said] == [
        "I am Ada.",
        "Snow?",
        own[1]["message"]["content"],
        "And Rome?",
        [say("No.")],
        "Thanks",
    ]
    assert await store.load(key) == await store.load(key)  # with the same ids each time
    [summary] = await store.list_session_summaries(key["project_key"])
    assert summary["data"]["first_prompt"] == "I am Ada."


async def test_sessions_of_other_owners_and_projects_are_others(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    eve = PersistenceSessionStore(persistence=persistence, user_id=f"{store._user_id}-eve")  # noqa: SLF001
    await store.append(KEY, [{"type": "x", "uuid": "1"}])
    await store.append(SUBAGENT, [{"type": "x", "uuid": "1"}])
    assert (await eve.load(KEY), await eve.list_sessions("shop"), await eve.list_subkeys(KEY)) == (None, [], [])

    await eve.append(KEY, [{"type": "y", "uuid": "1"}])
    await eve.delete(KEY)

    assert await store.load(KEY) == await store.load(SUBAGENT) == [{"type": "x", "uuid": "1"}]
    assert await store.list_sessions("Shop") == []


async def test_an_unscoped_session_of_another_owner_is_neither_read_nor_written(
    persistence: Persistence, new_ids: Any
) -> None:
    key: Any = {"project_key": "shop", "session_id": new_ids.thread()}
    ada, eve = (
        PersistenceSessionStore(persistence=persistence, user_id=new_ids.user(), scoped=False) for _ in range(2)
    )
    subagent: Any = {**key, "subpath": "subagents/agent-1"}
    await ada.append(key, [{"type": "x"}])
    await ada.append(subagent, [{"type": "s"}])

    await eve.delete(key)
    assert (await eve.load(key), await eve.list_sessions("shop")) == (None, [])
    with pytest.raises(ThreadExistsError):
        await eve.append(key, [{"type": "y"}])

    assert (await ada.load(key), await ada.load(subagent)) == ([{"type": "x"}], [{"type": "s"}])
    assert await ada.thread_id(key) == key["session_id"]
    assert await ada.load({**key, "session_id": f"{key['session_id']}/{subagent['subpath']}"}) is None


async def test_a_deleted_session_is_not_brought_back_by_a_late_run(store: PersistenceSessionStore) -> None:
    await store.append(KEY, [{"type": "x"}])
    await store.append(SUBAGENT, [{"type": "x"}])
    await store.delete(KEY)

    for key in (KEY, SUBAGENT, {**KEY, "subpath": "subagents/agent-2"}):
        with pytest.raises(ThreadNotFoundError):
            await store.append(key, [{"type": "late"}])

    assert (await store.load(KEY), await store.list_sessions("shop"), await store.list_subkeys(KEY)) == (None, [], [])


async def test_a_session_that_a_run_has_read_is_not_brought_back_by_it(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    await store.append(KEY, [{"type": "x"}])
    run = PersistenceSessionStore(persistence=persistence, user_id=store._user_id)  # noqa: SLF001
    await run.load(KEY)
    await store.delete(KEY)

    for key in (KEY, SUBAGENT):
        with pytest.raises(ThreadNotFoundError):
            await run.append(key, [{"type": "late"}])

    assert await store.load(KEY) is None


async def test_appends_that_begin_a_session_at_once_keep_all_entries(store: PersistenceSessionStore) -> None:
    await asyncio.gather(*(store.append(KEY, [{"type": "x", "n": number}]) for number in range(8)))  # type: ignore[typeddict-unknown-key]

    loaded: Any = await store.load(KEY)
    assert sorted(entry["n"] for entry in loaded) == list(range(8))


@pytest.mark.parametrize("pair", [("string", "string"), ("uuid", "string")])
async def test_entries_of_ids_that_look_alike_are_all_kept(
    open_store: Any, new_ids: Any, pair: tuple[str, str]
) -> None:
    store, name = PersistenceSessionStore(persistence=await open_store(pair), user_id=new_ids.user()), str(uuid.uuid4())
    answers = Transcript().entry("user", [result("t1", "a"), result("t2", "b")], uuid=name)  # of two messages
    ids = [f"{name}/1", name.upper(), f"{{{name}}}", "\ud800", "\\ud800", "", " ", 7, None]
    entries: Any = [answers, *({"type": "x", "uuid": one} for one in ids)]

    for entry in entries:
        await store.append(KEY, [entry])

    assert await store.load(KEY) == entries


async def test_archived_sessions_leave_the_list_and_are_deleted(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    for key in (KEY, SUBAGENT):
        await store.append(key, [{"type": "x"}])
        await persistence.threads.archive(await store.thread_id(key), user_id=store._user_id)  # noqa: SLF001
    assert (await store.list_sessions("shop"), await store.load(KEY)) == ([], [{"type": "x"}])

    await store.delete(KEY)

    assert await store.load(SUBAGENT) is None


async def test_other_meta_of_the_thread_stays(persistence: Persistence, store: PersistenceSessionStore) -> None:
    owner, made = store._user_id, Transcript()  # noqa: SLF001
    await store.append(KEY, [made.entry("user", "Hi")])  # type: ignore[list-item]
    thread_id = await store.thread_id(KEY)
    await persistence.threads.update(thread_id, meta={"plan": "pro"}, user_id=owner)

    await store.append(KEY, [made.entry("user", "Bye")])  # type: ignore[list-item]

    assert (await persistence.threads.require(thread_id, user_id=owner)).meta["plan"] == "pro"
    [summary] = await store.list_session_summaries("shop")
    assert summary["data"]["first_prompt"] == "Hi"  # folded again from the beginning


@pytest.mark.parametrize("odd", ["NUL\0", "half \ud800", "\ue000", "emoji 🌍", "x" * 300])
async def test_odd_texts_come_back(store: PersistenceSessionStore, odd: str) -> None:
    key: Any = {"project_key": odd, "session_id": odd, "subpath": odd}
    entries: Any = [
        {"type": odd, "uuid": odd, "customTitle": odd},
        {"type": odd, "uuid": odd + odd, odd: [odd]},
        Transcript().entry("user", [result(odd, odd), result(odd, odd)], uuid=odd * 3),
    ]

    await store.append(key, entries)
    await store.append({"project_key": odd, "session_id": odd}, entries)

    assert await store.load(key) == entries
    assert await store.list_subkeys(key) == [odd]
    [summary] = await store.list_session_summaries(odd)
    assert (summary["session_id"], summary["data"]["custom_title"]) == (odd, odd)


@pytest.mark.parametrize("bad", ["text", 7, {"type": object()}, {"type": "x", "list": [{1: "a", "1": "b"}]}])
async def test_what_is_no_entry_is_refused_and_nothing_is_added(store: PersistenceSessionStore, bad: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await store.append(KEY, [{"type": "x"}, bad])

    assert refused.value.field == "entries[1]"
    assert await store.load(KEY) is None


@pytest.mark.parametrize("bad", [{"project_key": ""}, {"session_id": ""}, {"subpath": ""}, {"session_id": 7}])
async def test_a_key_without_its_parts_is_refused(store: PersistenceSessionStore, bad: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await store.load({**KEY, **bad})

    assert refused.value.field == next(iter(bad))


async def test_no_owner_and_ids_that_are_numbers_are_refused_at_once(open_store: Any, persistence: Any) -> None:
    for owner in (ANY_USER, None):
        with pytest.raises(InvalidInputError, match="user_id"):
            PersistenceSessionStore(persistence=persistence, user_id=owner)
    with pytest.raises(InvalidInputError, match="PERSISTENCE_ID_TYPE"):
        PersistenceSessionStore(persistence=await open_store(("bigint", "string")), user_id="ada")


async def test_what_cannot_be_read_is_not_passed_by(persistence: Persistence, store: PersistenceSessionStore) -> None:
    await store.append(KEY, a_transcript())  # type: ignore[arg-type]
    message, thread_id = table_of(persistence.models.Message), await store.thread_id(KEY)
    async with persistence.engine.begin() as connection:
        is_one = (message.c.thread_id == thread_id) & (message.c.content == "I look.")
        await connection.execute(update(message).where(is_one).values(extra={"set": 7}))

    with pytest.raises(CorruptRowError):
        await store.load(KEY)


async def test_a_cancelled_caller_waits_until_its_entries_are_written(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    await store.append(KEY, [{"type": "x"}])
    async with persistence.begin(user_id=store._user_id) as other:  # noqa: SLF001
        await other.threads.lock(await store.thread_id(KEY))
        adding = asyncio.create_task(store.append(KEY, [{"type": "y"}]))
        await until_somebody_waits_for_a_lock(persistence)
        adding.cancel()
        assert not (await asyncio.wait([adding], timeout=0.05))[0]

    with pytest.raises(asyncio.CancelledError):
        await adding
    assert await store.load(KEY) == [{"type": "x"}, {"type": "y"}]


async def test_it_is_used_from_other_event_loops(store: PersistenceSessionStore) -> None:
    await asyncio.to_thread(lambda: asyncio.run(store.append(KEY, [{"type": "x"}])))

    assert await store.load(KEY) == [{"type": "x"}]


async def test_concurrent_writers_lose_and_double_nothing(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    async def add(writer: int) -> None:
        mine = PersistenceSessionStore(persistence=persistence, user_id=store._user_id)  # noqa: SLF001
        for number in range(5):
            entry: Any = {"type": f"{writer}", "uuid": str(uuid.uuid4()), "n": number, f"tag-{writer}": number}
            await mine.append(KEY, [entry, {"type": "tag", "tag": f"{writer}"}])
            await mine.append(KEY, [entry])

    await asyncio.gather(*map(add, range(8)))

    loaded: Any = await store.load(KEY)
    for writer in range(8):
        assert [one["n"] for one in loaded if one["type"] == f"{writer}"] == list(range(5))
    assert len(loaded) == 8 * 5 * 2


async def test_concurrent_appends_are_all_in_the_summary(store: PersistenceSessionStore) -> None:
    fields = {
        "customTitle": "custom_title",
        "aiTitle": "ai_title",
        "lastPrompt": "last_prompt",
        "summary": "summary_hint",
        "gitBranch": "git_branch",
    }
    await store.append(KEY, [{"type": "x"}])

    for number in range(4):
        entries: list[Any] = [{"type": "x", name: f"{number}"} for name in fields]
        await asyncio.gather(*(store.append(KEY, [entry]) for entry in entries))

        [summary] = await store.list_session_summaries("shop")
        assert {name: summary["data"].get(name) for name in fields.values()} == dict.fromkeys(
            fields.values(), f"{number}"
        )


async def test_times_grow_with_each_append(store: PersistenceSessionStore) -> None:
    times = []
    for number in range(5):
        await store.append(KEY, [{"type": "x", "n": number}])  # type: ignore[typeddict-unknown-key]
        [listed], [summary] = await store.list_sessions("shop"), await store.list_session_summaries("shop")
        assert listed["mtime"] == summary["mtime"]
        times.append(listed["mtime"])

    assert times == sorted(set(times))


async def test_a_clock_that_was_set_back_leaves_times_growing(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    await store.append(KEY, [{"type": "x"}])
    thread_id, owner, ahead = await store.thread_id(KEY), store._user_id, 10**13  # noqa: SLF001
    meta = (await persistence.threads.require(thread_id, user_id=owner)).meta
    meta["claude"]["mtime"] = ahead
    await persistence.threads.update(thread_id, meta=meta, user_id=owner)

    await store.append(KEY, [{"type": "x"}])

    assert [one["mtime"] for one in await store.list_sessions("shop")] == [ahead + 1]


async def test_meta_of_the_application_that_looks_alike_is_no_session(
    persistence: Persistence, store: PersistenceSessionStore
) -> None:
    meta = {"claude": {"project": "shop", "session": "s-1", "subpath": None}}
    await persistence.threads.create(meta=meta, user_id=store._user_id)  # noqa: SLF001

    assert (await store.list_session_summaries("shop"), await store.list_subkeys(KEY)) == ([], [])
